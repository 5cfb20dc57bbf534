"""The built-in metrics: figures by hand, against the reference implementations, and in flat memory."""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ftreg.core.errors import FtregError, InputError, RecipeError
from ftreg.core.host import PluginHost
from ftreg.core.specs import MetricSpec
from ftreg.core.types import AnsweredPrompt
from ftreg.pipeline.metrics import choose_metrics, compute
from tests.evaluation.helpers import peak

HOST = PluginHost(only=())


def score(name: str, answers: Collection[AnsweredPrompt], **settings: Any) -> dict[str, Any]:
    """Compute a metric; return its figures, and its tables by title."""
    calls = choose_metrics(HOST, [name], {f"{name}.{key}": value for key, value in settings.items()})
    (call,) = [call for call in calls if call.spec.name == name]
    found = compute(HOST, call, answers)
    return found["figures"] | {table["title"]: table["rows"] for table in found["tables"]}


def pairs(*texts: tuple[str, str]) -> list[AnsweredPrompt]:
    """Answers with their references."""
    return [AnsweredPrompt("?", reference, answer) for answer, reference in texts]


def words(seed: int, count: int) -> list[AnsweredPrompt]:
    """Sentences of a few words, and answers that share some of them."""
    source = random.Random(seed)
    vocabulary = ["the", "cat", "sat", "on", "mat,", "Dogs", "don't", "bark", "at", "3.14", "moons;", "naïve", "café"]

    def sentence() -> str:
        return " ".join(source.choices(vocabulary, k=source.randrange(0, 12)))

    return pairs(*((sentence(), sentence()) for _ in range(count)))


@pytest.mark.parametrize(
    ("answer", "reference", "exact", "f1"),
    [
        ("Under Billing.", "Under Billing.", 1, 1.0),
        ("  Under\nBilling. ", "Under Billing.", 1, 1.0),
        ("under billing", "Under Billing.", 0, 1.0),
        ("Under the Billing", "Under Billing", 0, 1.0),
        ("Under", "Under Billing", 0, 2 / 3),
        ("no no yes", "no", 0, 0.5),
        ("", "Under", 0, 0.0),
        ("", "", 1, 1.0),
    ],
)
def test_words(answer: str, reference: str, exact: int, f1: float) -> None:
    """Exact match ignores white space only; F1 compares bags of words; both are means over the answers."""
    both = pairs((answer, reference), ("x", "y"))
    assert score("exact_match", both) == {"exact_match": exact / 2}
    assert score("token_f1", both)["token_f1"] == pytest.approx(f1 / 2)


def test_the_score_of_each_answer() -> None:
    """A figure that is a mean over the answers comes with their scores."""
    both = pairs(("a b", "a b"), ("b", "a b"))
    (call,) = [call for call in choose_metrics(HOST, [], {}) if call.spec.name == "token_f1"]
    found = compute(HOST, call, both)
    assert list(found["examples"]["token_f1"]) == [1.0, 1.0]
    words_of = pairs(("b c", "b c"), ("b", "b c"))
    assert list(compute(HOST, call, words_of)["examples"]["token_f1"]) == [1.0, pytest.approx(2 / 3)]


def test_lengths() -> None:
    """Means, quantiles and the share of answers that were cut, in tokens."""
    lengths = [(10, 4, 1), (10, 4, 2), (10, 4, 3), (30, 4, 10)]
    answers = [
        AnsweredPrompt("", "", "", prompt_tokens=p, reference_tokens=r, answer_tokens=a, cut=a == 10)
        for p, r, a in lengths
    ]
    found = score("length", answers)
    assert (found["mean"], found["ratio"], found["cut"]) == (4.0, 1.0, 0.25)
    assert found["tokens"] == [
        ["prompt", 15.0, 10, 10, 30, 30],
        ["reference", 4.0, 4, 4, 4, 4],
        ["answer", 4.0, 1, 2, 10, 10],
    ]


def test_lengths_without_references() -> None:
    """If all references are empty, there is no ratio to them."""
    assert "ratio" not in score("length", pairs(("a", "")))


