"""``ftreg models``: list, show, tag, alias, evict and delete versions, and read the event log."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, NoReturn

import click

from ftreg.cli.command import Group
from ftreg.cli.completion import complete_refs
from ftreg.cli.options import version_facts
from ftreg.cli.policy import golden_command, policy_command
from ftreg.cli.session import Session, human_size, json_option, moment
from ftreg.core.errors import InputError
from ftreg.core.names import parse_ref

if TYPE_CHECKING:
    from ftreg.registry import Event, Registry, Summary

_ref_argument = click.argument("ref", shell_complete=complete_refs)


@click.group(cls=Group)
def command() -> None:
    """List, show, tag, alias, evict and delete versions.

    REF is a name (its newest version), name:3, name@alias, or the beginning of a digest such as b3:1f09.
    """


@command.command(
    "list", examples=["ftreg models list", "ftreg models list --name support-bot --kind adapter --tag stage=test"]
)
@click.option("--name", help="Only versions of this name.")
@click.option("--kind", help="Only this kind, such as checkpoint, adapter, onnx or dataset.")
@click.option("--tag", "tags", metavar="KEY=VALUE", multiple=True, help="Only with this tag; can be repeated.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Show at most this many.")
@json_option
@click.pass_obj
def list_command(
    session: Session, name: str | None, kind: str | None, tags: tuple[str, ...], limit: int, as_json: bool
) -> None:
    """List versions, newest first."""
    registry = session.registry
    if kind is not None:
        from ftreg.api.versions import check_kind

        check_kind(kind, registry=registry)
    found = registry.summaries(name=name, kind=kind, tags=_read_tags(tags, "--tag"), limit=limit)
    if as_json:
        session.json([{"ref": version.ref, **asdict(version)} for version in found])
        return
    if not found:
        session.progress.say("no such version" if registry.count() else "the registry is empty")
        return
    columns = ["version", "aliases", "kind", "made by", "size", "state", "created (UTC)", "tags"]
    rows = [_row(version) for version in found]
    if all(version.state == "here" for version in found):
        place = columns.index("state")
        columns, rows = [*columns[:place], *columns[place + 1 :]], [[*row[:place], *row[place + 1 :]] for row in rows]
    session.table(columns, rows, right=["size"], optional=["created (UTC)", "made by", "tags"])
    if len(found) == limit < registry.count():
        session.progress.say(f"only the newest {limit} are shown; --limit shows more")


def _row(version: Summary) -> list[str]:
    tags = " ".join(f"{key}={value}" for key, value in version.tags.items())
    aliases = " ".join(f"@{alias}" for alias in version.aliases)
    created = moment(version.created)
    return [
        version.ref,
        aliases,
        version.kind,
        version.producer,
        human_size(version.size),
        version.state,
        created,
        tags,
    ]


@command.command("show", examples=["ftreg models show support-bot@champion", "ftreg models show support-bot:2 --json"])
@_ref_argument
@json_option
@click.pass_obj
def show_command(session: Session, ref: str, as_json: bool) -> None:
    """Show everything about REF: files, parents, how it was made, what was measured, where its files are."""
    from ftreg.api.versions import card
    from ftreg.cli.card import lines_of

    facts = card(ref, registry=session.registry)
    if as_json:
        session.json(facts)
        return
    for line in lines_of(facts):
        session.print(line)


@command.command("log", examples=["ftreg models log", "ftreg models log support-bot --at 2026-03-03"])
@click.argument("name", required=False, shell_complete=complete_refs)
@click.option("--at", metavar="DATE", help="Show where the aliases of NAME pointed at that time, such as 2026-03-03.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Show at most this many.")
@json_option
@click.pass_obj
def log_command(session: Session, name: str | None, at: str | None, limit: int, as_json: bool) -> None:
    """Show the event log, newest first: of all versions, of NAME, or of one version such as NAME:3."""
    if at is not None:
        if name is None:
            raise InputError("NAME is missing", where="--at", hint="Write: ftreg models log NAME --at DATE")
        events = _aliases_at(session, name, at)
    else:
        events = session.registry.events(name, limit=limit)
    shared = None if name is None else parse_ref(name).name or session.registry.get(name).name
    subjects = [_subject(session, event, shared) for event in events]
    if as_json:
        session.json([{"ref": ref, **asdict(event)} for ref, event in zip(subjects, events, strict=True)])
        return
    session.table(
        ["when (UTC)", "who", "version", "what"],
        [
            [
                moment(event.at),
                f"{event.user}@{event.host}",
                ref or "the registry",
                _action(session, event, ref),
            ]
            for ref, event in zip(subjects, events, strict=True)
        ],
        optional=["who"],
    )


def _aliases_at(session: Session, name: str, at: str) -> list[Event]:
    """The events that set the aliases of ``name`` as they were at ``at``; a date alone means the end of that day."""
    from datetime import datetime, timedelta

    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        raise InputError(f"{at!r} is not a date", where="--at", hint="Write 2026-03-03 or 2026-03-03T14:30.") from None
    if len(at) <= len("2026-03-03"):
        moment += timedelta(days=1, microseconds=-1)
    aliases = {event.detail["alias"] for event in session.registry.events(name) if event.action == "alias_set"}
    found = [session.registry.alias_at(name, alias, moment) for alias in sorted(aliases)]
    return [event for event in found if event is not None]


@command.command(
    "tag", examples=["ftreg models tag support-bot:2 stage=test", "ftreg models tag support-bot:2 --remove stage"]
)
@_ref_argument
@click.argument("tags", metavar="KEY=VALUE...", nargs=-1)
@click.option("--remove", metavar="KEY", multiple=True, help="Remove a tag; can be repeated.")
@json_option
@click.pass_obj
def tag_command(session: Session, ref: str, tags: tuple[str, ...], remove: tuple[str, ...], as_json: bool) -> None:
    """Set tags of REF, or remove them."""
    if "=" in ref:
        _refuse_tag_first([ref, *tags])
    given = _read_tags(tags, "KEY=VALUE")
    if not given and not remove:
        raise InputError("no tag is given", hint=f"Write: ftreg models tag {ref} key=value")
    ref = session.registry.get(ref).ref
    for key in remove:
        session.registry.untag(ref, key)
    for key, value in given.items():
        session.registry.tag(ref, key, value)
    version = session.registry.get(ref)
    if as_json:
        session.json(version_facts(session, version) | {"tags": dict(version.tags)})
    else:
        session.progress.say(f"{ref}: " + " ".join(f"{key}={value}" for key, value in version.tags.items()))


def _refuse_tag_first(arguments: Sequence[str]) -> NoReturn:
    """Raise ``InputError`` with the right command for a tag, which no reference can be, in the place of the version."""
    tags = [text for text in arguments if "=" in text]
    refs = [text for text in arguments if "=" not in text] or ["REF"]
    hint = f"Write: ftreg models tag {shlex.join([*refs, *tags])}"
    raise InputError(f"{arguments[0]!r} is a tag: the version comes first", hint=hint)


@command.command(
    "alias",
    examples=["ftreg models alias support-bot:2 champion", "ftreg models alias support-bot champion --remove"],
)
@_ref_argument
@click.argument("alias")
@click.option("--remove", is_flag=True, help="Remove the alias instead; REF may be the name alone.")
@json_option
@click.pass_obj
def alias_command(session: Session, ref: str, alias: str, remove: bool, as_json: bool) -> None:
    """Point ALIAS, such as champion, at REF. Plugins' gates may refuse."""
    registry = session.registry
    _refuse_swapped(registry, ref, alias)
    if remove:
        name = parse_ref(ref).name or registry.get(ref).name
        registry.remove_alias(name, alias)
        facts: dict[str, object] = {"name": name, "alias": alias, "removed": True}
        told = f"{name}@{alias} no longer exists"
    else:
        version = registry.set_alias(ref, alias)
        facts = version_facts(session, version) | {"name": version.name, "alias": alias}
        told = f"{version.name}@{alias} now points to {version.ref}"
    if as_json:
        session.json(facts)
    else:
        session.progress.say(told)


