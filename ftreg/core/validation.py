"""Validation: says what pydantic finds wrong with a value in ftreg's own words."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

_SHOWN = 60
_OWN_WORDS = ("value_error", "assertion_error")  # raised by a model's own validator
_CHOICES = ("literal_error", "enum")
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


@dataclass(frozen=True)
class FirstProblem:
    """The first thing that is wrong with a mapping.

    Attributes:
        type: Pydantic's name for it, such as ``extra_forbidden``.
        key: Where it is, section by section.
        message: What is wrong.
        others: How many other keys have problems.
        given: The value.
        choices: The values that are allowed, if there is a list of them.
    """

    type: str
    key: list[str]
    message: str
    others: int
    given: Any
    choices: tuple[str, ...]


def first_problem(model: type[BaseModel], error: ValidationError) -> FirstProblem:
    """Return what ``error`` says is wrong first.

    A value that fits none of several types is one problem, although pydantic reports an error for each type.
    """
    # What is missing comes last: often it is there, under a key that is misspelt.
    errors = sorted(error.errors(), key=lambda one: one["type"] == "missing")
    places = [_key_of(model, one["loc"]) for one in errors]
    key, is_union = places[0]
    same = [one for one, place in zip(errors, places, strict=True) if place == (key, True)] if is_union else errors[:1]
    needs = dict.fromkeys(_requirement(one) for one in same)
    first, *others = needs
    text = " or ".join([first, *(other.removeprefix("must be ") for other in others)])
    given = same[0]["input"]
    if errors[0]["type"] not in _OWN_WORDS:
        text = f"{text}, not {_shown(given)}"
    expected = " ".join(one["ctx"]["expected"] for one in same if one["type"] in _CHOICES)
    return FirstProblem(
        type=errors[0]["type"],
        key=key,
        message=text,
        others=len({tuple(place) for place, _ in places}) - 1,
        given=given,
        choices=tuple(re.findall(r"'([^']*)'", expected)),
    )


def without_none(annotation: Any) -> Any:
    """Return the type that an annotation allows beside None; the annotation itself if there are several, or none."""
    kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
    return kinds[0] if get_origin(annotation) in (Union, UnionType) and len(kinds) == 1 else annotation


def _key_of(model: type[BaseModel], location: Sequence[str | int]) -> tuple[list[str], bool]:
    """The keys in a location of pydantic's, and whether they lead to a value that may have several types.

    Behind the key of such a value, pydantic writes which type it tried.
    """
    keys: list[str] = []
    current: Any = model
    for part in location:
        if isinstance(current, type) and issubclass(current, BaseModel):
            field = current.model_fields.get(str(part))
            current = without_none(field.annotation) if field else None
        elif isinstance(part, int) or get_origin(current) in (dict, Mapping):
            current = (get_args(current) or (None,))[-1]
        elif current is not None:
            return keys, True
        keys.append(str(part))
    return keys, False


def _requirement(error: Mapping[str, Any]) -> str:
    """One entry of ``ValidationError.errors()`` in plain English, without the value that was given.

    Errors that a model's own validator raises keep their words. Types that are not known here keep pydantic's words
    without its "Input should".
    """
    kind = error["type"]
    context = {
        name: f"{value:g}" if isinstance(value, float) else value for name, value in error.get("ctx", {}).items()
    }
    if kind in _OWN_WORDS:
        return str(error["msg"]).split(", ", 1)[-1]
    if kind == "string_pattern_mismatch":
        return f"must match the pattern {context['pattern']}"
    if kind == "too_short":
        return f"must have at least {context['min_length']} entries"
    if kind == "too_long":
        return f"must have at most {context['max_length']} entries"
    if kind in _MUST_BE:
        return f"must be {_MUST_BE[kind].format(**context)}"
    return re.sub(r"^Input should ", "must ", str(error["msg"]))


def _shown(value: Any) -> str:
    """The value as a recipe would write it, shortened; only its type if it is something larger."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        return repr(value if len(value) <= _SHOWN else f"{value[:_SHOWN]}...")
    if isinstance(value, dict):
        return "a mapping"
    return "a list" if isinstance(value, list | tuple) else f"a {type(value).__name__}"