@pytest.mark.parametrize("settings", [{}, {"lowercase": True}, {"tokenize": "intl"}, {"tokenize": "char"}])
def test_bleu_is_that_of_sacrebleu(settings: dict[str, Any]) -> None:
    """Over more segments than are held at a time, BLEU is what sacrebleu computes over all at once."""
    from sacrebleu.metrics import BLEU

    answers = words(1, 450)
    expected = BLEU(**settings).corpus_score([one.answer for one in answers], [[one.reference for one in answers]])
    assert score("bleu", answers, **settings)["bleu"] == pytest.approx(expected.score, abs=1e-9)
    assert 0 < expected.score < 100


@pytest.mark.parametrize("settings", [{}, {"word_order": 2}, {"lowercase": True}])
def test_chrf_is_that_of_sacrebleu(settings: dict[str, Any]) -> None:
    """Over more segments than are held at a time, chrF is what sacrebleu computes over all at once."""
    from sacrebleu.metrics import CHRF

    answers = words(2, 450)
    expected = CHRF(**settings).corpus_score([one.answer for one in answers], [[one.reference for one in answers]])
    assert score("chrf", answers, **settings)["chrf"] == pytest.approx(expected.score, abs=1e-9)


def test_rouge() -> None:
    """ROUGE-1, ROUGE-2 and ROUGE-L of a sentence by hand, and stems if they are asked for."""
    answers = pairs(("the cat was found under the bed", "the cat was under the bed"))
    found = score("rouge", answers)
    assert found["rouge1"] == pytest.approx(2 * 6 / (7 + 6))
    assert found["rouge2"] == pytest.approx(2 * 4 / (6 + 5))
    assert found["rougeL"] == pytest.approx(2 * 6 / (7 + 6))
    stems = pairs(("running quickly", "runs quickly"))
    assert score("rouge", stems)["rouge1"] == 0.5
    assert score("rouge", stems, stemmer=True)["rouge1"] == 1.0


def test_classification() -> None:
    """Accuracy, macro F1, each label's precision and recall, and the confusion matrix, by hand."""
    answers = pairs(
        ("cat", "cat"), ("Cat ", "cat"), ("dog", "cat"), ("dog", "dog"), ("a bird?", "dog"), ("fish", "fish")
    )
    found = score("classification", answers)
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["labels"] == [
        ["cat", 1.0, pytest.approx(2 / 3), pytest.approx(0.8), 3],
        ["dog", 0.5, 0.5, 0.5, 2],
        ["fish", 1.0, 1.0, 1.0, 1],
    ]
    assert found["macro_f1"] == pytest.approx((0.8 + 0.5 + 1.0) / 3)
    assert found["confusion matrix"] == [["cat", 2, 1, 0, 0], ["dog", 0, 1, 0, 1], ["fish", 0, 0, 1, 0]]


def test_where_labels_may_be() -> None:
    """A label may be a field of a JSON answer, and the expected one a column of the data; labels may be given."""
    answers = [
        AnsweredPrompt("", "", '{"intent": "refund"}', fields={"topic": "refund"}),
        AnsweredPrompt("", "", "refund", fields={"topic": "refund"}),
        AnsweredPrompt("", "", '{"intent": true}', fields={"topic": True}),
    ]
    found = score("classification", answers, field="intent", column="topic", labels=["refund", "true", "greeting"])
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert [row[0] for row in found["labels"]] == ["refund", "true", "greeting"]
    assert found["labels"][2][3] == 0.0
    same = score("classification", pairs(('{"a": 1}', '{"a": 1, "b": 2}')), field="a")
    assert same["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("answers", "settings", "said"),
    [
        (pairs(*((f"a{n}", f"a{n}") for n in range(101))), {}, "more than 100 different references"),
        (pairs(("a", " ")), {}, "has no label"),
        (pairs(("a", "a")), {"column": "topic"}, "column 'topic' is missing or empty"),
        (pairs(("a", "b")), {"labels": ["a"]}, "'b' is not among the labels"),
    ],
)
def test_references_that_are_not_labels(answers: list[AnsweredPrompt], settings: dict[str, Any], said: str) -> None:
    """What cannot be a label is an error that says so."""
    with pytest.raises(InputError, match=said):
        score("classification", answers, **settings)


