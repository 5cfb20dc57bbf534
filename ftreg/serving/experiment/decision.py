"""Decisions: what an experiment has found goes back into the registry, as an alias and as evidence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass

from ftreg.core.errors import FtregError, InputError, UnknownName
from ftreg.core.names import parse_ref
from ftreg.core.types import Version
from ftreg.registry import Registry
from ftreg.serving.deployment import Deployment, Variant
from ftreg.serving.experiment.history import History
from ftreg.serving.experiment.report import Report, make_report


@dataclass(frozen=True)
class Decision:
    """What was decided, and what moved in the registry.

    Attributes:
        decision: ``promote`` or ``roll back``.
        version: The version that has the alias now.
        alias: The alias.
        forced: The verdict disagreed.
        removed: Versions under other names that had the alias and no longer have it.
    """

    decision: str
    version: Version
    alias: str
    forced: bool
    removed: tuple[Version, ...]


def promote(registry: Registry, history: History, ref: str | None = None, *, force: bool = False) -> Decision:
    """Point the alias at the challenger ``ref``, by default the one that won; leave evidence on it and the control.

    Raises:
        UnknownName: ``ref`` is not a challenger.
        InputError: There are several challengers and none is named, or a version is not in the registry.
        FtregError: The verdict does not say so and ``force`` is false, or a gate refuses.
    """
    report = make_report(history)
    winner = report.verdict.ref if report.verdict.decision == "promote" else None
    chosen = _choose(report, ref, winner, force=force)
    return _decide(registry, history, report, "promote", chosen, [report.control, chosen], forced=chosen != winner)


def roll_back(registry: Registry, history: History) -> Decision:
    """Point the alias at the control again, and leave evidence on all variants.

    Raises:
        InputError: A version is not in the registry.
        FtregError: A gate refuses.
    """
    report = make_report(history)
    refs = [variant.ref for variant in history.deployment.variants]
    return _decide(registry, history, report, "roll back", report.control, refs, forced=False)


def _choose(report: Report, ref: str | None, winner: str | None, *, force: bool) -> str:
    """The challenger to promote; raise if it is not clear which, or if the verdict disagrees."""
    challengers = [comparison.ref for comparison in report.comparisons]
    if ref is not None and ref not in challengers:
        hint = f"{ref} is the control: `ftreg.rollback({report.deployment!r})`" if ref == report.control else None
        raise UnknownName("challenger", ref, challengers, where="ref", hint=hint)
    chosen = ref or winner
    if not force and (chosen is None or chosen != winner):
        raise FtregError(
            f"the verdict is {report.verdict.decision}: {report.verdict.reason}",
            hint="Wait for more feedback, or promote anyway with `force=True`.",
        )
    if chosen is None and len(challengers) != 1:
        known = ", ".join(challengers) or "there are none"
        raise InputError("the challenger must be named", where="ref", hint=f"Challengers: {known}.")
    return chosen or challengers[0]


def _decide(
    registry: Registry, history: History, report: Report, decision: str, target: str, refs: list[str], *, forced: bool
) -> Decision:
    """Store the report as evidence on ``refs`` and move the alias to ``target``; if one is missing, do nothing.

    Gates may ask for the evidence, so it is stored first: it says what was decided, not that the alias has moved.
    """
    alias = history.deployment.alias
    versions = {ref: _find(registry, history.deployment.variant(ref), alias) for ref in refs}
    holders = list(_with_alias(registry, history.deployment, [version.name for version in versions.values()]))
    body = {"decision": decision, "ref": target, "alias": alias, "forced": forced, "report": asdict(report)}
    for ref in {version.digest: version.ref for version in versions.values()}.values():
        registry.add_evidence(ref, "experiment", body)
    moved = registry.set_alias(versions[target].ref, alias)
    # An alias belongs to a name: under another name it has to be removed.
    removed = tuple(holder for holder in holders if holder.name != moved.name)
    for holder in removed:
        registry.remove_alias(holder.name, alias)
    return Decision(decision, moved, alias, forced, removed)


def _with_alias(registry: Registry, deployment: Deployment, names: Iterable[str]) -> Iterator[Version]:
    """The deployment's variants that have its alias, under their own name or one of ``names``."""
    own = [parse_ref(variant.ref).name for variant in deployment.variants]
    for name in sorted({*names, *filter(None, own)}):
        with suppress(UnknownName):
            version = registry.get(f"{name}@{deployment.alias}")
            if version.digest in {variant.digest for variant in deployment.variants}:
                yield version


def _find(registry: Registry, variant: Variant, alias: str) -> Version:
    """The version that ``variant`` served, under its own name if it still has it; raise if it is not there."""
    try:
        version = registry.get(variant.ref)
        if version.digest == variant.digest:
            return version
    except UnknownName:
        pass
    try:
        version = registry.get(variant.digest)
        return registry.get(version.ref)  # a deleted version is found by digest alone
    except UnknownName:
        raise InputError(
            f"{variant.ref} ({variant.digest[:15]}) is not in this registry",
            where=str(registry.home),
            hint=f"Choose its registry, or move the alias by hand: `registry.set_alias('REF', {alias!r})`",
        ) from None
