"""Disagreement: the examples to which several models give the most different answers."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from ftreg.core.types import AnsweredPrompt


@dataclass(frozen=True)
class Disagreement:
    """The answers of several models to one example.

    Attributes:
        position: Which of the answered examples it is, from 0.
        score: How much the answers differ, from 0 (the same words) to 1: the mean over all pairs of 1 - F1 of their
            words.
        answers: The answers, in the order of the models.
    """

    position: int
    score: float
    answers: tuple[AnsweredPrompt, ...]

    @property
    def is_split(self) -> bool:
        """Whether some of the models answer as expected and others do not."""
        return len({answer.as_expected for answer in self.answers}) > 1


def largest_disagreements(rows: Iterable[tuple[AnsweredPrompt, ...]], count: int) -> list[Disagreement]:
    """Return the ``count`` examples on which answers differ most, largest first; few are held in memory.

    Examples on which some models answer as expected and others do not come before all others.
    """
    found = (Disagreement(position, _distance(answers), answers) for position, answers in enumerate(rows))
    return heapq.nlargest(count, found, key=lambda one: (one.is_split, one.score, -one.position))


def _distance(answers: Sequence[AnsweredPrompt]) -> float:
    """Return the mean distance of the answers' words over all pairs; 0 for a single answer."""
    bags = [Counter(answer.answer.split()) for answer in answers]
    distances = [_pair_distance(one, other) for one, other in combinations(bags, 2)]
    return sum(distances) / len(distances) if distances else 0.0


def _pair_distance(one: Counter[str], other: Counter[str]) -> float:
    words = one.total() + other.total()
    return 1 - 2 * (one & other).total() / words if words else 0.0
