"""What a report on several versions says; it is printed as JSON just so, and drawn as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ftreg.evaluation.disagreement import Disagreement

Verdict = Literal["better", "worse", "differs", "not shown"]


@dataclass(frozen=True)
class Estimate:
    """A figure of a version with its confidence interval.

    Attributes:
        value: The figure.
        low: The interval's lower end; None if the figure is not a mean over the examples.
        high: Its upper end.
    """

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Difference:
    """How much a figure of a version differs from the baseline's.

    Attributes:
        value: The version's figure minus the baseline's, over the examples that count for both.
        low: Lower end of its confidence interval; None if all resamples lack these examples.
        high: Its upper end.
        p_value: Of the paired randomization test.
        p_corrected: The same, corrected by Holm's method for all tests of the report.
        verdict: ``better``, ``worse``, or ``differs`` for a figure of which neither is better, if ``p_corrected`` is
            below 0.05; ``not shown`` if not.
    """

    value: float
    low: float | None
    high: float | None
    p_value: float
    p_corrected: float
    verdict: Verdict


@dataclass(frozen=True)
class Figure:
    """A figure of all versions.

    Attributes:
        name: Its name.
        higher_is_better: False if lower is better, None if neither is.
        estimates: By version, those that have it.
        differences: By version, those that can be tested against the baseline.
    """

    name: str
    higher_is_better: bool | None
    estimates: Mapping[str, Estimate]
    differences: Mapping[str, Difference]


@dataclass(frozen=True)
class Training:
    """The loss of the training that a version comes from.

    Attributes:
        ref: The version that the training made.
        training: Pairs of step and mean training loss since the last pair; at most 200.
        validation: Pairs of step and validation loss; at most 200.
    """

    ref: str
    training: Sequence[tuple[int, float]]
    validation: Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Candidate:
    """A version that is compared.

    Attributes:
        ref: As it was given.
        version: ``name:number``.
        digest: Its digest.
        kind: Its kind.
        made_by: The method, step or import that made it.
        aliases: Its aliases.
        size: Bytes of its files.
        peak_rss_bytes: Peak of the process's resident memory while it was evaluated; None if not on record.
        answer_tokens_per_second: Tokens of its greedy answers, in batches, by the seconds it took to generate them;
            None if not on record.
        evaluated: When the figures were recorded, in UTC, ISO 8601.
        certificate_kl: Mean KL divergence from its source; None if it has no certificate.
        certificate_failures: What is outside the certificate's tolerance; None if it has no certificate.
        training: The training that it comes from; None if none is on record.
    """

    ref: str
    version: str
    digest: str
    kind: str
    made_by: str
    aliases: Sequence[str]
    size: int
    peak_rss_bytes: float | None
    answer_tokens_per_second: float | None
    evaluated: str
    certificate_kl: float | None
    certificate_failures: Sequence[str] | None
    training: Training | None


@dataclass(frozen=True)
class Ancestor:
    """A version in the lineage of those that are compared, or one of these.

    Attributes:
        ref: ``name:number``, or the digest if its record is missing.
        kind: Its kind.
        made_by: What made it.
        parents: Pairs of role and reference.
    """

    ref: str
    kind: str
    made_by: str
    parents: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Report:
    """Everything that a comparison of versions found.

    Attributes:
        dataset: The registered dataset, or the file, that the examples are from.
        digest: The dataset's digest.
        split: ``test``, ``validation`` or ``train``; ``all`` for a file.
        examples: How many examples were measured.
        baseline: The first version: the others are tested against it.
        confidence: The level of the intervals.
        resamples: How many samples the intervals are computed from.
        tests: How many tests the p-values are corrected for.
        candidates: The versions.
        figures: All figures.
        failed_metrics: Why a metric could not be computed: triples of version, metric and reason.
        disagreements: Examples on which the answers differ most, largest first.
        answered: How many examples were answered.
        lineage: The versions and all their ancestors, oldest first.
    """

    dataset: str
    digest: str
    split: str
    examples: int
    baseline: str
    confidence: float
    resamples: int
    tests: int
    candidates: Sequence[Candidate]
    figures: Sequence[Figure]
    failed_metrics: Sequence[tuple[str, str, str]]
    disagreements: Sequence[Disagreement]
    answered: int
    lineage: Sequence[Ancestor]
