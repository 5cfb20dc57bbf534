"""Metrics that compare the words of answers with those of references."""

from __future__ import annotations

import re
from array import array
from collections import Counter

from ftreg.plugin import MetricJob, Scores


def exact_match(job: MetricJob) -> Scores:
    """Return the share of answers that equal their reference, not counting differences in white space."""
    return Scores.of_examples({"exact_match": array("d", (answer.as_expected for answer in job.answers))})


def token_f1(job: MetricJob) -> Scores:
    """Return the mean F1 of the words that answer and reference share.

    Words are compared in lower case and without punctuation and the articles a, an, the, as in SQuAD (Rajpurkar et al.,
    2016, https://arxiv.org/abs/1606.05250). Two empty texts agree.
    """
    scores = (_f1(_words(one.answer), _words(one.reference)) for one in job.answers)
    return Scores.of_examples({"token_f1": array("d", scores)})


def _words(text: str) -> list[str]:
    """Split a text into words, normalized as in SQuAD."""
    return [word for word in re.sub(r"[^\w\s]", "", text.lower()).split() if word not in ("a", "an", "the")]


def _f1(answer: list[str], reference: list[str]) -> float:
    """Return the F1 of two bags of words: ``2 * shared / (words of both)``."""
    if not answer and not reference:
        return 1.0
    shared = sum((Counter(answer) & Counter(reference)).values())
    return 2 * shared / (len(answer) + len(reference))
