"""Tables of an experiment's status and report."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ftreg.cli.session import Session

if TYPE_CHECKING:
    from ftreg.serving.experiment.history import VariantUsage
    from ftreg.serving.experiment.report import Arm, Estimate, Report
    from ftreg.serving.experiment.status import Status

_USAGE = ["requests", "errors", "p50 s", "p95 s", "first token s", "tokens"]


def show_status(session: Session, status: Status) -> None:
    """Print the variants, the requests, the epochs, and the record's other experiments."""
    session.table(
        ["version", "weight", "share", "users", "requests"],
        [[one.ref, f"{one.weight:g}", f"{one.share:.1%}", one.users, one.requests] for one in status.variants],
        right=["weight", "share", "users", "requests"],
    )
    routes = ", ".join(f"{count} {route}" for route, count in status.requests.items())
    session.print(f"\nexperiment {status.experiment} ({status.id}): {routes or 'no'} requests")
    for epoch in status.epochs:
        weights = " ".join(f"{ref}={weight:g}" for ref, weight in epoch.weights.items())
        session.print(f"epoch {epoch.epoch} since {_moment(epoch.at)}: {weights}")
    if status.others:
        session.print("")
        session.table(
            ["other experiments", "name", "since", "requests"],
            [[one.id, one.name, _moment(one.created), one.requests] for one in status.others],
            right=["requests"],
        )


def _moment(at: float) -> str:
    """Format Unix seconds as UTC to the second."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def show_report(session: Session, report: Report) -> None:
    """Print the variants, the comparisons, pinned and shadow requests, and the verdict."""
    _show_figures(
        session, [*_USAGE, "users", "expected", "observed", "rated", "score"], [_arm_row(arm) for arm in report.arms]
    )
    if report.comparisons:
        session.print("")
        session.table(
            [f"against {report.control}", "score", "errors", "verdict"],
            [
                [one.ref, _signed(one.difference), _points(one.errors), one.verdict.decision]
                for one in report.comparisons
            ],
        )
    if report.apart:
        session.print("\nnot part of the comparison")
        _show_figures(session, ["route", *_USAGE], [_apart_row(usage) for usage in report.apart])
    session.print("")
    for line in _remarks(report):
        session.print(line)


def _show_figures(session: Session, figures: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a row of figures for each version, or a column for each if the rows are too wide."""
    texts = [["" if cell is None else str(cell) for cell in row] for row in rows]
    columns = ["version", *figures]
    widths = [max(len(title), *(len(row[index]) for row in texts)) for index, title in enumerate(columns)]
    if session.width is None or sum(widths) + 2 * (len(widths) - 1) <= session.width:
        session.table(columns, texts, right=figures)
    else:
        refs = [row[0] for row in texts]
        turned = [[figure, *(row[index] for row in texts)] for index, figure in enumerate(figures, start=1)]
        session.table(["version", *refs], turned, right=refs)


def _remarks(report: Report) -> list[str]:
    ratio = report.sample_ratio
    split = "NOT as the weights promise" if ratio.failed else "as the weights promise"
    warnings = [f"warning: {warning}" for one in report.comparisons for warning in one.warnings]
    verdict = f"verdict: {report.verdict.decision}; {report.verdict.reason}"
    return [f"split: {split} (p = {ratio.p:.2g})", *warnings, verdict]


def _arm_row(arm: Arm) -> Sequence[Any]:
    found = arm.score
    score = None if found is None else f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"
    shares = [f"{arm.expected_share:.1%}", None if arm.observed_share is None else f"{arm.observed_share:.1%}"]
    return [arm.usage.ref, *_usage_cells(arm.usage), arm.users, *shares, arm.rated, score]


def _apart_row(usage: VariantUsage) -> Sequence[Any]:
    return [usage.ref, usage.route, *_usage_cells(usage)]


def _usage_cells(usage: VariantUsage) -> list[Any]:
    seconds = [usage.latency_p50, usage.latency_p95, usage.first_token_p50]
    times = [None if second is None else f"{second:.3f}" for second in seconds]
    return [usage.requests, usage.errors, *times, usage.completion_tokens]


def _signed(estimate: Estimate | None) -> str | None:
    return None if estimate is None else f"{estimate.value:+.3f} ({estimate.low:+.3f} to {estimate.high:+.3f})"


def _points(estimate: Estimate | None) -> str | None:
    return None if estimate is None else f"{estimate.value:+.1%} ({estimate.low:+.1%} to {estimate.high:+.1%})"
