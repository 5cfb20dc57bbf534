"""Eviction: gives up the files of versions that a replay has made again, and makes them again when they are needed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime

from ftreg.context import Context
from ftreg.core.discovery import IN_PROCESS
from ftreg.core.errors import CorruptRegistry, InputError
from ftreg.core.types import Version
from ftreg.pipeline.machine import describe_machine
from ftreg.pipeline.recorded import find_installed, template_file
from ftreg.pipeline.replay import REPLAY, compare_files, find_changes, made_again
from ftreg.registry import EvidenceRecord


@dataclass(frozen=True)
class Eviction:
    """A version whose files were, or would be, given up.

    Attributes:
        ref: The version.
        digest: Its digest.
        size: Bytes that this freed, or would free.
    """

    ref: str
    digest: str
    size: int


def evict_version(context: Context, ref: str) -> Eviction:
    """Give up the files of ``ref``, which is made again when it is next opened.

    Raises:
        InputError: Nothing shows that the same files can be made again; see ``obstacle_to_eviction``.
    """
    version = context.registry.get(ref)
    reason = obstacle_to_eviction(context, version)
    if reason is not None:
        hint = f"Show that it can be made again: `ftreg.replay({version.ref!r})`"
        raise InputError(f"the files of {version.ref} cannot be given up: {reason}", hint=hint)
    template = template_file(version)
    freed = context.registry.evict(version.ref, keep=() if template is None else (template,))
    return Eviction(version.ref, version.digest, freed)


def find_evictable(context: Context, *, grace: float = 0.0) -> list[Version]:
    """Return the versions that can be made again, that no alias points to, and whose replay is older than ``grace``.

    Args:
        context: Where to look.
        grace: Seconds.
    """
    found = {}
    for summary in context.registry.summaries(limit=None):
        version = context.registry.get(summary.digest)
        same = context.registry.summaries(digest=summary.digest, limit=None)
        if version.state == "here" and not any(each.aliases for each in same):
            record = _newest_replay(context, version)
            is_old = record is not None and time.time() - datetime.fromisoformat(record.at).timestamp() >= grace
            if is_old and obstacle_to_eviction(context, version) is None:
                found[version.digest] = version
    return list(found.values())


def obstacle_to_eviction(context: Context, version: Version) -> str | None:
    """Say why the files of a version cannot be given up; None if they can.

    They can if its newest replay was bit-exact, with the plugin and the packages that are installed now and on this
    processor, and if what it was made from is undamaged, or can itself be made again.
    """
    if version.state == "rebuildable":
        return "they were given up already"
    if version.manifest.producer.type == "import":
        return "it was imported, so nothing can make them again"
    record = _newest_replay(context, version)
    installed = find_installed(context, version)
    if record is None:
        return "no replay is on record"
    if record.body["grade"] != "bit-exact":
        return f"its newest replay was {record.body['grade']}"
    if installed is None or installed.distribution == IN_PROCESS:
        return "its plugin is not an installed one"
    if record.body["environment"] != installed.environment:
        return "its newest replay was made with other packages than those installed now"
    if record.body["plugin"] != [installed.distribution, installed.version]:
        return "its newest replay was made with another version of its plugin than the one installed now"
    if record.body["machine"]["processor"] != describe_machine()["processor"]:
        return "its newest replay was made on another processor"
    damaged = _damaged_input(context, version)
    return f"{damaged}, which it was made from, is damaged" if damaged else None


def restore_version(context: Context, version: Version) -> None:
    """Make the files of a rebuildable version again, and put them back if they are the same.

    Raises:
        CorruptRegistry: The files differ.
        FtregError: The work cannot be done, or failed.
    """
    producer = version.manifest.producer
    work = f"{producer.type} {producer.name}"
    context.progress.say(f"the files of {version.ref} were given up; they are made again by {work}")
    with made_again(context, version) as result:
        files = compare_files(version.manifest, result.prepared.manifest)
        if files.different or files.missing:
            changes = find_changes(context, version, result)
            because = "; ".join(map(str, changes)) or "nothing on record explains it"
            raise CorruptRegistry(
                f"the files of {version.ref} were given up, and {work} now makes others: "
                f"{', '.join((*files.different, *files.missing))} ({because})",
                where=version.ref,
                hint="Restore the packages and the machine that it was made with, then open it again.",
            )
        context.registry.restore(version.digest, result.prepared)
    context.progress.say(f"{version.ref} has its files again, with the hashes of its manifest")


def _newest_replay(context: Context, version: Version) -> EvidenceRecord | None:
    records = context.registry.evidence(version.digest, REPLAY)
    return records[-1] if records else None


def _damaged_input(context: Context, version: Version) -> str | None:
    """Return a damaged input, or a damaged one behind a rebuildable input, by its reference; None if all are whole."""
    for parent in version.manifest.parents:
        known = context.registry.get(parent.digest)
        try:
            context.registry.check_files(parent.digest, quick=True)
        except CorruptRegistry:
            return known.ref
        if known.state == "rebuildable" and (damaged := _damaged_input(context, known)):
            return damaged
    return None
