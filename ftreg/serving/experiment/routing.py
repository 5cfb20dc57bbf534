"""Routing: assigns keys to variants by weight; a change of weights moves as few keys as possible."""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate

from ftreg.core.errors import InputError

BUCKETS = 10_000


def bucket(salt: str, experiment: str, key: str) -> int:
    """Return the bucket of a key: SHA-256 of salt, experiment and key with zero bytes between, modulo ``BUCKETS``.

    Neither a salt nor an experiment holds a zero byte, so different triples are never hashed as the same bytes.
    docs/experiments.md has test vectors.
    """
    return int(hashlib.sha256("\0".join((salt, experiment, key)).encode("utf-8")).hexdigest(), 16) % BUCKETS


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
        return cls(1, dict(weights), _runs(zip(accumulate(counts.values()), counts, strict=True)))

    def change(self, weights: Mapping[str, float], before: Iterable[Allocation] = ()) -> Allocation:
        """Return the next allocation, which moves as few buckets as the new shares allow.

        A variant that shrinks gives up the buckets that it got last: first to earlier owners that grow, then to any
        variant that grows. Changes that are taken back, in one step or in several, therefore return every bucket.

        Args:
            weights: The weights by reference; a variant that is not named loses all its buckets.
            before: All allocations before this one, oldest first.

        Raises:
            InputError: A weight is negative or not a number, or all are 0.
        """
        pieces = _reassign([*before, self], _counts(weights))
        return Allocation(self.epoch + 1, dict(weights), _runs((piece.end, piece.owner) for piece in pieces))

    def ref(self, bucket: int) -> str:
        """Return the variant that owns ``bucket``."""
        return self.runs[bisect_right(self.runs, bucket, key=lambda run: run[0])][1]

    @property
    def shares(self) -> dict[str, float]:
        """The share of the buckets that each variant owns, by reference."""
        counts = dict.fromkeys(self.weights, 0)
        start = 0
        for end, ref in self.runs:
            counts[ref] += end - start
            start = end
        return {ref: count / BUCKETS for ref, count in counts.items()}


@dataclass(frozen=True)
class _Piece:
    """Buckets that have had the same owners all along.

    Attributes:
        start: The first of them.
        end: The bucket after the last of them.
        owner: Their owner.
        earlier: The owners before, the last one first.
        moves: The changes that moved them, by number from 1, oldest first.
    """

    start: int
    end: int
    owner: str
    earlier: tuple[str, ...] = ()
    moves: tuple[int, ...] = ()

    @property
    def turn(self) -> tuple[int, ...]:
        """The sort key of the order in which buckets are given up.

        What a variant got last, it gives up first. What it got in one change, it gives up in the opposite of the order
        in which that was given up then; what it had from the start, from the last bucket on.
        """
        order = [*reversed(self.moves), 0, -self.start]
        return tuple(value if place % 2 else -value for place, value in enumerate(order))

    def split(self, count: int, taker: str) -> tuple[_Piece, _Piece]:
        """Return ``count`` buckets, which go to ``taker``, and those that stay."""
        if len(self.moves) % 2:
            middle = self.start + count
            return _Piece(self.start, middle, taker), replace(self, start=middle)
        middle = self.end - count
        return _Piece(middle, self.end, taker), replace(self, end=middle)


def _reassign(allocations: Iterable[Allocation], counts: Mapping[str, int]) -> list[_Piece]:
    """Return the pieces after a change to ``counts`` buckets for each variant, given all allocations so far."""
    pieces = sorted(_pieces(allocations), key=lambda piece: piece.turn)
    lacking = Counter(counts)
    for piece in pieces:
        lacking[piece.owner] -= piece.end - piece.start
    for only_earlier in (True, False):
        pieces = [part for piece in pieces for part in _give(piece, piece.earlier if only_earlier else counts, lacking)]
    return sorted(pieces, key=lambda piece: piece.end)


def _give(piece: _Piece, takers: Iterable[str], lacking: Counter[str]) -> Iterator[_Piece]:
    """Yield a piece in parts: what its owner has too many of goes to those of ``takers`` that lack some."""
    for taker in takers:
        count = min(piece.end - piece.start, -lacking[piece.owner], lacking[taker])
        if count > 0:
            lacking[piece.owner] += count
            lacking[taker] -= count
            given, piece = piece.split(count, taker)
            yield given
    if piece.start < piece.end:
        yield piece


def _pieces(allocations: Iterable[Allocation]) -> Iterator[_Piece]:
    """Yield all buckets in pieces."""
    changes = _not_taken_back(allocations)
    start = 0
    for end in sorted({end for change in changes for end, _ in change.runs}):
        owners = [change.ref(start) for change in changes]
        moves = [number for number in range(1, len(owners)) if owners[number] != owners[number - 1]]
        earlier = dict.fromkeys(owners[number - 1] for number in reversed(moves))
        yield _Piece(start, end, owners[-1], tuple(earlier), tuple(moves))
        start = end


def _not_taken_back(allocations: Iterable[Allocation]) -> list[Allocation]:
    """Return the allocations without changes that the next one took back."""
    kept: list[Allocation] = []
    for allocation in allocations:
        if len(kept) > 1 and kept[-2].runs == allocation.runs:
            kept.pop()
        else:
            kept.append(allocation)
    return kept


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


def _runs(pieces: Iterable[tuple[int, str]]) -> tuple[tuple[int, str], ...]:
    """Join neighbours of the same owner, given the end and the owner of each piece; empty pieces are left out."""
    runs: dict[int, str] = {}
    last = 0
    for end, ref in pieces:
        if end > last:
            if runs.get(last) == ref:
                del runs[last]
            runs[end] = ref
            last = end
    return tuple(runs.items())
