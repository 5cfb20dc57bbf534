"""Opening: what every public function does first, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from ftreg.context import Context
from ftreg.core.faults import fault_of
from ftreg.core.types import NullProgress, Progress, Version
from ftreg.registry import Registry


@contextmanager
def opened(registry: Registry | None, progress: Progress | None) -> Iterator[Context]:
    """Yield the context to work in; if ``registry`` is None, open the default one and close it afterwards.

    What the machine raises meanwhile, such as a full disk or a package that is not installed, becomes an error of
    ftreg's that says what to do.
    """
    used = registry if registry is not None else Registry()
    try:
        context = Context(used, progress or NullProgress())
        with used.making_again(partial(_restore, context)):
            yield context
    except Exception as error:
        fault = fault_of(error, used.home)
        if fault is None:
            raise
        raise fault from error
    finally:
        if registry is None:
            used.close()


def _restore(context: Context, version: Version) -> None:
    """Make the files of a version again that were given up."""
    from ftreg.pipeline.eviction import restore_version  # few versions need it

    restore_version(context, version)
