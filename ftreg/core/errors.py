"""Every error that ftreg raises on purpose.

FtregError                  exit code 1: the work failed
├── InputError              exit code 2: what the user gave is wrong
│   ├── UnknownName         nothing has the given name; the nearest known names are proposed
│   ├── RecipeError         a recipe, or a setting, does not validate
│   ├── DataError           a data file, or a row of it, cannot be used
│   ├── InfeasiblePlan      the steps cannot follow one another
│   └── MissingExtra        an optional dependency is not installed
├── PluginError             a plugin broke its contract
├── CorruptRegistry         stored files do not match their digests
├── RegistryBusy            another process holds a lock that the work needs
├── DiskFull                the disk is full
├── OutOfMemory             the device that the work runs on is out of memory
└── CertificateFailed       a derived version moved further from its parent than allowed
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FtregError(Exception):
    """An error for the user, shown as one message: what is wrong, where, and what to do next.

    Args:
        message: What is wrong, with the offending value.
        where: The file, row, field or option at fault.
        hint: What to type or change next.
    """

    exit_code = 1

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\n  {self.hint}" if self.hint else text


class InputError(FtregError):
    """Something that the user gave cannot be used: an argument, a path, a name, a file."""

    exit_code = 2


class UnknownName(InputError):
    """Nothing has the given name.

    Args:
        what: What kind of thing was looked for ("method", "recipe key", "model").
        name: The name as given.
        known: The names that exist; the nearest are proposed in a "Did you mean".
        where: Where the name was given.
        hint: What to do if no known name is near; by default the known names are listed.
    """

    def __init__(
        self, what: str, name: str, known: Iterable[str], *, where: str | None = None, hint: str | None = None
    ) -> None:
        names = sorted(set(known))
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
        if near:
            hint = f"Did you mean {' or '.join(near)}?"
        elif hint is None and names:
            hint = f"Known: {', '.join(names[:20])}."
        super().__init__(f"no {what} named {name!r}", where=where, hint=hint)
        self.name = name


class RecipeError(InputError):
    """A recipe, or one of its settings, does not validate."""


class DataError(InputError):
    """A data file, or rows of it, cannot be used."""


class InfeasiblePlan(InputError):
    """The steps of a plan cannot follow one another; raised before any work starts."""


class MissingExtra(InputError):
    """An optional dependency is not installed.

    Args:
        what: What needs it, such as "method qlora".
        package: The name of the missing distribution or module.
        extra: What to install, such as ``ftreg[train]``.
    """

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(f"{what} needs {package}, which is not installed", hint=f"Install it: pip install '{extra}'")
        self.package = package


class PluginError(FtregError):
    """A plugin broke its contract: it failed to load, or returned what its hook does not allow."""


class CorruptRegistry(FtregError):
    """Stored files do not match their digests, or a record refers to something that is missing."""


class RegistryBusy(FtregError):
    """Another process holds a lock that the work needs; try again when it is done."""


class DiskFull(FtregError):
    """The disk that the work writes to is full; nothing was published."""


class OutOfMemory(FtregError):
    """The device ran out of memory; nothing was published."""


class CertificateFailed(FtregError):
    """A derived version moved further from its parent than its tolerance allows."""
