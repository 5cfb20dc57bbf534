"""The plugin guard: every call into a plugin goes through it, so that any failure is reported as that plugin's."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any, TypeVar

from ftreg.core.discovery import DISTRIBUTION, IN_PROCESS, PluginInfo
from ftreg.core.errors import FtregError, PluginError

ResultT = TypeVar("ResultT")


class PluginGuard:
    """Runs plugins' code and attributes its failures.

    Args:
        trace: Write each call, its outcome and its duration to standard error.
    """

    def __init__(self, *, trace: bool = False) -> None:
        self._trace = trace

    def run(self, plugin: PluginInfo, what: str, call: Callable[[], ResultT]) -> ResultT:
        """Run code of ``plugin`` and return its result.

        What the code prints goes to standard error, since standard output is for results.

        Args:
            plugin: The plugin that the code belongs to.
            what: The function's name, for messages.
            call: The code.

        Raises:
            FtregError: The code raised it on purpose; it is passed on unchanged.
            PluginError: The code raised anything else, ``SystemExit`` included.
        """
        started = time.perf_counter()
        outcome = ""
        try:
            with redirect_stdout(sys.stderr):
                result = call()
            if self._trace:
                outcome = f"-> {result!r}"
            return result
        except (KeyboardInterrupt, FtregError) as error:
            outcome = f"raised {describe(error)}"
            raise
        except BaseException as error:  # SystemExit too: a plugin must not end the process
            outcome = f"raised {describe(error)}"
            raise broken(plugin, f"{what} raised {describe(error)}") from error
        finally:
            if self._trace:
                spent = (time.perf_counter() - started) * 1000
                sys.stderr.write(f"[plugin {plugin.name}] {what} {outcome} ({spent:.1f} ms)\n")


def broken(plugin: PluginInfo, problem: str) -> PluginError:
    """Return the error for a plugin that broke its contract, with its distribution and a hint."""
    if plugin.distribution == DISTRIBUTION:
        hint = "This is a bug in ftreg."
    elif plugin.distribution == IN_PROCESS:
        hint = "Correct the plugin that this process registered."
    else:
        hint = f"Report it to the authors of {plugin.distribution}."
    return PluginError(problem, where=plugin.origin, hint=hint)


def resolve_import(target: str) -> Any:
    """Import ``package.module`` or ``package.module:attribute``."""
    module, _, attributes = target.partition(":")
    found: Any = importlib.import_module(module)
    for attribute in filter(None, attributes.split(".")):
        found = getattr(found, attribute)
    return found


def describe(error: BaseException) -> str:
    """Return an exception's type and message on one line."""
    if isinstance(error, FtregError):
        return ". ".join(
            " ".join(line.split()) for line in str(error).splitlines()
        )  # the hint is a sentence of its own
    return " ".join(f"{type(error).__name__}: {error}".split())
