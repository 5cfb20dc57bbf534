"""The reference of Python: public functions, methods and records, with their signatures and docstrings."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from typing import Any

from ftreg.core.host import resolve_import
from reference.hooks import record_table
from reference.markdown import items, prose, returns, signature


def public_functions(module_name: str, *names: str) -> str:
    """The functions of a module: those that are named, else those of ``__all__``, else those defined in it."""
    module = importlib.import_module(module_name)
    names = names or tuple(getattr(module, "__all__", ())) or tuple(vars(module))
    found = [(name, getattr(module, name)) for name in names if not name.startswith("_")]
    # A module without __all__ is asked for what it defines, not for what it imports.
    own = [(name, one) for name, one in found if hasattr(module, "__all__") or one_of(module_name, one)]
    return "\n\n".join(_function(one, name) for name, one in own if inspect.isfunction(one))


def one_of(module_name: str, value: Any) -> bool:
    """Return True if ``value`` is defined in the module."""
    return getattr(value, "__module__", None) == module_name


def methods_of(target: str) -> str:
    """The public methods and properties of a class, given by its import string."""
    cls = resolve_import(target)
    parts = []
    for name, member in vars(cls).items():
        if name.startswith("_"):
            continue
        if isinstance(member, property):
            parts.append(f"### `{name}`\n\n{prose(member)}")
        elif callable(getattr(cls, name)):
            parts.append(_function(getattr(cls, name), name))
    return "\n\n".join(parts)


def record(target: str) -> str:
    """A dataclass, given by its import string, as a table of its fields."""
    found = resolve_import(target)
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise TypeError(f"{target} is not a dataclass")
    return record_table(found)


def _function(function: Any, name: str) -> str:
    """A function: signature, what it does, arguments, result and errors."""
    parts = [f"### `{name}`", f"```python\ndef {signature(function, name)}: ...\n```", prose(function)]
    arguments = items(function, "Args")
    if arguments:
        parts.append("\n".join(f"- `{one}`: {about}" for one, about in arguments.items()))
    if returns(function):
        parts.append(f"Returns: {returns(function)}")
    raised = items(function, "Raises")
    if raised:
        parts.append("Raises:\n\n" + "\n".join(f"- `{one}`: {about}" for one, about in raised.items()))
    return "\n\n".join(parts)


def errors() -> str:
    """The tree of the errors, as its docstring draws it."""
    from ftreg.core import errors as module

    title, _, tree = (inspect.getdoc(module) or "").partition("\n\n")
    return f"{title}\n\n```text\n{tree}\n```"
