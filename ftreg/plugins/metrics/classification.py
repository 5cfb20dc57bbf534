"""Classification: how often answers that are labels are right, and which labels are confused."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from typing import cast

from ftreg.core.manifest import Json
from ftreg.plugin import AnsweredPrompt, InputError, MetricJob, Scores, Table
from ftreg.plugins.metrics.json_answers import NotJson, parse
from ftreg.plugins.metrics.settings import ClassificationConfig

_MOST_LABELS = 100
_OTHER = "(other)"

Pairs = Counter[tuple[str, str]]


def classification(job: MetricJob) -> Scores:
    """Return accuracy and macro F1, with precision, recall and F1 of each label, and the confusion matrix.

    Labels are compared without regard to case and white space. An answer that is none of them is wrong. Macro F1 is the
    mean of the labels' F1; as in scikit-learn, a figure whose denominator is 0 is 0.

    Raises:
        InputError: The references are no labels: there are too many different ones, or an example has none.
    """
    config = cast(ClassificationConfig, job.config)
    labels = {_folded(label): label for label in config.labels} or _labels(job, config)
    pairs: Pairs = Counter()
    right = array("d")
    for one in job.answers:
        expected, found = labels.get(_folded(_expected(one, config))), _folded(_value(one.answer, config.field))
        if expected is None:
            raise InputError(f"the expected label {_expected(one, config)!r} is not among the labels", where="labels")
        pairs[expected, labels.get(found, _OTHER)] += 1
        right.append(labels.get(found) == expected)
    names = list(labels.values())
    rows = [_scores(pairs, label) for label in names]
    macro = sum(cast(float, row[-2]) for row in rows) / len(rows)
    others = [_OTHER] if any(found == _OTHER for _, found in pairs) else []
    matrix = [[expected, *(pairs[expected, found] for found in (*names, *others))] for expected in names]
    return Scores.of_examples(
        {"accuracy": right},
        [
            Table("labels", ["label", "precision", "recall", "f1", "examples"], rows),
            Table("confusion matrix", ["expected / answered", *names, *others], matrix),
        ],
        macro_f1=macro,
    )


def _labels(job: MetricJob, config: ClassificationConfig) -> dict[str, str]:
    """Return the labels of the references, sorted, by their folded form."""
    found: dict[str, str] = {}
    for one in job.answers:
        label = _expected(one, config)
        found.setdefault(_folded(label), label)
        if len(found) > _MOST_LABELS:
            raise InputError(
                f"there are more than {_MOST_LABELS} different references, so they are no labels",
                hint="Name the column or the JSON field that holds the label: classification.column, .field",
            )
    return dict(sorted(found.items()))


def _expected(one: AnsweredPrompt, config: ClassificationConfig) -> str:
    """Return the expected label of an example; raise ``InputError`` if it has none."""
    if config.column is None:
        label = _value(one.reference, config.field)
        place = f"field {config.field!r} of the reference {one.reference!r}"
    else:
        label = _text(one.fields.get(config.column))
        place = f"column {config.column!r}"
    if not label.strip():
        raise InputError(f"an example has no label: {place} is missing or empty")
    return label


def _value(text: str, field: str | None) -> str:
    """Return the label in an answer or a reference; empty if there is none."""
    if field is None:
        return text.strip()
    try:
        value = parse(text)
    except NotJson:
        return ""
    return _text(value.get(field)) if isinstance(value, dict) else ""


def _text(value: Json) -> str:
    """Return a label as text: numbers and truth values may be labels, lists and objects may not."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, str | int | float) else ""


def _folded(label: str) -> str:
    return " ".join(label.split()).casefold()


def _scores(pairs: Pairs, label: str) -> Sequence[Json]:
    """Return the row of a label: precision, recall, F1, and its number of examples."""
    right = pairs[label, label]
    answered = sum(number for (_, found), number in pairs.items() if found == label)
    examples = sum(number for (expected, _), number in pairs.items() if expected == label)
    f1 = 2 * right / (answered + examples) if answered + examples else 0.0
    return [label, right / answered if answered else 0.0, right / examples if examples else 0.0, f1, examples]
