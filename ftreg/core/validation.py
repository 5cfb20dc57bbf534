"""Validation: says what pydantic finds wrong with a value in ftreg's own words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_SHOWN = 60
# What a value must be, by pydantic's error type; the braces take the error's context. A type has two errors: the value
# is of another type, or it is a text that cannot be read as one.
_MUST_BE: Mapping[str, str] = {
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "multiple_of": "a multiple of {multiple_of}",
    "finite_number": "a finite number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "string_too_short": "at least {min_length} characters long",
    "string_too_long": "at most {max_length} characters long",
    "literal_error": "{expected}",
    "enum": "{expected}",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "iterable_type": "a list",
    "dict_type": "a mapping of keys to values",
    "mapping_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "none_required": "left out",
    "path_type": "a path",
}


def describe_error(error: Mapping[str, Any]) -> str:
    """Return one entry of ``ValidationError.errors()`` as plain English, with the value that was given.

    Errors that a model's own validator raises keep their words. Types that are not known here keep pydantic's words
    without its "Input should be".
    """
    kind, context = error["type"], error.get("ctx") or {}
    if kind in ("value_error", "assertion_error"):
        return str(error["msg"]).split(", ", 1)[-1]
    if kind == "string_pattern_mismatch":
        text = f"does not match the pattern {context['pattern']}"
    elif kind in ("too_short", "too_long"):
        bound = (
            f"at least {context.get('min_length')}" if kind == "too_short" else f"at most {context.get('max_length')}"
        )
        text = f"must have {bound} entries"
    elif kind in _MUST_BE:
        text = f"must be {_MUST_BE[kind].format(**context)}"
    else:
        text = re.sub(r"^Input should (have|be)", r"must \1", str(error["msg"]))
    return f"{text}, not {_shown(error['input'])}"


def _shown(value: Any) -> str:
    """The value as a recipe would write it, shortened; only its type if it is something larger."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        return repr(value if len(value) <= _SHOWN else f"{value[:_SHOWN]}...")
    if isinstance(value, dict):
        return "a mapping"
    return "a list" if isinstance(value, list | tuple) else f"a {type(value).__name__}"
