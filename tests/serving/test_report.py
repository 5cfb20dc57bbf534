"""The report's figures match the record, and its verdict follows from them."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from ftreg.core.errors import MissingExtra
from ftreg.serving.experiment.history import History, Unit, VariantUsage, read
from ftreg.serving.experiment.record import ExperimentRecord
from ftreg.serving.experiment.report import Report, make_report
from ftreg.serving.experiment.routing import Allocation
from tests.serving.experiments import CHALLENGER, CONTROL, deployment, request, variant

EVEN = {CONTROL: 1.0, CHALLENGER: 1.0}


def history(
    *,
    scores: dict[str, float] | None = None,
    errors: dict[str, float] | None = None,
    weights: dict[str, float] = EVEN,
    dealt: dict[str, float] | None = None,
    users: int = 4000,
) -> History:
    """Make an experiment of ``users`` who each rate once, with given mean scores, error rates and actual split."""
    random = np.random.default_rng(1)
    allocation = Allocation.of(weights)
    shares = Allocation.of(dealt or weights).shares
    refs = random.choice(list(shares), size=users, p=list(shares.values())).tolist()
    units = [Unit(ref, 1, bool(random.random() < (errors or {}).get(ref, 0.0))) for ref in refs]
    rated = [(ref, float(random.random() < scores[ref])) for ref in refs] if scores else []
    usage = [
        VariantUsage(
            ref,
            f"b3:{ref}",
            "experiment",
            refs.count(ref),
            sum(u.failed for u in units if u.ref == ref),
            1,
            2,
            3,
            1.0,
            1.0,
        )
        for ref in weights
    ]
    return History(
        experiment="id",
        deployment=deployment(*(variant(ref, weight) for ref, weight in weights.items())),
        created=1e9,
        allocations=(allocation,),
        usage=tuple(usage),
        units=tuple(units),
        scores=tuple(rated),
    )


def test_the_figures_are_those_of_the_record(tmp_path: Path) -> None:
    """The report is computed from the recorded requests; pinned and shadow requests are listed apart."""
    shadowed = deployment(shadows=(variant("bot:3"),))
    record = ExperimentRecord(tmp_path / "experiment.db", shadowed)
    for number in range(200):
        one = request(
            record.allocation, f"user-{number % 50}", latency=0.1 + number / 1000, status=200 if number % 10 else 500
        )
        record.add(one)
        record.add(request(record.allocation, id=one.id, ref="bot:3", route="shadow"))
        if number < 80:
            record.feedback(one.id, 0.75, None).result()
    pinned = request(record.allocation, ref=CHALLENGER, route="pinned", latency=50.0, status=500)
    record.add(pinned)
    record.feedback(pinned.id, 0.0, None).result()
    record.close()

    report = make_report(read(tmp_path / "experiment.db"))
    control, challenger = report.arms
    assert (
        (control.usage.ref, challenger.usage.ref)
        == (CONTROL, CHALLENGER)
        == (report.control, report.comparisons[0].ref)
    )
    assert control.usage.requests + challenger.usage.requests == 200
    assert control.users + challenger.users == 50
    assert control.rated + challenger.rated == 50
    assert control.usage.feedback + challenger.usage.feedback == 80
    assert control.usage.errors + challenger.usage.errors == 20
    assert control.error_rate == control.usage.errors / control.usage.requests
    assert (control.expected_share, challenger.expected_share) == (pytest.approx(0.8), pytest.approx(0.2))
    assert control.observed_share == control.users / 50
    assert control.usage.prompt_tokens == 10 * control.usage.requests
    assert challenger.score is not None
    assert challenger.score.value == 0.75
    assert challenger.score.low < 0.75 < challenger.score.high
    assert challenger.usage.latency_p95 < 1
    assert {(usage.ref, usage.route, usage.requests) for usage in report.apart} == {
        ("bot:3", "shadow", 200), (CHALLENGER, "pinned", 1),
    }  # fmt: skip


def test_a_report_is_json() -> None:
    """A report is valid JSON, without infinity or NaN, however much is known."""
    for made in (history(), history(users=0), history(scores=EVEN, dealt={CONTROL: 1.0, CHALLENGER: 9.0})):
        report = make_report(made)
        assert json.loads(json.dumps(asdict(report), allow_nan=False))["verdict"]["decision"] == report.verdict.decision


BETTER = {CONTROL: 0.6, CHALLENGER: 0.8}
WORSE = {CONTROL: 0.8, CHALLENGER: 0.6}


@pytest.mark.parametrize(
    ("made", "decision", "said"),
    [
        (lambda: history(scores=BETTER), "promote", "bot:2 scores higher than the control: +0.1"),
        (lambda: history(scores=WORSE), "roll back", "bot:2 scores lower than the control: -0.2"),
        (lambda: history(scores={CONTROL: 0.7, CHALLENGER: 0.7}), "inconclusive", "may score higher or lower"),
        (lambda: history(scores=BETTER, users=20), "inconclusive", "may score higher or lower"),
        (lambda: history(), "inconclusive", "before users have rated both"),
        (lambda: history(users=0), "inconclusive", "before users have rated both"),
        (lambda: history(scores={CONTROL: 0.7}, weights={CONTROL: 1.0}), "inconclusive", "nothing to compare"),
        (
            lambda: history(scores=BETTER, errors={CONTROL: 0.01, CHALLENGER: 0.06}),
            "roll back",
            "bot:2 fails more often than the control",
        ),
        (lambda: history(scores=BETTER, errors={CHALLENGER: 0.01}, users=10_000), "promote", "scores higher"),
        (
            lambda: history(scores=BETTER, dealt={CONTROL: 60.0, CHALLENGER: 40.0}),
            "inconclusive",
            "users are not split",
        ),
        (
            lambda: history(errors={CONTROL: 0.0, CHALLENGER: 0.3}, dealt={CONTROL: 60.0, CHALLENGER: 40.0}),
            "inconclusive",
            "users are not split",
        ),
    ],
)
def test_the_verdict_follows_from_the_figures(made: Callable[[], History], decision: str, said: str) -> None:
    """The verdict follows from the confidence intervals of scores and errors, and gives a reason."""
    report = make_report(made())
    assert report.verdict.decision == decision
    assert said in report.verdict.reason
    if decision == "promote":
        assert report.verdict.ref == CHALLENGER


def test_a_few_errors_more_are_borne() -> None:
    """A challenger that fails more often by less than one point may still win."""
    errors = make_report(history(scores=BETTER, errors={CHALLENGER: 0.01}, users=10_000)).comparisons[0].errors
    assert errors is not None
    assert errors.low > 0


def test_a_slow_challenger_is_worth_a_warning() -> None:
    """Slowness is a warning once both variants have answered a hundred requests; it decides nothing."""

    def slow(times: float, requests: int) -> Report:
        made = history(scores=BETTER)
        control, challenger = made.usage
        return make_report(replace(made, usage=(control, replace(challenger, latency_p95=times, requests=requests))))

    assert "2.5 times" in slow(2.5, 100).comparisons[0].warnings[0]
    assert slow(2.5, 100).verdict.decision == "promote"
    assert not slow(2.5, 99).comparisons[0].warnings
    assert not slow(1.9, 100).comparisons[0].warnings


def test_several_challengers_share_the_risk() -> None:
    """Several challengers get wider intervals; the clearest winner is named, and a loser does not hide it."""
    weights = {CONTROL: 1.0, CHALLENGER: 1.0, "bot:3": 1.0}
    report = make_report(history(weights=weights, scores={CONTROL: 0.4, CHALLENGER: 0.6, "bot:3": 0.8}))
    assert report.alpha == 0.025
    assert (report.verdict.decision, report.verdict.ref) == ("promote", "bot:3")
    report = make_report(history(weights=weights, scores={CONTROL: 0.6, CHALLENGER: 0.3, "bot:3": 0.6}))
    assert [one.verdict.decision for one in report.comparisons] == ["roll back", "inconclusive"]
    assert report.verdict.decision == "inconclusive"
    report = make_report(history(weights=weights, scores={CONTROL: 0.9, CHALLENGER: 0.3, "bot:3": 0.3}))
    assert report.verdict.decision == "roll back"


def test_expected_shares_are_over_all_epochs() -> None:
    """Each unit is expected by the shares of its first request's epoch, and the split is checked by epoch."""
    first = Allocation.of({CONTROL: 90.0, CHALLENGER: 10.0})
    second = first.change({CONTROL: 50.0, CHALLENGER: 50.0})
    units = [Unit(CONTROL if number % 10 else CHALLENGER, 1, False) for number in range(1000)]
    units += [Unit(CONTROL if number % 2 else CHALLENGER, 2, False) for number in range(3000)]
    made = replace(history(users=0), allocations=(first, second), units=tuple(units))
    report = make_report(made)
    assert report.epoch == 2
    assert [arm.expected_share for arm in report.arms] == pytest.approx([0.6, 0.4])
    assert [arm.observed_share for arm in report.arms] == pytest.approx([0.6, 0.4])
    assert not report.sample_ratio.failed
    pooled = replace(made, units=tuple(replace(unit, epoch=2) for unit in units))
    assert make_report(pooled).sample_ratio.failed


def test_without_numpy_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without numpy, the report is a clear error."""
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(MissingExtra, match="numpy"):
        make_report(history_without_numpy())


def history_without_numpy() -> History:
    """Make an experiment without requests."""
    return History("id", deployment(), 1e9, (Allocation.of(EVEN),))


def test_nothing_is_nan_without_requests() -> None:
    """Without requests, shares are those of the weights and rates are None."""
    control, _ = make_report(history_without_numpy()).arms
    assert (control.expected_share, control.observed_share, control.error_rate, control.score) == (
        0.5,
        None,
        None,
        None,
    )
    assert not math.isnan(control.expected_share)
