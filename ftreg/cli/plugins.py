"""``ftreg plugins``: the installed plugins, what they provide, and the settings of what they provide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import click

from ftreg.cli.command import Group
from ftreg.cli.session import Session, json_option
from ftreg.core.discovery import PluginInfo
from ftreg.core.errors import FtregError, UnknownName
from ftreg.core.host import PluginHost
from ftreg.core.registration import KINDS
from ftreg.core.specs import ConfiguredSpec, Spec


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001
    host: PluginHost = ctx.find_root().obj.host
    names = {*(plugin.name for plugin in host.plugins), *(spec.name for spec in _all_specs(host))}
    return sorted(name for name in names if name.startswith(incomplete))


_KINDS: Mapping[str, type[Spec]] = {kind.what: kind for kind in KINDS.values()}


@click.group(cls=Group)
def command() -> None:
    """List plugins and what they provide."""


@command.command("list", examples=["ftreg plugins list", "ftreg plugins list --kind method"])
@click.option("--kind", type=click.Choice(list(_KINDS)), help="List the contributions of one kind instead.")
@json_option
@click.pass_obj
def list_(session: Session, kind: str | None, as_json: bool) -> None:
    """List the installed plugins, including those that failed to load, with the reason."""
    if kind is not None:
        _list_kind(session, _KINDS[kind], as_json)
    elif as_json:
        session.json([asdict(plugin) for plugin in session.host.plugins])
    else:
        session.table(
            ("plugin", "distribution", "version", "state", "provides"),
            [
                [plugin.name, plugin.distribution, plugin.version, plugin.state, ", ".join(plugin.provides)]
                for plugin in session.host.plugins
            ],
            optional=("version", "distribution"),
        )
        for plugin in session.host.plugins:
            if plugin.reason:
                session.print(f"{_title(plugin)} {plugin.state}: {plugin.reason}")


@command.command(examples=["ftreg plugins info lora", "ftreg plugins info quantize --json"])
@click.argument("name", shell_complete=_complete)
@json_option
@click.pass_obj
def info(session: Session, name: str, as_json: bool) -> None:
    """Show everything about NAME: a plugin, or a method, step, engine, format, metric or command.

    With --json: a list of everything that goes by this name; ``config`` is the JSON schema of the settings.
    """
    host = session.host
    plugins = [plugin for plugin in host.plugins if plugin.name == name]
    specs = [spec for spec in _all_specs(host) if spec.name == name]
    if not plugins and not specs:
        known = {plugin.name for plugin in host.plugins} | {spec.name for spec in _all_specs(host)}
        raise UnknownName("plugin or contribution", name, known)
    facts = [{"what": "plugin", **asdict(plugin)} for plugin in plugins] + [_facts(host, spec) for spec in specs]
    if as_json:
        session.json(facts)
    else:
        for index, entry in enumerate(facts):
            if index:
                session.print("")
            _show(session, entry)


@command.command(examples=["ftreg plugins release licence-gate"])
@click.argument("name", shell_complete=_complete)
@json_option
@click.pass_obj
def release(session: Session, name: str, as_json: bool) -> None:
    """Remove the gate of plugin NAME from those that guard this registry; the event log records who did.

    A gate that has guarded a registry must be loaded to publish versions or to move aliases there. Release one that is
    gone for good.
    """
    session.registry.release_gate(name)
    if as_json:
        session.json([asdict(gate) for gate in session.registry.gates()])
    else:
        session.progress.say(f"the gate of plugin {name} no longer guards {session.registry.home}")


def _list_kind(session: Session, kind: type[Spec], as_json: bool) -> None:
    """List every contribution of one kind."""
    host = session.host
    rows = []
    for spec in host.specs(kind):
        plugin = host.provider(spec)
        rows.append(
            {
                "name": spec.name,
                "summary": spec.summary,
                "plugin": plugin.name,
                "distribution": plugin.distribution,
                "version": plugin.version,
                "missing": [requirement.install for requirement in host.missing(spec)],
            }
        )
    if as_json:
        session.json(rows)
    else:
        session.table(
            (kind.what, "summary", "plugin", "distribution", "still to install"),
            [[row["name"], row["summary"], row["plugin"], row["distribution"], _once(row["missing"])] for row in rows],
            optional=("distribution", "plugin"),
        )


def _all_specs(host: PluginHost) -> list[Spec]:
    return [spec for kind in KINDS.values() for spec in host.specs(kind)]


def _facts(host: PluginHost, spec: Spec) -> dict[str, Any]:
    """The facts of a contribution, as JSON."""
    plugin = host.provider(spec)
    missing = host.missing(spec)
    facts: dict[str, Any] = {"what": spec.what, "name": spec.name, "summary": spec.summary}
    facts |= {"plugin": plugin.name, "distribution": plugin.distribution, "version": plugin.version, "impl": spec.impl}
    for field in fields(spec):
        if field.name not in (*facts, "requires", "config"):
            value = getattr(spec, field.name)
            facts[field.name] = sorted(value) if isinstance(value, frozenset) else value
    facts["requires"] = [
        {"distribution": needed.distribution, "install": needed.install, "installed": needed not in missing}
        for needed in spec.requires
    ]
    if isinstance(spec, ConfiguredSpec):
        facts["config"], facts["config_error"] = _schema(host, spec)
    return facts


def _schema(host: PluginHost, spec: ConfiguredSpec) -> tuple[dict[str, Any] | None, str]:
    """The JSON schema of a contribution's settings; None and the reason if it cannot be loaded."""
    try:
        return host.config_model(spec).model_json_schema(), ""
    except FtregError as error:
        return None, str(error)


def _show(session: Session, entry: Mapping[str, Any]) -> None:
    """Print the facts of a plugin or a contribution."""
    from ftreg.api.settings import describe
    from ftreg.cli.settings import show_settings

    hidden = ("what", "name", "config", "config_error", "requires")
    session.print(f"{entry['what']} {entry['name']}", style="bold")
    lines = {key: value for key, value in entry.items() if key not in hidden and value not in ("", (), [])}
    if entry.get("requires"):
        lines["requires"] = [
            needed["distribution"] + ("" if needed["installed"] else f" (missing: pip install '{needed['install']}')")
            for needed in entry["requires"]
        ]
    for key, value in lines.items():
        shown = ", ".join(value) if isinstance(value, list | tuple) else value
        session.print(f"  {key:<13} {shown}")
    if entry.get("config_error"):
        session.print(f"  {'settings':<13} cannot be shown: {entry['config_error']}")
    elif found := list(describe(entry.get("config") or {})):
        show_settings(session, found)


def _title(plugin: PluginInfo) -> str:
    return f"plugin {plugin.name} ({plugin.distribution} {plugin.version})"


def _once(values: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(values))
