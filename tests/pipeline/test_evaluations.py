"""Evaluations as evidence: what is recorded, what is taken from there, and what is computed anew."""

from __future__ import annotations

import importlib.util
import json
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ftreg import compare, evaluate
from ftreg.api.evaluation import Evaluation
from ftreg.core.errors import MissingExtra
from ftreg.core.host import PluginHost
from ftreg.core.types import NullProgress
from ftreg.data import read_scores
from ftreg.registry import Draft, EvidenceRecord, Registry
from tests.pipeline import echo
from tests.plugins.fakes import distribution
from tests.registry.kit import PRODUCER, write

Measure = Callable[..., Evaluation]


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """Open a registry with two versions for the engine ``echo`` of a distribution, and count calls from zero."""
    site = distribution(tmp_path / "site", "fake-echo", {"installed_echo": "from tests.pipeline.echo import *"})
    monkeypatch.syspath_prepend(site)
    with Registry(tmp_path / "home", host=PluginHost()) as found:
        publish_echo(found)
        yield found


def publish_echo(registry: Registry) -> None:
    """Publish bot:1 and bot:2, and forget earlier calls."""
    for content in (b"1", b"2"):
        with registry.staging() as staging:
            write(staging.files, {"model": content})
            registry.publish("bot", Draft(folder=staging.files, kind="echo", producer=PRODUCER))
    echo.CALLS.clear()


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Write eight questions with a topic."""
    path = tmp_path / "rows.jsonl"
    lines = [{"prompt": f"Where is it, {n}?", "response": f"here {n}", "topic": f"t{n % 2}"} for n in range(8)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def measure(registry: Registry, rows: Path) -> Measure:
    """Evaluate a version on the rows."""

    def run(ref: str = "bot:1", **arguments: Any) -> Evaluation:
        return evaluate(ref, rows, registry=registry, **arguments)

    return run


def records(registry: Registry, ref: str = "bot:1") -> list[EvidenceRecord]:
    """Return the evaluations on record."""
    return [record for record in registry.evidence(ref) if record.type == "evaluation"]


def test_the_same_evaluation_is_computed_once(measure: Measure, registry: Registry) -> None:
    """The second time, the figures and the answers come from the evidence, and nothing is added to it."""
    first = measure(metrics=["letters"])
    second = measure(metrics=["letters"])
    assert echo.CALLS == {"engine": 1, "metric": 1}
    assert len(records(registry)) == 1
    assert second.figures == first.figures
    assert list(second.answers) == list(first.answers)
    assert len(first.answers) == 8


def test_the_evidence_is_recorded_for_the_name_that_was_evaluated(measure: Measure, registry: Registry) -> None:
    """Of two names of one digest, the evidence is recorded for the one that was given."""
    with registry.staging() as staging:
        write(staging.files, {"model": b"1"})
        registry.publish("other", Draft(folder=staging.files, kind="echo", producer=PRODUCER))
    measure("other:1")
    assert registry.get("other:1").digest == registry.get("bot:1").digest
    assert [record.ref for record in records(registry)] == ["other:1"]


def test_answers_on_record_serve_a_new_metric(measure: Measure, registry: Registry) -> None:
    """A further metric, and other settings of one, are computed from the answers on record."""
    first = measure()
    with_letters = measure(metrics=["letters"])
    with_others = measure(metrics=["letters"], settings={"letters.letter": "r"})
    assert echo.CALLS == {"engine": 1, "metric": 2}
    assert with_letters.loss == first.loss
    assert with_letters.metrics["letters"].settings == {"letter": "e"}
    assert with_others.figures["letters"] != with_letters.figures["letters"]
    newest = records(registry)[-1]
    assert set(newest.body["metrics"]) == {"exact_match", "token_f1", "length", "letters"}
    assert len({record.body["answers"] for record in records(registry)}) == 1
    assert measure(metrics=["letters"]).figures == with_letters.figures
    assert echo.CALLS == {"engine": 1, "metric": 2}


@pytest.mark.parametrize("other", [{"limit": 3}, {"engine": "other"}, {"again": True}, {"ref": "bot:2"}])
def test_what_is_computed_anew(other: dict[str, Any], measure: Measure) -> None:
    """Another number of examples, engine or version, and ``again``, run the model again."""
    measure(metrics=["letters"])
    measure(metrics=["letters"], **other)
    assert echo.CALLS == {"engine": 2, "metric": 2}


def test_other_data_is_computed_anew(measure: Measure, registry: Registry, rows: Path, tmp_path: Path) -> None:
    """The same rows in another file are the same data; other rows are not."""
    measure()
    copy = tmp_path / "copy.jsonl"
    copy.write_text(rows.read_text())
    evaluate("bot:1", copy, registry=registry)
    assert echo.CALLS == {"engine": 1}
    copy.write_text(rows.read_text().replace("here 0", "there 0"))
    evaluate("bot:1", copy, registry=registry)
    assert echo.CALLS == {"engine": 2}


def test_another_release_computes_anew(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of another version of a package that they depend on do not count as those asked for."""
    measure(metrics=["rouge"])
    from ftreg.pipeline import metrics

    monkeypatch.setattr(metrics, "installed_versions", lambda requirements: {"rouge-score": "9"})
    result = measure(metrics=["rouge"])
    assert result.metrics["rouge"].environment["rouge-score"] == "9"
    assert echo.CALLS == {"engine": 1}