def _refuse_swapped(registry: Registry, ref: str, alias: str) -> None:
    """Raise ``InputError`` if ``alias`` names a version and ``ref`` does not: the arguments are swapped."""
    try:
        registry.get(alias)
    except InputError:
        return
    try:
        registry.get(ref)
    except InputError:
        hint = f"Write: ftreg models alias {alias} {ref}"
        raise InputError(f"{ref!r} is not a version, but {alias!r} is: the version comes first", hint=hint) from None


command.add_command(golden_command)
command.add_command(policy_command)


@command.command("delete", examples=["ftreg models delete support-bot:1", "ftreg models delete support-bot:1 --force"])
@_ref_argument
@click.option("--force", is_flag=True, help="Delete it even if other versions were made from it.")
@json_option
@click.pass_obj
def delete_command(session: Session, ref: str, force: bool, as_json: bool) -> None:
    """Delete the version REF, given by number or digest; `ftreg gc` frees its bytes."""
    version = session.registry.get(ref)
    kept_for = session.registry.delete(ref, force=force)
    if as_json:
        facts = {"ref": version.ref, "kind": version.kind, "digest": version.digest, "size": version.size}
        session.json(facts | {"deleted": True, "kept_for": kept_for})
    else:
        bytes_are = f"its bytes are kept for {', '.join(kept_for)}" if kept_for else "ftreg gc frees its bytes"
        session.progress.say(f"{version.ref} was deleted; {bytes_are}")


