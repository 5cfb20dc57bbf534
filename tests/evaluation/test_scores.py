"""Scores from a file: matched row by row, with an error that names the row that cannot be used."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from ftreg.core.errors import DataError, RecipeError
from ftreg.core.host import PluginHost
from ftreg.core.types import AnsweredPrompt
from ftreg.pipeline.metrics import MetricCall, choose_metrics, compute

HOST = PluginHost(only=())
ANSWERS = [
    AnsweredPrompt("q", "yes", answer, fields={"id": f"a{n}"}) for n, answer in enumerate(("yes", "no", "may be"))
]


def call(path: Path, rows: list[dict[str, Any]] | str, **settings: Any) -> MetricCall:
    """Write the scores into a file, and configure the metric."""
    path.write_text(rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows))
    given = {"scores.file": str(path), **{f"scores.{key}": value for key, value in settings.items()}}
    return choose_metrics(HOST, ["scores"], given)[-1]


def test_rows_are_matched_by_the_number_of_the_example(tmp_path: Path) -> None:
    """Without a key, rows name examples by their number from 1; each column is a criterion; CSV is read too."""
    found = compute(HOST, call(tmp_path / "s.csv", "example,relevance,accuracy\n2,1,0.5\n1,3,1\n3,5,0\n"), ANSWERS)
    assert found["figures"] == {"relevance": 3.0, "accuracy": 0.5}
    assert list(found["examples"]["relevance"]) == [3.0, 1.0, 5.0]
    assert found["tables"][0]["rows"] == [["relevance", 3, 3, 1.0, 5.0], ["accuracy", 3, 3, 0.0, 1.0]]


def test_rows_are_matched_by_a_column_of_the_data(tmp_path: Path) -> None:
    """A key that the data has too; only the named criteria are read; several ratings of an answer are averaged."""
    rows = [{"id": f"a{n % 3}", "relevance": n, "by": "somebody"} for n in range(6)]
    found = compute(HOST, call(tmp_path / "s.jsonl", rows, key="id", criteria=["relevance"]), ANSWERS)
    assert list(found["examples"]["relevance"]) == [1.5, 2.5, 3.5]


def test_scores_belong_to_an_answer(tmp_path: Path) -> None:
    """With a column answer, a row counts for that answer alone, so that one file serves several versions."""
    rows = [{"example": n, "answer": answer, "ok": ok} for n in (1, 2, 3) for answer, ok in (("yes", 1), ("no", 0))]
    found = compute(HOST, call(tmp_path / "s.jsonl", rows, partial=True), ANSWERS)
    assert list(found["examples"]["ok"])[:2] == [1.0, 0.0]
    assert math.isnan(found["examples"]["ok"][2])
    with pytest.raises(DataError, match=r"not the version's answer to example 3 \(example '3'\)") as caught:
        compute(HOST, call(tmp_path / "s.jsonl", rows), ANSWERS)
    assert str(caught.value.where).endswith("s.jsonl:5")


FULL = [{"example": n, "ok": 1} for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("rows", "settings", "said", "where"),
    [
        (FULL[:2], {}, "example 3 .* has no row", "s.jsonl"),
        ([*FULL, {"example": 4, "ok": 1}], {}, "no example has example '4'", "s.jsonl:4"),
        ([*FULL[:2], {"example": 3, "ok": "good"}], {}, "ok is 'good', which is not a number", "s.jsonl:3"),
        ([*FULL[:2], {"example": 3, "ok": True}], {}, "ok is True", "s.jsonl:3"),
        ([*FULL[:2], {"example": 3}], {}, "ok is None", "s.jsonl:3"),
        ([{"ok": 1}], {}, "example is missing", "s.jsonl:1"),
        ([{"example": 1}], {}, "no column with scores", "s.jsonl:1"),
        ('{"example": 1, "ok": 1}\n{', {}, "is not JSON", "s.jsonl:2"),
        ([{"id": "x", "ok": 1}], {"key": "name"}, "name is missing", "s.jsonl:1"),
        ([{"name": "x", "ok": 1}], {"key": "name"}, "example 1 has no column 'name'", None),
        ([{"id": "z", "ok": 1}], {"key": "id", "partial": True}, "no example has id 'z'", "s.jsonl:1"),
        ([{**FULL[0], "answer": "x"}], {"partial": True}, "no row scores an answer", "s.jsonl"),
    ],
)
def test_rows_that_cannot_be_used(
    rows: list[dict[str, Any]] | str, settings: dict[str, Any], said: str, where: str | None, tmp_path: Path
) -> None:
    """Each is named with its line, and nothing is computed from the others."""
    with pytest.raises(DataError, match=said) as caught:
        compute(HOST, call(tmp_path / "s.jsonl", rows, **settings), ANSWERS)
    assert where is None or str(caught.value.where).endswith(where)


def test_the_file_is_recorded_by_its_content(tmp_path: Path) -> None:
    """The same scores in another file are the same settings, others in the same file are not; no file is an error."""
    keys = [call(tmp_path / name, FULL).key for name in ("a.jsonl", "b.jsonl")]
    assert keys[0] == keys[1]
    assert call(tmp_path / "a.jsonl", FULL[:1]).key != keys[0]
    assert keys[0]["settings"]["file"].startswith("b3:")
    with pytest.raises(RecipeError, match="is not a file"):
        choose_metrics(HOST, ["scores"], {"scores.file": str(tmp_path / "none.csv")})
