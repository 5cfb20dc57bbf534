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
            replays = context.registry.evidence(version.digest, REPLAY)
            is_old = replays and time.time() - datetime.fromisoformat(replays[-1].at).timestamp() >= grace
            if is_old and obstacle_to_eviction(context, version) is None:
                found[version.digest] = version
    return list(found.values())


def obstacle_to_eviction(context: Context, version: Version) -> str | None:
    """Say why the files of a version cannot be given up; None if they can.

    They can if its newest replay was bit-exact, with the plugin and the packages that are installed now and on this
    processor, and if all that it was made from is undamaged, or can be made again for the same reasons.
    """
    if version.state == "rebuildable":
        return "they were given up already"
    if version.manifest.producer.type == "import":
        return "it was imported, so nothing can make them again"
    return _doubt(context, version)


def _doubt(context: Context, version: Version) -> str | None:
    """Say why doing the work of a version again may make other files than its own; None if nothing speaks for that."""
    records = context.registry.evidence(version.digest, REPLAY)
    installed = find_installed(context, version)
    if not records:
        return "no replay is on record"
    replay = records[-1].body
    if replay["grade"] != "bit-exact":
        return f"its newest replay was {replay['grade']}"
    if installed is None or installed.distribution == IN_PROCESS:
        return "its plugin, or a package that it needs, is not installed"
    if replay["environment"] != installed.environment:
        return "its newest replay was made with other packages than those installed now"
    if replay["plugin"] != [installed.distribution, installed.version]:
        return "its newest replay was made with another version of its plugin than the one installed now"
    if replay["machine"]["processor"] != describe_machine()["processor"]:
        return "its newest replay was made on another processor"
    for parent in version.manifest.parents:
        known = context.registry.get(parent.digest)
        try:
            context.registry.check_files(known.digest, quick=True)
        except CorruptRegistry:
            return f"{known.ref}, which it was made from, is damaged"
        if known.state == "rebuildable" and (doubt := _doubt(context, known)):
            return f"{known.ref}, which it was made from, was given up, and {doubt}"
    return None


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