@command.command("evict", examples=["ftreg models evict support-bot-merged:1"])
@_ref_argument
@json_option
@click.pass_obj
def evict_command(session: Session, ref: str, as_json: bool) -> None:
    """Give up the files of REF, which a replay has made again bit by bit.

    What opens REF later makes the files again, and checks them. Its manifest, lineage and evidence stay.
    """
    from ftreg.api import upkeep

    found = upkeep.evict(ref, **session.api_arguments)
    if as_json:
        session.json(asdict(found))
    else:
        session.print(f"{found.ref} is rebuildable; {human_size(found.size)} were freed")


@command.command("restore", examples=["ftreg models restore support-bot-merged:1"])
@_ref_argument
@json_option
@click.pass_obj
def restore_command(session: Session, ref: str, as_json: bool) -> None:
    """Make the files of REF again if they were given up."""
    from ftreg.api import upkeep

    version = upkeep.restore(ref, **session.api_arguments)
    if as_json:
        session.json(version_facts(session, version))
    else:
        session.progress.say(f"{version.ref} has its files")


def _read_tags(tags: tuple[str, ...], where: str) -> dict[str, str]:
    """Read ``key=value`` strings; raise ``InputError`` for one without ``=``, or a key given twice."""
    read: dict[str, str] = {}
    for tag in tags:
        key, equals, value = tag.partition("=")
        if not equals:
            raise InputError(f"{tag!r} is not a tag", where=where, hint="Write key=value.")
        if key in read:
            raise InputError(f"{key!r} is given twice", where=where, hint="Keep one of the two.")
        read[key] = value
    return read


def _subject(session: Session, event: Event, name: str | None) -> str | None:
    """The version that an event is about, in the log of ``name`` or of all versions; None for the registry.

    What was recorded for another version with the same digest is about the version of ``name`` too.
    """
    if event.digest is None or (event.name is not None and name in (None, event.name)):
        return event.ref
    return _ref(session, event.digest, name)


def _ref(session: Session, digest: str, name: str | None) -> str:
    """The reference of a digest; the beginning of the digest if the log does not say how it was called."""
    return session.registry.ref_of(digest, name=name) or digest[:15]


def _action(session: Session, event: Event, ref: str | None) -> str:
    """Describe what an event did to ``ref``."""
    detail: Mapping[str, str] = event.detail
    match event.action:
        case "alias_set":
            old = f" after {_ref(session, detail['old'], event.name)}" if detail["old"] else ""
            return f"became @{detail['alias']}{old}"
        case "alias_removed":
            return f"is no longer @{detail['alias']}"
        case "tagged":
            return f"tagged {detail['key']}={detail['value']}"
        case "untagged":
            return f"untagged {detail['key']}"
        case "policy_set":
            policy = event.detail["policy"]
            rules = [f"{rule}={value}" for rule, value in policy.items()] if policy else ["none"]
            return f"policy: {' '.join(rules)}"
        case "gate_enlisted":
            return f"is guarded by plugin {detail['plugin']} ({detail['distribution']}): {detail['hook']}"
        case "gate_released":
            return f"is no longer guarded by plugin {detail['plugin']}"
        case "evidence":
            return f"{detail['type']} recorded" + (f" for {event.ref}, the same digest" if event.ref != ref else "")
        case "evicted":
            return "was evicted: its files were given up"
        case "restored":
            return "was restored: its files are here again"
        case action:
            return action
