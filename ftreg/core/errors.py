"""Every error that ftreg raises on purpose.

FtregError                  exit code 1: the work failed
├── InputError              exit code 2: what the user gave is wrong
│   ├── UnknownName         a name that nothing goes by, with the nearest known ones
│   ├── RecipeError         a recipe, or a --set, that does not validate
│   ├── DataError           a data file or row that cannot be used
│   ├── InfeasiblePlan      steps that cannot follow one another
│   └── MissingExtra        an optional dependency that is not installed
├── PluginError             a plugin broke its contract
├── CorruptRegistry         stored bytes are not what their digest says
├── RegistryBusy            another process holds the lock that the work needs
├── DiskFull                no room left where the work writes
├── OutOfMemory             no memory left on the device the work runs on
└── CertificateFailed       a derived version moved further from its parent than allowed
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FtregError(Exception):
    """An error to be shown as one message: what is wrong, where, and what to do next.

    Args:
        message: What is wrong, naming the offending value.
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
    """What the user gave cannot be used: a flag, a path, a name, a file."""

    exit_code = 2


class UnknownName(InputError):
    """A name that nothing goes by.

    Args:
        what: What kind of thing was looked for ("method", "recipe key", "model").
        name: The name as given.
        known: The names that exist; the nearest become a "did you mean".
        where: Where the name was given.
        hint: What to do where no known name is near; the known names are listed by default.
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
        super().__init__(f"no {what} is called {name!r}", where=where, hint=hint)
        self.name = name


class RecipeError(InputError):
    """A recipe, or a setting given on the command line, does not validate."""


class DataError(InputError):
    """A data file, or rows of it, cannot be used."""


class InfeasiblePlan(InputError):
    """The asked-for steps cannot follow one another; found before any work starts."""


class MissingExtra(InputError):
    """Something needs a package that is not installed.

    Args:
        what: What needs it, such as "method qlora".
        package: The importable name that is missing.
        extra: The extra of ftreg that brings it, or a requirement to install as it is.
    """

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(f"{what} needs {package}, which is not installed", hint=f"Install it: pip install '{extra}'")
        self.package = package


class PluginError(FtregError):
    """A plugin broke its contract: it failed to load, or returned what its hook does not allow."""


class CorruptRegistry(FtregError):
    """Stored bytes are not what their digest says, or a record points at what is not there."""


class RegistryBusy(FtregError):
    """Another process holds the lock that this work needs; try again when it is done."""


class DiskFull(FtregError):
    """No room is left where the work writes; nothing was published."""


class OutOfMemory(FtregError):
    """The device ran out of memory; nothing was published."""


class CertificateFailed(FtregError):
    """A derived version moved further from its parent than its tolerance allows."""
