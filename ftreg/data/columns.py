"""Columns: helpers for row formats, which read a column as text and keep the columns that they do not use."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ftreg.core.errors import DataError
from ftreg.core.manifest import Json


def text_of(row: Mapping[str, Json], column: str, *, required: bool = True) -> str:
    """Return the text in ``column`` of ``row``.

    Args:
        row: Column names and values.
        column: The column to read.
        required: Raise for a column that is missing or blank; otherwise it is read as the empty text.

    Raises:
        DataError: The column is missing or blank although it is required, or its value is not text.
    """
    value = row.get(column)
    if isinstance(value, str):
        if required and not value.strip():
            raise DataError(f"column {column!r} is empty")
        return value
    if value is not None:
        raise DataError(f"column {column!r} holds {kind_of(value)}, not text")
    if required:
        raise DataError(f"column {column!r} is {'empty' if column in row else 'missing'}")
    return ""


def other_fields(row: Mapping[str, Json], used: Collection[str]) -> dict[str, Json]:
    """Return the columns of ``row`` that its format does not use; an example keeps them, for splits and reports."""
    return {column: value for column, value in row.items() if column not in used}


def kind_of(value: Json) -> str:
    """Describe a JSON value for a message: its type, and the value itself if it is short."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"the truth value {str(value).lower()}"
    if isinstance(value, int | float):
        return f"the number {value}"
    return "a list" if isinstance(value, list) else "text" if isinstance(value, str) else "an object"