SCHEMA = {"type": "object", "properties": {"price": {"type": "number"}}, "required": ["price"]}


def test_json() -> None:
    """All of an answer has to be strict JSON, and to match the schema if there is one."""
    texts = ['{"price": 3}', '{"price": "3"}', " [1] \n", "```json\n{}\n```", '{"price": NaN}', "", "[" * 100_000]
    answers = pairs(*((text, "") for text in texts))
    assert score("json", answers) == {"valid": pytest.approx(3 / 7)}
    found = score("json", answers, schema=SCHEMA)
    assert found == {"valid": pytest.approx(3 / 7), "schema_match": pytest.approx(1 / 7)}


def test_a_schema_is_recorded_by_its_content(tmp_path: Path) -> None:
    """A schema may be a file, and what the figures depend on is its content."""
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    calls = [
        choose_metrics(HOST, ["json"], {"json.schema": given})[-1] for given in (str(tmp_path / "schema.json"), SCHEMA)
    ]
    assert calls[0].key == calls[1].key
    assert calls[0].key["settings"] == {"schema": SCHEMA}


@pytest.mark.parametrize(
    ("given", "said"),
    [("missing.json", "cannot be read as JSON"), ({"type": "objct"}, "not a JSON Schema"), (3, "must be a mapping")],
)
def test_a_bad_schema_is_refused_before_any_work(given: Any, said: str) -> None:
    """A schema that cannot be read, or is none, is an error of the settings."""
    with pytest.raises(RecipeError, match=said) as caught:
        choose_metrics(HOST, ["json"], {"json.schema": given})
    assert caught.value.where == "json.schema"


def test_a_schema_fetches_nothing() -> None:
    """A schema that refers to another document is an error, and nothing is fetched."""
    with pytest.raises(FtregError, match=r"refers to https://example\.org/other"):
        score("json", pairs(("{}", "")), schema={"$ref": "https://example.org/other"})


@pytest.mark.parametrize(
    ("names", "settings", "said"),
    [
        (["rogue"], {}, "no metric named 'rogue'"),
        ([], {"rouge.stemmer": True}, "settings for rouge, which is not computed"),
        ([], {"stemmer": True}, "no metric named 'stemmer'"),
        (["rouge"], {"rouge": True}, "rouge is a metric, not a setting"),
        (["rouge"], {"rouge.stemer": True}, "unknown key 'stemer'"),
        (["json"], {"json.shema": "x"}, "unknown key 'shema'"),
    ],
)
def test_what_is_not_a_metric_or_a_setting(names: list[str], settings: dict[str, Any], said: str) -> None:
    """Unknown metrics and settings are errors with the nearest names."""
    with pytest.raises(InputError, match=said) as caught:
        choose_metrics(HOST, names, settings)
    assert caught.value.hint


@dataclass(frozen=True)
class Many(Collection[AnsweredPrompt]):
    """Many different answers, made when they are iterated over."""

    count: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[AnsweredPrompt]:
        for number in range(self.count):
            label = f"label {number % 50}"
            yield AnsweredPrompt(
                "?", label, f"{number} is {number**2}", answer_tokens=number % 500, fields={"n": number}
            )

    def __contains__(self, answer: object) -> bool:
        raise NotImplementedError


@pytest.mark.parametrize("name", [spec.name for spec in HOST.specs(MetricSpec) if spec.name not in ("judge", "scores")])
def test_memory_does_not_grow_with_the_texts(name: str) -> None:
    """A further answer takes 8 bytes for each of at most three figures, and their growth, whichever the metric."""
    score(name, Many(1000))  # fills caches
    few, many = (peak(lambda count=count: score(name, Many(count))) for count in (1000, 5000))
    assert many < 1.2 * few + 20_000 + 4000 * 3 * 8 * 2