def test_the_record_says_what_the_figures_depend_on(measure: Measure, registry: Registry) -> None:
    """Data, engine, settings and packages are recorded with the figures, and the answers are a file of the evidence."""
    measure(metrics=["letters"])
    (record,) = records(registry)
    body = record.body
    assert (body["split"], body["examples"], body["answered"]) == ("all", 8, 8)
    assert body["engine"] == {"name": "echo", "environment": {"fake-echo": "1.0"}}
    assert body["metrics"]["letters"]["settings"] == {"letter": "e"}
    lines = [json.loads(line) for line in record.files["answers.jsonl"].read_text().splitlines()]
    assert [line["reference"] for line in lines] == [f"here {number}" for number in range(8)]
    assert [line["fields"] for line in lines] == [{"topic": f"t{number % 2}"} for number in range(8)]
    assert registry.verify().ok


def test_scores_of_each_answer_are_kept(measure: Measure, registry: Registry) -> None:
    """They are a file of the evidence for each metric that has them, and go with the figures into later records."""
    first = measure(metrics=["json"])
    again = measure(metrics=["json"])
    more = measure(metrics=["json", "letters"])
    files = [found.metrics["json"].examples for found in (first, again, more)]
    assert all(file is not None for file in files)
    assert [read_scores(file) for file in files if file] == [{"valid": array("d", [0.0] * 8)}] * 3
    assert more.metrics["letters"].examples is None
    assert "scores/json.jsonl" in records(registry)[-1].files
    assert first.costs == more.costs
    assert set(first.costs) == {"answer_tokens_per_second", "peak_rss_bytes"}


def test_what_is_said_about_it(measure: Measure) -> None:
    """It is said that figures on record are shown, and that only a new metric is computed."""
    said: list[str] = []

    class Log(NullProgress):
        def say(self, message: str) -> None:
            said.append(message)

    measure()
    measure(progress=Log())
    assert "figures on record are shown" in said[-1]
    measure(metrics=["letters"], progress=Log())
    assert "only the new metrics are computed" in said[-1]


def test_a_metric_that_failed_is_tried_again(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure is recorded, and is not taken for a figure."""

    def broken(job: object) -> float:
        raise ValueError("no")

    with monkeypatch.context() as patched:
        patched.setattr(echo, "letters", broken)
        failed = measure(metrics=["letters"])
    assert "letters raised ValueError: no" in failed.failed_metrics["letters"]
    mended = measure(metrics=["letters"])
    assert mended.failed_metrics == {}
    assert mended.figures["letters"] > 0
    assert echo.CALLS["engine"] == 1


def test_plain_text(registry: Registry, tmp_path: Path) -> None:
    """Text has a loss and no metrics; one that is named has a reason for that."""
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "Once upon a time"}\n')
    for _ in range(2):
        found = evaluate("bot:1", path, metrics=["letters"], registry=registry)
        assert found.figures.keys() == {"loss", "perplexity", "token_accuracy"}
        assert found.failed_metrics == {"letters": "no example has a prompt to answer"}
    assert echo.CALLS == {"engine": 1}


def test_a_comparison_uses_what_is_on_record(measure: Measure, registry: Registry, rows: Path) -> None:
    """Of two versions, only the one that has no record is measured."""
    measure("bot:1")
    found = compare(["bot:1", "bot:2"], rows, registry=registry)
    assert echo.CALLS == {"engine": 2}
    (example,) = found.telling_examples(1)
    assert example.answers.keys() == {"bot:1", "bot:2"}


def test_a_plugin_of_this_process_is_called_each_time(tmp_path: Path, rows: Path) -> None:
    """A plugin without a version may have changed, so nothing of it is taken from the evidence."""
    host = PluginHost(only=())
    assert host.register(echo).state == "active"
    with Registry(tmp_path / "home", host=host) as registry:
        publish_echo(registry)
        for _ in range(2):
            evaluate("bot:1", rows, metrics=["letters"], registry=registry)
    assert echo.CALLS == {"engine": 2, "metric": 2}


def test_a_metric_without_its_package(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that a metric needs is asked for before any work, with the command that installs it."""
    installed = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "rouge_score" else installed(name, *rest)
    )
    with pytest.raises(MissingExtra, match=r"pip install 'ftreg\[rouge\]'"):
        measure(metrics=["rouge"])
    assert echo.CALLS == {}
