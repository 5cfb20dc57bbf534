"""Evaluation: measures versions on held-out data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ftreg.api.opening import opened
from ftreg.core.types import AnsweredPrompt, Progress
from ftreg.pipeline import evaluations
from ftreg.pipeline import held_out as choosing
from ftreg.pipeline.evaluations import Evaluation, MetricResult
from ftreg.pipeline.held_out import HeldOut
from ftreg.pipeline.metrics import choose_metrics
from ftreg.registry import Registry

if TYPE_CHECKING:
    from ftreg.evaluation.report import Report

__all__ = [
    "Comparison",
    "Evaluation",
    "MetricResult",
    "SideBySide",
    "check_report",
    "compare",
    "evaluate",
    "held_out",
    "report",
]


@dataclass(frozen=True)
class SideBySide:
    """The answers of several versions to one example.

    Attributes:
        position: Which of the answered examples it is, from 0.
        answers: What each version answers, by the reference that was given.
    """

    position: int
    answers: Mapping[str, AnsweredPrompt]


@dataclass(frozen=True)
class Comparison:
    """Several versions measured on the same examples.

    Attributes:
        dataset: The registered dataset, or the file, that the examples are from.
        split: ``test``, ``validation`` or ``train``; ``all`` for a file.
        results: The evaluation of each version, by the reference that was given.
        digest: The dataset's digest.
    """

    dataset: str
    split: str
    results: Mapping[str, Evaluation]
    digest: str = ""

    def telling_examples(self, count: int) -> list[SideBySide]:
        """Return up to ``count`` answered examples that show how the versions differ.

        Examples are grouped by which versions answer as expected. One of the largest group in which the versions differ
        comes first, then one of the largest in which the last version fails, then one of each other group by size; then
        second ones, in the same order. All answers are read, and few are held in memory.
        """
        sizes: Counter[tuple[bool, ...]] = Counter()
        first: dict[tuple[bool, ...], list[SideBySide]] = {}
        rows = zip(*(result.answers for result in self.results.values()), strict=True)
        for position, answers in enumerate(rows):
            outcome = tuple(answer.as_expected for answer in answers)
            sizes[outcome] += 1
            if len(kept := first.setdefault(outcome, [])) < count:
                kept.append(SideBySide(position, dict(zip(self.results, answers, strict=True))))
        by_size = sorted(sizes, key=lambda outcome: -sizes[outcome])
        differing = [outcome for outcome in by_size if any(outcome) and not all(outcome)]
        failing = [outcome for outcome in by_size if not outcome[-1]]
        order = list(dict.fromkeys([*differing[:1], *failing[:1], *by_size]))
        rounds = zip_longest(*(first[outcome] for outcome in order))
        return [example for taken in rounds for example in taken if example is not None][:count]


def evaluate(
    ref: str,
    data: str | Path | None = None,
    *,
    metrics: Sequence[str] = (),
    settings: Mapping[str, Any] = MappingProxyType({}),
    split: str | None = None,
    limit: int | None = None,
    engine: str | None = None,
    again: bool = False,
    registry: Registry | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure ``ref`` on held-out data; figures and answers are kept as evidence. Arguments as for ``compare``."""
    compared = compare(
        [ref], data, metrics=metrics, settings=settings, split=split, limit=limit, engine=engine, again=again,
        registry=registry, progress=progress,
    )  # fmt: skip
    return compared.results[ref]


def compare(
    refs: Sequence[str],
    data: str | Path | None = None,
    *,
    metrics: Sequence[str] = (),
    settings: Mapping[str, Any] = MappingProxyType({}),
    split: str | None = None,
    limit: int | None = None,
    engine: str | None = None,
    again: bool = False,
    registry: Registry | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Measure the versions ``refs`` on the same held-out data; figures and answers are kept with each as evidence.

    What the evidence of a version holds already, for the same data, engine, metric and settings, is not computed again.

    Args:
        refs: The versions.
        data: A file, all of whose rows are used, or a registered dataset; by default the first dataset in the versions'
            lineage that has held-out examples.
        metrics: Metrics to compute beside those that every evaluation has, such as ``["rouge"]``.
        settings: Settings of metrics by dotted key, such as ``{"json.schema": "schema.json"}``.
        split: Which part of the dataset; by default ``test``, else ``validation``.
        limit: Use only the first so many examples.
        engine: The engine to run the models with; by default the first that can load each.
        again: Compute everything anew.
        registry: Where to read and to add the evidence; by default the default registry.
        progress: Where to report progress.

    Raises:
        InputError: A version, the data, the engine or a metric does not exist or cannot be used.
        MissingExtra: A metric or the engine needs a package that is not installed.
    """
    with opened(registry, progress) as context, ExitStack() as stack:
        for ref in refs:
            evaluations.check_evaluable(context, ref, engine=engine)
        calls = choose_metrics(context.host, metrics, settings)
        path = None if data is None else str(data)
        examples = choosing.held_out(context, stack, refs, data=path, split=split, limit=limit)
        results = {}
        for ref in refs:
            context.progress.say(f"evaluating {ref}")
            results[ref] = evaluations.evaluate_version(context, ref, examples, calls, engine=engine, again=again)
    return Comparison(examples.dataset, examples.split, results, examples.digest)


def report(
    comparison: Comparison,
    to: str | Path | None = None,
    *,
    answers: int = 50,
    registry: Registry | None = None,
    progress: Progress | None = None,
) -> Report:
    """Test whether the versions of a comparison differ, and gather what is on record of them.

    The first version is the baseline. Every figure that is a mean over the examples gets a confidence interval (paired
    bootstrap) and a p-value against the baseline (paired randomization test), corrected for all tests of the report.

    Args:
        comparison: What ``compare`` returned.
        to: A file ending in ``.html`` or ``.md`` to write the report to; by default none is written.
        answers: How many examples to show side by side, those on which the answers differ most.
        registry: Where the versions are; by default the default registry.
        progress: Where to report progress.

    Raises:
        InputError: No report can be written to ``to``.
    """
    from ftreg.evaluation.report import write_report  # imports numpy, which is not always installed
    from ftreg.pipeline.comparisons import build_report

    with opened(registry, progress) as context:
        found = build_report(
            context, comparison.results, dataset=comparison.dataset, digest=comparison.digest, split=comparison.split,
            answers=answers,
        )  # fmt: skip
        if to is not None:
            write_report(found, Path(to), context.progress)
    return found


def check_report(to: str | Path) -> None:
    """Raise ``InputError`` if ``report`` cannot write to the file ``to``; call it before a long comparison."""
    from ftreg.evaluation.report import check_report_path

    check_report_path(Path(to))


def held_out(
    refs: Sequence[str],
    data: str | Path | None = None,
    *,
    split: str | None = None,
    limit: int | None = None,
    registry: Registry | None = None,
) -> HeldOut:
    """Return the examples that ``compare`` would measure ``refs`` on; those of a file are in memory."""
    with opened(registry, None) as context, ExitStack() as stack:
        path = None if data is None else str(data)
        found = choosing.held_out(context, stack, refs, data=path, split=split, limit=limit)
        return replace(found, examples=tuple(found.examples)) if found.split == "all" else found
