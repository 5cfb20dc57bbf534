"""Metrics that compare the text of answers with that of references; each needs as many answers as references."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence


def exact_match(answers: Sequence[str], references: Sequence[str]) -> float:
    """Return the share of answers that equal their reference, not counting differences in white space."""
    pairs = list(zip(answers, references, strict=True))
    return sum(a.split() == b.split() for a, b in pairs) / len(pairs) if pairs else 0.0


def token_f1(answers: Sequence[str], references: Sequence[str]) -> float:
    """Return the mean F1 of the words that answer and reference share.

    Words are compared in lower case and without punctuation and the articles a, an, the, as in SQuAD (Rajpurkar et al.,
    2016, https://arxiv.org/abs/1606.05250). Two empty texts agree.
    """
    scores = [_f1(_words(a), _words(b)) for a, b in zip(answers, references, strict=True)]
    return sum(scores) / len(scores) if scores else 0.0


def _words(text: str) -> list[str]:
    """Split a text into words, normalized as in SQuAD."""
    return [word for word in re.sub(r"[^\w\s]", "", text.lower()).split() if word not in ("a", "an", "the")]


def _f1(answer: list[str], reference: list[str]) -> float:
    """Return the F1 of two bags of words: ``2 * shared / (words of both)``."""
    if not answer and not reference:
        return 1.0
    shared = sum((Counter(answer) & Counter(reference)).values())
    return 2 * shared / (len(answer) + len(reference))
