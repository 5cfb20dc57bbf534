"""Extras: which optional part of ftreg brings a package, as the installed distribution's metadata says."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from importlib import metadata

from ftreg.core.errors import MissingExtra

_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+).*;.*\bextra\s*==\s*[\"'](\w+)[\"']")


def missing_extra(error: ModuleNotFoundError, what: str = "this") -> MissingExtra | None:
    """Return the error that names the extra to install; None if no extra brings the module that was not found."""
    package = (error.name or "").partition(".")[0]
    extras = [extra for extra, packages in _packages().items() if package in packages]
    if not extras:
        return None
    smallest = min(extras, key=lambda extra: len(_packages()[extra]))
    return MissingExtra(what, package, f"ftreg[{smallest}]")


def require_extras(what: str, *extras: str) -> None:
    """Raise ``MissingExtra`` for the first package of ``extras`` that is not installed."""
    for extra in extras:
        for package in _packages().get(extra, ()):
            if importlib.util.find_spec(package) is None:
                raise MissingExtra(what, package, f"ftreg[{','.join(extras)}]")


@cache
def _packages() -> dict[str, tuple[str, ...]]:
    """The importable packages that each extra brings; empty if ftreg runs from a folder that is not installed."""
    try:
        requirements = metadata.requires("ftreg") or []
    except metadata.PackageNotFoundError:
        return {}
    found: dict[str, tuple[str, ...]] = {}
    for requirement in requirements:
        if (match := _REQUIREMENT.match(requirement)) and match[1] != "ftreg" and match[2] != "all":
            found[match[2]] = (*found.get(match[2], ()), match[1].replace("-", "_"))
    return found
