"""The guard: how the host imports and calls what plugins brought, and what it says of their failures."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any, TypeVar

from ftreg.core.errors import FtregError

ResultT = TypeVar("ResultT")


class Guard:
    """Runs plugins' code.

    Args:
        trace: Write what is run, its outcome and how long it took to standard error.
    """

    def __init__(self, *, trace: bool = False) -> None:
        self._trace = trace

    def run(self, plugin: str, what: str, call: Callable[[], ResultT]) -> ResultT:
        """Run code of ``plugin``; what it prints goes to standard error, for standard output holds facts alone."""
        started = time.perf_counter()
        outcome = ""
        try:
            with redirect_stdout(sys.stderr):
                result = call()
            if self._trace:
                outcome = f"-> {result!r}"
            return result
        except BaseException as error:
            outcome = f"raised {describe(error)}"
            raise
        finally:
            if self._trace:
                spent = (time.perf_counter() - started) * 1000
                sys.stderr.write(f"[plugin {plugin}] {what} {outcome} ({spent:.1f} ms)\n")


def resolve_import(target: str) -> Any:
    """Import ``package.module`` or ``package.module:attribute``."""
    module, _, attributes = target.partition(":")
    found: Any = importlib.import_module(module)
    for attribute in filter(None, attributes.split(".")):
        found = getattr(found, attribute)
    return found


def describe(error: BaseException) -> str:
    """An exception on one line."""
    text = str(error) if isinstance(error, FtregError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())
