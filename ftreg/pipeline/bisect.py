"""Bisection: measures a version and what it was made from on the same examples, and finds where quality was lost.

The chain of a version leads from it to the first of its parents that is not a dataset (the base of an adapter, the
source of a step, the first input of a merge), to the first of that one's parents, and so on.

A version lost quality if its figure is worse than that of the version before it by at least ``MARGIN``, and if chance
does not explain that: the confidence interval of the difference, by a paired bootstrap over the examples, excludes
zero. The level of each interval is such that all of a chain hold together with 95 % confidence (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftreg.context import Context
from ftreg.core.errors import InputError
from ftreg.core.specs import MetricSpec
from ftreg.core.types import Version
from ftreg.pipeline.evaluations import Evaluation, check_evaluable, evaluate_version
from ftreg.pipeline.held_out import HeldOut, held_out
from ftreg.pipeline.metrics import MetricCall, choose_metrics
from ftreg.pipeline.observations import LOSS, TOKEN_ACCURACY, observe

if TYPE_CHECKING:
    from ftreg.evaluation.significance import Observations

BISECTION = "bisection"
"""The type of evidence that holds a bisection."""

MARGIN = 0.01
"""The smallest loss of quality that counts: nats per token of a loss, and one point in a hundred of a score."""

_CONFIDENCE = 0.95
_FEW = 20  # examples; an interval from fewer says little
_PLOT = "bisection.png"
_TOKEN_FIGURES = {LOSS: False, TOKEN_ACCURACY: True}  # of every evaluation; whether higher is better


@dataclass(frozen=True)
class Link:
    """A version of the chain.

    Attributes:
        ref: The version.
        digest: Its digest.
        made_by: Type and name of what made it, such as ``step merge``.
        figure: Its figure; None if it was not measured.
        change: Its figure less that of the measured version before it; None for the first, and if it was not measured.
        interval: The confidence interval of the change; None likewise.
        lost: Whether it lost quality.
        skipped: Why it was not measured; empty if it was.
    """

    ref: str
    digest: str
    made_by: str
    figure: float | None = None
    change: float | None = None
    interval: tuple[float, float] | None = None
    lost: bool = False
    skipped: str = ""


@dataclass(frozen=True)
class Bisection:
    """Where a version lost its quality.

    Attributes:
        metric: The figure that was compared.
        higher_is_better: Whether a higher figure is better.
        dataset: The dataset or file that the examples are from.
        digest: Its digest.
        split: Which part of it.
        examples: How many examples.
        margin: The smallest loss that counts.
        confidence: The level of each interval.
        links: The chain, the oldest version first.
        culprit: The version that lost most; None if none lost any.
        plot: The picture of the figures; None if matplotlib is not installed.
    """

    metric: str
    higher_is_better: bool
    dataset: str
    digest: str
    split: str
    examples: int
    margin: float
    confidence: float
    links: tuple[Link, ...]
    culprit: str | None
    plot: Path | None = None


@dataclass(frozen=True)
class _Figure:
    """The figure to compare.

    Attributes:
        name: Its name.
        higher_is_better: Whether a higher figure is better.
        calls: The metrics of each evaluation.
    """

    name: str
    higher_is_better: bool
    calls: Sequence[MetricCall]

    @property
    def metric(self) -> str:
        """The metric that computes it."""
        return self.name.partition(".")[0]


def bisect_chain(
    context: Context,
    ref: str,
    *,
    metric: str = LOSS,
    settings: Mapping[str, Any],
    data: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    margin: float = MARGIN,
) -> Bisection:
    """Measure ``ref`` and what it was made from on the same examples, and keep what is found as evidence.

    Args:
        context: Where to work.
        ref: The version that is worse than expected.
        metric: ``loss``, ``token_accuracy``, or a metric, ``metric.figure`` if it has several figures. The
            figure must be the mean of a score for each answer, which that of BLEU, say, is not.
        settings: Settings of the metric by dotted key.
        data: As for ``held_out``; by default from the lineage of ``ref``.
        split: The same.
        limit: The same.
        margin: The smallest loss of quality that counts.

    Raises:
        InputError: ``ref`` cannot be measured, nothing that it was made from can be, or there is only one example.
    """
    figure = _find_figure(context, metric, settings)
    check_evaluable(context, ref)
    with ExitStack() as stack:
        examples = held_out(context, stack, [ref], data=data, split=split, limit=limit)
        if len(examples.examples) < 2:
            raise InputError("one example does not show what is chance", where="data", hint="Give more examples.")
        if len(examples.examples) < _FEW:
            context.progress.say(f"only {len(examples.examples)} examples: intervals from fewer than {_FEW} say little")
        links, scores = _measure(context, _chain(context, ref), examples, figure)
    if len(scores) < 2:
        raise InputError(f"nothing that {ref} was made from can be measured", hint="See `ftreg.lineage('NAME')`")
    level = 1 - (1 - _CONFIDENCE) / (len(scores) - 1)
    compared = _compare(links, scores, figure, margin, level)
    sign = -1 if figure.higher_is_better else 1
    lost = [link for link in compared if link.lost]
    culprit = max(lost, key=lambda link: sign * (link.change or 0.0), default=None)
    found = Bisection(
        metric=figure.name,
        higher_is_better=figure.higher_is_better,
        dataset=examples.dataset,
        digest=examples.digest,
        split=examples.split,
        examples=len(examples.examples),
        margin=margin,
        confidence=level,
        links=tuple(compared),
        culprit=culprit.ref if culprit else None,
    )
    return _keep(context, ref, found)


def _find_figure(context: Context, name: str, settings: Mapping[str, Any]) -> _Figure:
    """Return the figure called ``name``; raise ``InputError`` if there is none that says which model is better."""
    if name in _TOKEN_FIGURES:
        return _Figure(name, _TOKEN_FIGURES[name], choose_metrics(context.host, [], settings))
    metric = name.partition(".")[0]
    known = [*_TOKEN_FIGURES, *(spec.name for spec in context.host.specs(MetricSpec))]
    if metric not in known:
        raise context.host.unknown("metric", metric, known, where="metric")
    calls = choose_metrics(context.host, [metric], settings)
    call = next(call for call in calls if call.spec.name == metric)
    if call.spec.higher_is_better is None:
        raise InputError(f"metric {metric} does not say which model is better", where="metric", hint="Name another.")
    return _Figure(name, call.spec.higher_is_better, calls)


def _chain(context: Context, ref: str) -> list[tuple[Version, str]]:
    """Return the chain of ``ref``, the oldest version first, each with a reference that finds it, deleted or not."""
    lineage = context.registry.lineage(ref)
    chain = []
    digest: str | None = lineage.root
    while digest is not None and digest in lineage.nodes:
        version = lineage.nodes[digest]
        chain.append((version, digest if digest in lineage.deleted else version.ref))
        sources = [edge.parent for edge in lineage.parents(digest) if edge.role != "dataset"]
        digest = sources[0] if sources else None
    return chain[::-1]


def _measure(
    context: Context, chain: Sequence[tuple[Version, str]], examples: HeldOut, figure: _Figure
) -> tuple[list[Link], dict[str, Observations]]:
    """Evaluate each version of a chain that can be; return the chain, and the scores by digest."""
    links, scores = [], {}
    for version, name in chain:
        producer = version.manifest.producer
        link = Link(version.ref, version.digest, f"{producer.type} {producer.name}")
        try:
            check_evaluable(context, name)
        except InputError as error:
            links.append(replace(link, skipped=error.message))
            continue
        context.progress.say(f"evaluating {version.ref}")
        result = evaluate_version(context, name, examples, figure.calls)
        scores[version.digest] = _scores_of(result, figure)
        links.append(replace(link, figure=scores[version.digest].value))
    return links, scores


def _scores_of(result: Evaluation, figure: _Figure) -> Observations:
    """Return the scores of the examples of an evaluation."""
    known = observe(result)
    if figure.name in known and known[figure.name].weights.any():
        return known[figure.name]
    if figure.metric in result.failed_metrics:
        raise InputError(result.failed_metrics[figure.metric], where=f"metric {figure.metric}")
    scored = [name for name in known if name.partition(".")[0] == figure.metric]
    raise InputError(
        f"metric {figure.name} has no score for each answer",
        where="metric",
        hint=f"These have: {', '.join(scored)}." if scored else "Compare the loss.",
    )


def _compare(
    links: Sequence[Link], scores: Mapping[str, Observations], figure: _Figure, margin: float, level: float
) -> list[Link]:
    """Compare each measured version with the measured one before it."""
    from ftreg.evaluation.significance import interval, paired, resample

    compared = []
    before: Observations | None = None
    for link in links:
        after = scores.get(link.digest)
        if after is None or before is None:
            compared.append(link)
        else:
            pair = paired(before, after)
            change = pair[1].value - pair[0].value
            sampled_before, sampled_after = resample(pair)
            ends = interval(sampled_after - sampled_before, level)
            assert ends is not None
            worse, certain = (-change, ends.high < 0) if figure.higher_is_better else (change, ends.low > 0)
            lost = certain and worse >= margin
            compared.append(replace(link, change=change, interval=(ends.low, ends.high), lost=lost))
        before = after or before
    return compared


def _keep(context: Context, ref: str, found: Bisection) -> Bisection:
    """Draw the figures, and keep what was found as evidence on ``ref``."""
    from ftreg.evaluation.chain_plot import draw_chain

    shown = [link for link in found.links if link.figure is not None]
    unit = " (nats per token)" if found.metric == "loss" else ""
    title = f"{found.split} split of {found.dataset}, {found.examples} examples"
    with context.registry.staging() as staging:
        try:
            draw_chain(
                staging.files / _PLOT,
                title,
                f"{found.metric}{unit}",
                [link.ref for link in shown],
                [link.figure or 0.0 for link in shown],
                {place for place, link in enumerate(shown) if link.lost},
            )
        except ImportError:
            context.progress.say("no picture: matplotlib is not installed (pip install 'ftreg[plots]')")
        body = {key: value for key, value in asdict(found).items() if key != "plot"}
        record = context.registry.add_evidence(ref, BISECTION, body, files=staging.files)
    return replace(found, plot=record.files.get(_PLOT))
