"""Evaluation: measures versions on held-out data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from ftreg.api.opening import opened
from ftreg.core.types import Progress
from ftreg.pipeline import evaluations
from ftreg.pipeline.evaluations import HeldOut
from ftreg.registry import Registry

if TYPE_CHECKING:
    from ftreg.evaluation import Evaluation


@dataclass(frozen=True)
class Comparison:
    """Several versions measured on the same examples.

    Attributes:
        dataset: The registered dataset, or the file, that the examples are from.
        split: ``test``, ``validation`` or ``train``; ``all`` for a file.
        results: The evaluation of each version, by the reference that was given.
    """

    dataset: str
    split: str
    results: Mapping[str, Evaluation]

    def telling_examples(self, count: int) -> list[int]:
        """Return the positions of up to ``count`` answered examples that show how the versions differ.

        Examples are grouped by which versions answer as expected. One of the largest group in which the versions differ
        comes first, then one of the largest in which the last version fails, then one of each other group by size; then
        second ones, in the same order.
        """
        answers = [[each.as_expected for each in result.answers] for result in self.results.values()]
        groups: dict[tuple[bool, ...], list[int]] = {}
        for position, outcome in enumerate(zip(*answers, strict=True)):
            groups.setdefault(outcome, []).append(position)
        by_size = sorted(groups, key=lambda outcome: -len(groups[outcome]))
        differing = [outcome for outcome in by_size if any(outcome) and not all(outcome)]
        failing = [outcome for outcome in by_size if not outcome[-1]]
        order = list(dict.fromkeys([*differing[:1], *failing[:1], *by_size]))
        rounds = zip_longest(*(groups[outcome] for outcome in order))
        return [position for taken in rounds for position in taken if position is not None][:count]


def evaluate(
    ref: str,
    data: str | Path | None = None,
    *,
    split: str | None = None,
    limit: int | None = None,
    engine: str | None = None,
    registry: Registry | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure ``ref`` on held-out data; the figures are kept with it as evidence. Arguments as for ``compare``."""
    compared = compare(
        [ref], data, split=split, limit=limit, engine=engine, registry=registry, progress=progress
    )  # fmt: skip
    return compared.results[ref]


def compare(
    refs: Sequence[str],
    data: str | Path | None = None,
    *,
    split: str | None = None,
    limit: int | None = None,
    engine: str | None = None,
    registry: Registry | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Measure the versions ``refs`` on the same held-out data; the figures are kept with each as evidence.

    Args:
        refs: The versions.
        data: A file, all of whose rows are used, or a registered dataset; by default the first dataset in the versions'
            lineage that has held-out examples.
        split: Which part of the dataset; by default ``test``, else ``validation``.
        limit: Use only the first so many examples.
        engine: The engine to run the models with; by default the first that can load each.
        registry: Where to read and to add the evidence; by default the default registry.
        progress: Where to report progress.

    Raises:
        InputError: A version, the data or the engine does not exist or cannot be used.
    """
    with opened(registry, progress) as context:
        for ref in refs:
            evaluations.check_evaluable(context, ref, limit=limit, engine=engine)
        examples = held_out(refs, data, split=split, registry=context.registry)
        results = {}
        for ref in refs:
            context.progress.say(f"evaluating {ref}")
            results[ref] = evaluations.evaluate_version(context, ref, examples, limit=limit, engine=engine)
    return Comparison(examples.dataset, examples.split, results)


def held_out(
    refs: Sequence[str],
    data: str | Path | None = None,
    *,
    split: str | None = None,
    registry: Registry | None = None,
) -> HeldOut:
    """Return the examples that ``compare`` would measure ``refs`` on."""
    with opened(registry, None) as context:
        return evaluations.held_out(context, refs, data=None if data is None else str(data), split=split)
