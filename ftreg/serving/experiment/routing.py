"""Routing: assigns keys to variants by weight; a change of weights moves as few keys as possible."""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby, repeat

from ftreg.core.errors import InputError

BUCKETS = 10_000


def bucket(salt: str, experiment: str, key: str) -> int:
    """Return the bucket of a key: SHA-256 of salt, experiment and key, modulo ``BUCKETS``.

    docs/experiments.md has test vectors.
    """
    return int(hashlib.sha256((salt + experiment + key).encode("utf-8")).hexdigest(), 16) % BUCKETS


@dataclass(frozen=True)
class Allocation:
    """The variant that owns each bucket.

    Attributes:
        epoch: Number of the allocation, from 1; each change of weights adds 1.
        weights: The weights as they were given, by reference.
        runs: ``(end, ref)``, ascending: ``ref`` owns the buckets from the end of the run before to ``end - 1``.
    """

    epoch: int
    weights: Mapping[str, float]
    runs: tuple[tuple[int, str], ...]

    @classmethod
    def of(cls, weights: Mapping[str, float]) -> Allocation:
        """Return the first allocation; raise ``InputError`` if a weight is negative or not a number, or all are 0."""
        counts = _counts(weights)
        return cls(1, dict(weights), _runs(ref for ref, count in counts.items() for _ in range(count)))

    def change(self, weights: Mapping[str, float]) -> Allocation:
        """Return the next allocation, which moves as few buckets as the new shares allow.

        A variant that shrinks keeps its first buckets; the others go to the variants that grow.
        """
        wanted = _counts(weights)
        kept: list[str | None] = []
        for ref in self._owners():
            stays = wanted.get(ref, 0) > 0
            kept.append(ref if stays else None)
            if stays:
                wanted[ref] -= 1
        growing = (ref for ref, count in wanted.items() for _ in range(count))
        return Allocation(self.epoch + 1, dict(weights), _runs(ref or next(growing) for ref in kept))

    def ref(self, bucket: int) -> str:
        """Return the variant that owns ``bucket``."""
        return self.runs[bisect_right(self.runs, bucket, key=lambda run: run[0])][1]

    @property
    def shares(self) -> dict[str, float]:
        """The share of the buckets that each variant owns, by reference."""
        counts = dict.fromkeys(self.weights, 0)
        for start, end, ref in self._spans():
            counts[ref] += end - start
        return {ref: count / BUCKETS for ref, count in counts.items()}

    def _owners(self) -> Iterator[str]:
        """Yield the owner of bucket 0, 1, ..."""
        for start, end, ref in self._spans():
            yield from repeat(ref, end - start)

    def _spans(self) -> Iterator[tuple[int, int, str]]:
        """Yield each run as its first bucket, the bucket after its last, and its owner."""
        start = 0
        for end, ref in self.runs:
            yield start, end, ref
            start = end


def _counts(weights: Mapping[str, float]) -> dict[str, int]:
    """Return how many buckets each variant gets: by largest remainder, ties to the variant named first.

    Computed in exact fractions, so that the same weights give the same buckets on every machine.
    """
    exact = {ref: _fraction(ref, weight) for ref, weight in weights.items()}
    total = sum(exact.values())
    if not total:
        raise InputError("all weights are 0", hint="Give at least one variant a weight above 0.")
    quotas = {ref: weight / total * BUCKETS for ref, weight in exact.items()}
    counts = {ref: int(quota) for ref, quota in quotas.items()}
    by_remainder = sorted(quotas, key=lambda ref: counts[ref] - quotas[ref])
    for ref in by_remainder[: BUCKETS - sum(counts.values())]:
        counts[ref] += 1
    return counts


def _fraction(ref: str, weight: float) -> Fraction:
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight) or weight < 0:
        raise InputError(
            f"{weight!r} cannot be a weight",
            where=ref,
            hint="A weight is a number from 0 up; 3 and 1 mean 75 % and 25 %.",
        )
    return Fraction(weight)


def _runs(owners: Iterable[str]) -> tuple[tuple[int, str], ...]:
    """Return the runs of the buckets' owners."""
    runs: list[tuple[int, str]] = []
    end = 0
    for ref, group in groupby(owners):
        end += sum(1 for _ in group)
        runs.append((end, ref))
    return tuple(runs)
