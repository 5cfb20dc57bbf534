"""Policies: what evidence a version of a name needs before an alias may point to it, or it may be deployed.

A policy is an event of the log, so it holds for everyone who uses the registry, whichever plugins are loaded, and the
log says who set it. It is checked where the gates of plugins are asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

from ftreg.core.errors import FtregError, InputError
from ftreg.core.manifest import Json
from ftreg.core.names import check_alias
from ftreg.core.types import Problem, Version

CERTIFICATE, EVALUATION, GOLDEN = "certificate", "evaluation", "golden"
"""The types of evidence that policies speak of."""

_SAME_EVALUATION = ("dataset", "split", "examples", "max_length")

Records = Sequence[Mapping[str, Json]]
"""Evidence as gates receive it, oldest first."""


@dataclass(frozen=True)
class Policy:
    """What a version of a name needs.

    Attributes:
        alias: The alias that the policy guards; deployments of any version of the name are guarded too.
        certificate: A version that a step made needs a certificate that is within its tolerance.
        golden: The version has to pass the newest golden prompts of its name.
        perplexity: How much higher the perplexity may be than that of the version that ``alias`` points to, as a share
            such as 0.02, on the same examples; None if it does not matter.
    """

    alias: str = "champion"
    certificate: bool = False
    golden: bool = False
    perplexity: float | None = None

    def __post_init__(self) -> None:
        check_alias(self.alias)
        if self.perplexity is not None and not 0 <= self.perplexity < float("inf"):
            raise InputError(f"perplexity is {self.perplexity}, not a share such as 0.02", where="perplexity")

    @classmethod
    def read(cls, name: str, rules: Mapping[str, Json]) -> Policy:
        """Read a policy from the log; raise ``FtregError`` if it has a rule that this ftreg cannot check."""
        unknown = sorted(set(rules) - {field.name for field in fields(cls)})
        if unknown:
            problem = f"the policy of {name} has a rule that this ftreg does not know: {', '.join(unknown)}"
            raise FtregError(problem, hint="Upgrade ftreg.")
        return cls(**rules)


@dataclass(frozen=True)
class Candidate:
    """A version that a policy is applied to, with what the policy may need to know.

    Attributes:
        version: The version.
        evidence: What is on record on its digest.
        goldens: The digest of its name's newest golden prompts; None if the name has none.
        champion: Reference of the version that the policy's alias points to, or last pointed to if it was removed; None
            if it never pointed to any other.
        champion_evidence: What is on record on that version's digest.
        was_champion: Whether the alias has pointed to the version before.
    """

    version: Version
    evidence: Records
    goldens: str | None
    champion: str | None
    champion_evidence: Records
    was_champion: bool


def goldens_of(name: str) -> str:
    """Return the name under which the golden prompts of ``name`` are published."""
    return f"{name}-golden"


def problems(policy: Policy, candidate: Candidate) -> list[Problem]:
    """Return what a version lacks under a policy."""
    return [
        *(_certificate(candidate) if policy.certificate else ()),
        *(_golden(candidate) if policy.golden else ()),
        *(_perplexity(candidate, policy.perplexity) if policy.perplexity is not None else ()),
    ]


def _certificate(candidate: Candidate) -> Iterator[Problem]:
    """Yield the problem if a step made the version and its newest certificate did not pass."""
    if candidate.version.manifest.producer.type != "step":
        return
    certificates = _bodies(candidate.evidence, CERTIFICATE, "failures")
    if not certificates:
        yield Problem("it has no certificate", "Make it again by a step that certifies its result.")
    elif certificates[-1]["failures"]:
        outside = "; ".join(certificates[-1]["failures"])
        yield Problem(f"it was accepted although {outside}", "Make it again within the step's tolerance.")


def _golden(candidate: Candidate) -> Iterator[Problem]:
    """Yield the problem if the version did not pass the newest golden prompts."""
    version = candidate.version
    if candidate.goldens is None:
        yield Problem(
            f"{version.name} has no golden prompts",
            f"Give it some: `ftreg.set_goldens({version.name!r}, 'goldens.yaml')`",
        )
        return
    results = _bodies(candidate.evidence, GOLDEN, "goldens", "failed")
    results = [body for body in results if body["goldens"] == candidate.goldens]
    if not results:
        yield Problem(
            "it was not run on the newest golden prompts", f"Run them: `ftreg.check_goldens({version.ref!r})`"
        )
    elif results[-1]["failed"]:
        yield Problem(f"it fails {results[-1]['failed']} golden prompts", f"See `ftreg.check_goldens({version.ref!r})`")


def _perplexity(candidate: Candidate, allowed: float) -> Iterator[Problem]:
    """Yield the problem if the version was not measured beside the champion, or is worse by more than ``allowed``.

    A version that was the champion before is not compared, so that a rollback is possible.
    """
    version, champion = candidate.version, candidate.champion
    if champion is None or candidate.was_champion:
        return
    needed = (*_SAME_EVALUATION, "perplexity")
    theirs = {_key(body): body["perplexity"] for body in _bodies(candidate.champion_evidence, EVALUATION, *needed)}
    for body in reversed(_bodies(candidate.evidence, EVALUATION, *needed)):
        if (limit := theirs.get(_key(body))) is None:
            continue
        found = body["perplexity"]
        if not found <= limit * (1 + allowed):
            percent = f"{allowed * 100:.3g} %"
            yield Problem(f"its perplexity {found:.4g} is more than {percent} above {limit:.4g}, that of {champion}")
        return
    yield Problem(
        f"it was not measured on the same examples as {champion}",
        f"Measure both: `ftreg.evaluate({version.ref!r})` and `ftreg.evaluate({champion!r})`",
    )


def _bodies(records: Records, kind: str, *needed: str) -> list[Mapping[str, Json]]:
    """Return the evidence of a type; what lacks a ``needed`` key was not written by ftreg, and shows nothing."""
    found = [record["body"] for record in records if record["type"] == kind]
    return [body for body in found if set(needed) <= set(body)]


def _key(body: Mapping[str, Json]) -> tuple[Json, ...]:
    """Return what two evaluations must have in common to be compared."""
    return tuple(body[name] for name in _SAME_EVALUATION)
