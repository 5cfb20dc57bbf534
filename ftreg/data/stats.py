"""Statistics: how many rows a data file has, how long they are, and how they would be split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from ftreg.core.types import Example

_BINS = 10


@dataclass(frozen=True)
class Lengths:
    """The distribution of lengths; percentiles are lengths that occur (nearest rank).

    Attributes:
        histogram: For each of at most ten equally wide ranges: lower end and upper end (both inclusive), and the count.
    """

    minimum: int
    median: int
    mean: float
    p90: int
    p99: int
    maximum: int
    total: int
    histogram: tuple[tuple[int, int, int], ...]


def measure(lengths: Sequence[int]) -> Lengths:
    """Return the distribution of ``lengths``, of which there must be at least one."""
    ordered = sorted(lengths)

    def percentile(percent: int) -> int:
        return ordered[max(0, -(-percent * len(ordered) // 100) - 1)]

    return Lengths(
        minimum=ordered[0],
        median=percentile(50),
        mean=fmean(ordered),
        p90=percentile(90),
        p99=percentile(99),
        maximum=ordered[-1],
        total=sum(ordered),
        histogram=_histogram(ordered),
    )


def characters(example: Example) -> int:
    """Return the number of characters in an example's text, or in all of its turns."""
    return len(example.text) if example.text is not None else sum(len(turn.content) for turn in example.messages)


def _histogram(ordered: Sequence[int]) -> tuple[tuple[int, int, int], ...]:
    low, high = ordered[0], ordered[-1]
    width = max(1, -(-(high - low + 1) // _BINS))
    counts = [0] * (-(-(high - low + 1) // width))
    for length in ordered:
        counts[(length - low) // width] += 1
    return tuple((low + width * step, low + width * (step + 1) - 1, count) for step, count in enumerate(counts))
