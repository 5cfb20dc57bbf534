"""Extras: which optional part of ftreg brings a package, as the installed distribution's metadata says."""

from __future__ import annotations

import re
from functools import cache
from importlib import metadata
from traceback import walk_tb
from types import TracebackType

from ftreg.core.errors import MissingExtra
from ftreg.core.requirements import Requirement

_OPTIONAL = re.compile(r"([A-Za-z0-9._-]+).*;.*\bextra\s*==\s*[\"'](\w+)[\"']")


def missing_extra(error: ModuleNotFoundError) -> MissingExtra | None:
    """Return the error that names the extra to install; None if no extra brings the module that was not found."""
    package = (error.name or "").partition(".")[0]
    bringing = [needed for needed in _extras().values() if any(one.importable == package for one in needed)]
    if not bringing:
        return None
    smallest = min(bringing, key=len)
    return MissingExtra(_what_needs_it(error.__traceback__), package, smallest[0].install)


def _what_needs_it(trace: TracebackType | None) -> str:
    """Return the function of ``ftreg.api`` that was called, as code; the module that imports if none was."""
    frames = [frame for frame, _ in walk_tb(trace)]
    names = [(str(frame.f_globals.get("__name__")), frame.f_code.co_name) for frame in frames]
    for module, function in names:
        if module.startswith("ftreg.api.") and module != "ftreg.api.opening":
            return f"`{module}.{function}()`"
    return next((module for module, _ in reversed(names) if module.startswith("ftreg.")), "ftreg")


def require_extras(what: str, *extras: str) -> None:
    """Raise ``MissingExtra`` for the first package of ``extras`` that is not installed."""
    for extra in extras:
        for requirement in _extras().get(extra, ()):
            if not requirement.is_installed:
                raise MissingExtra(what, requirement.importable, f"ftreg[{','.join(extras)}]")


@cache
def _extras() -> dict[str, list[Requirement]]:
    """What each extra brings; empty if ftreg runs from a folder that is not installed."""
    try:
        requirements = metadata.requires("ftreg") or []
    except metadata.PackageNotFoundError:
        return {}
    found: dict[str, list[Requirement]] = {}
    for line in requirements:
        if (match := _OPTIONAL.match(line)) and match[1] != "ftreg" and match[2] != "all":
            found.setdefault(match[2], []).append(Requirement(match[1], f"ftreg[{match[2]}]"))
    return found
