"""The reference of settings: those that ``ftreg settings`` lists."""

from __future__ import annotations

from ftreg.api.settings import settings
from ftreg.core.host import PluginHost
from reference.markdown import table


def settings_of(name: str) -> str:
    """The settings of a method, a step, a metric or a section as a table."""
    rows = [
        [f"`{one.key}`", one.type, "(required)" if one.default is None else f"`{one.default}`", one.description]
        for one in settings(name, PluginHost(only=()))
    ]
    return table(["key", "type", "default", "what it does"], rows) if rows else "It has no settings."
