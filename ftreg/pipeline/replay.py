"""Replay: does again what made a version, compares the result with the version, and keeps the grade as evidence."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Literal

from ftreg.context import Context
from ftreg.core.errors import CorruptRegistry, FtregError
from ftreg.core.manifest import FileEntry, Json, Manifest
from ftreg.core.types import Artifact, Source, Tolerance, Version
from ftreg.pipeline.certificate import certify
from ftreg.pipeline.machine import describe_machine
from ftreg.pipeline.recorded import open_recorded
from ftreg.pipeline.runs import Task
from ftreg.registry import EvidenceRecord, Prepared, Staging

REPLAY = "replay"
"""The type of evidence that holds the grade of a replay."""

Grade = Literal["bit-exact", "within tolerance", "different"]

TOLERANCE = Tolerance(kl=0.01, top1=0.99, loss_delta=0.01)
"""How far a replay may be from a version whose producer states no tolerance, such as a training."""

_NOT_REPEATABLE = "packages, plugin, device and machine are the same: the work itself is not repeatable"


@dataclass(frozen=True)
class Change:
    """Something that was recorded for a version and is otherwise now; None for what is not known or not installed."""

    what: str
    recorded: Json
    now: Json

    def __str__(self) -> str:
        return f"{self.what}: {_said(self.recorded)} when it was made, {_said(self.now)} now"


@dataclass(frozen=True)
class FileComparison:
    """The files of a replay beside those of the version: the paths of each kind."""

    same: tuple[str, ...]
    different: tuple[str, ...]
    missing: tuple[str, ...]
    added: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether all files are the same, and there are no others."""
        return not (self.different or self.missing or self.added)


@dataclass(frozen=True)
class Replay:
    """The grade of a replay.

    Attributes:
        ref: The version that was made again.
        digest: Its digest.
        grade: ``bit-exact`` if all files have equal hashes; ``within tolerance`` if they differ and the models agree;
            else ``different``.
        replayed: The digest that the result would have. It differs from ``digest`` for equal files too if packages
            have changed, since these are part of a manifest.
        reasons: What explains the grade, as sentences; empty if nothing has changed and the files are the same.
        files: The files that are the same, and those that are not.
        changes: What is otherwise than when the version was made: packages, plugin, configuration, device, machine.
        certificate: The comparison with the version on held-out text; None if the files are the same, or if it could
            not be made.
        environment: The packages of the replay, as in a manifest.
        plugin: The distribution that did the work, and its version.
        machine: The processor and the number of threads of the replay.
        seconds: How long the work took.
        at: When the evidence was recorded, in UTC, ISO 8601.
    """

    ref: str
    digest: str
    grade: Grade
    replayed: str
    reasons: tuple[str, ...]
    files: FileComparison
    changes: tuple[Change, ...]
    certificate: Mapping[str, Json] | None
    environment: Mapping[str, str | None]
    plugin: tuple[str, str]
    machine: Mapping[str, Json]
    seconds: float
    at: str = ""


@dataclass(frozen=True)
class Result:
    """What doing the recorded work again has made, while its staging is open.

    Attributes:
        task: The work.
        artifact: What it returned.
        staging: Where the files are.
        prepared: The version that could be published.
        seconds: How long the work took.
    """

    task: Task
    artifact: Artifact
    staging: Staging
    prepared: Prepared
    seconds: float


@contextmanager
def made_again(context: Context, version: Version) -> Iterator[Result]:
    """Do the work that made ``version`` in a staging folder of its own, and yield the result; nothing is published.

    Raises:
        InputError: The work cannot be done again; see ``open_recorded``.
        FtregError: The work failed.
    """
    task = open_recorded(context, version)
    with context.registry.staging() as staging:
        started = time.perf_counter()
        artifact = task.run(context, staging)
        seconds = time.perf_counter() - started
        prepared = context.registry.prepare(task.work.draft(artifact, staging))
        yield Result(task, artifact, staging, prepared, seconds)


def replay_version(context: Context, ref: str, *, kl: float | None = None) -> Replay:
    """Do again what made ``ref``, grade the result, and keep the grade as evidence on the version's digest.

    Args:
        context: Where to work.
        ref: The version.
        kl: Largest mean KL divergence of the replay from the version, in nats per token, that is within tolerance; by
            default the tolerance of its step, else ``TOLERANCE``.

    Raises:
        InputError: The version was imported, or its plugin is not installed.
        CorruptRegistry: An input is damaged.
        FtregError: An input is missing, or the work failed.
    """
    version = context.registry.get(ref)
    _check_inputs(context, version)
    with made_again(context, version) as result:
        files = compare_files(version.manifest, result.prepared.manifest)
        changes = find_changes(context, version, result)
        judgement = _Judgement("bit-exact") if files.equal else _judge(context, version, result, kl)
        unexplained = [] if files.equal or changes else [_NOT_REPEATABLE]
        work = result.task.work
        found = Replay(
            ref=version.ref,
            digest=version.digest,
            grade=judgement.grade,
            replayed=result.prepared.digest,
            reasons=(*_described(files), *map(str, changes), *unexplained, *judgement.reasons),
            files=files,
            changes=tuple(changes),
            certificate=judgement.certificate,
            environment=work.environment,
            plugin=(work.producer.distribution, work.producer.version),
            machine=describe_machine(),
            seconds=round(result.seconds, 3),
        )
    body = asdict(found)
    for key in ("ref", "digest", "at"):  # the event has them
        del body[key]
    record = context.registry.add_evidence(ref, REPLAY, body)
    return replace(found, at=record.at)


