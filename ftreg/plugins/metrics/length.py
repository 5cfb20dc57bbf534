"""Lengths: how long prompts, references and answers are, in tokens."""

from __future__ import annotations

from array import array
from collections import Counter
from itertools import accumulate

from ftreg.plugin import MetricJob, Scores, Table

_SHARES = (0.0, 0.5, 0.95, 1.0)


def length(job: MetricJob) -> Scores:
    """Return the mean length of an answer, its ratio to that of a reference, and the share of answers that were cut."""
    counts: dict[str, Counter[int]] = {"prompt": Counter(), "reference": Counter(), "answer": Counter()}
    lengths, cut = array("d"), array("d")
    for one in job.answers:
        counts["prompt"][one.prompt_tokens] += 1
        counts["reference"][one.reference_tokens] += 1
        counts["answer"][one.answer_tokens] += 1
        lengths.append(one.answer_tokens)
        cut.append(one.cut)
    expected = _mean(counts["reference"])
    ratio = {"ratio": _mean(counts["answer"]) / expected} if expected else {}
    rows = [[name, _mean(found), *(_quantile(found, share) for share in _SHARES)] for name, found in counts.items()]
    table = Table("tokens", ["", "mean", "shortest", "median", "95 %", "longest"], rows)
    return Scores.of_examples({"mean": lengths, "cut": cut}, [table], **ratio)


def _mean(counts: Counter[int]) -> float:
    return sum(length * number for length, number in counts.items()) / counts.total()


def _quantile(counts: Counter[int], share: float) -> int:
    """Return the smallest length that at least ``share`` of all do not exceed."""
    lengths = sorted(counts)
    upto = accumulate(counts[length] for length in lengths)
    return next(length for length, number in zip(lengths, upto, strict=True) if number >= share * counts.total())