def compare_files(recorded: Manifest, made: Manifest) -> FileComparison:
    """Compare the files of two manifests by path, size and hash."""
    ours, theirs = _by_path(recorded), _by_path(made)
    both = ours.keys() & theirs.keys()
    return FileComparison(
        same=tuple(sorted(path for path in both if ours[path] == theirs[path])),
        different=tuple(sorted(path for path in both if ours[path] != theirs[path])),
        missing=tuple(sorted(ours.keys() - theirs.keys())),
        added=tuple(sorted(theirs.keys() - ours.keys())),
    )


def find_changes(context: Context, version: Version, result: Result) -> list[Change]:
    """Return what is otherwise than when ``version`` was made, as far as it is on record."""
    recorded, work = version.manifest, result.task.work
    then, now = recorded.environment, work.environment
    changes = [
        Change(package, then.get(package), now.get(package))
        for package in sorted(then.keys() | now.keys())
        if then.get(package) != now.get(package)
    ]
    ours, theirs = recorded.producer, work.producer
    if (ours.distribution, ours.version) != (theirs.distribution, theirs.version):
        names = [f"{each.distribution} {each.version}".rstrip() for each in (ours, theirs)]
        changes.append(Change(f"plugin {theirs.plugin}", *names))
    if ours.config != theirs.config:
        changes.append(Change("configuration", dict(ours.config), dict(theirs.config)))
    if recorded.parents != work.parents:
        inputs = [[asdict(parent) for parent in parents] for parents in (recorded.parents, work.parents)]
        changes.append(Change("inputs", *inputs))
    run = _run_of(context, version)
    device = result.artifact.measured.get("device")
    if run is not None and run.body.get("device", device) != device:
        changes.append(Change("device", run.body["device"], device))
    machine = {} if run is None else run.body.get("machine", {})
    for what, value in describe_machine().items():
        if None not in (before := machine.get(what), value) and before != value:
            changes.append(Change(what, before, value))
    return changes


def _check_inputs(context: Context, version: Version) -> None:
    """Hash the inputs of a version; raise ``CorruptRegistry`` if one is damaged."""
    for parent in version.manifest.parents:
        try:
            context.registry.check_files(parent.digest)
        except CorruptRegistry as error:
            error.message = f"the {parent.role} of {version.ref} cannot be used: {error.message}"
            raise


@dataclass(frozen=True)
class _Judgement:
    """A grade, with the comparison of the models and what of it decided."""

    grade: Grade
    certificate: Mapping[str, Json] | None = None
    reasons: tuple[str, ...] = ()


def _judge(context: Context, version: Version, result: Result, kl: float | None) -> _Judgement:
    """Grade a result whose files differ: compare the models on held-out text, as a certificate does."""
    source = Source(
        f"the replay of {version.ref}",
        result.prepared.digest,
        result.staging.files,
        result.prepared.manifest,
        context.registry.source,
    )
    limits = Tolerance(kl=kl) if kl is not None else result.artifact.tolerance or TOLERANCE
    artifact = replace(result.artifact, tolerance=limits, checked=False)  # the recorded files are compared here
    try:
        if version.state == "rebuildable":
            raise FtregError(f"the files of {version.ref} were given up")
        recorded = context.registry.source(version.digest)
        certificate = certify(context, recorded, source, artifact, result.task.data, accept=True)
    except FtregError as error:
        return _Judgement("different", reasons=(f"the models could not be compared: {error.message}",))
    failures = tuple(certificate["failures"])
    return _Judgement("different" if failures else "within tolerance", certificate, failures)


def _run_of(context: Context, version: Version) -> EvidenceRecord | None:
    """Return the evidence of the newest run that made the version; None if there is none."""
    records = context.registry.evidence(version.digest, "run")
    return records[-1] if records else None


def _by_path(manifest: Manifest) -> dict[str, FileEntry]:
    return {entry.path: entry for entry in manifest.files}


def _described(files: FileComparison) -> list[str]:
    """Say which files differ."""
    verbs = {"differs": files.different, "was not made": files.missing, "is new": files.added}
    return [f"{path} {verb}" for verb, paths in verbs.items() for path in paths]


def _said(value: Json) -> str:
    return "unknown" if value is None else str(value)
