"""Column mappings: reading the fields of a row format from columns that the file calls otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ftreg.core.errors import DataError, UnknownName
from ftreg.core.specs import FormatSpec
from ftreg.data.rows import NumberedRow


def check_fields(columns: Mapping[str, str], formats: Sequence[FormatSpec]) -> None:
    """Raise ``UnknownName`` for a field of ``columns`` that none of ``formats`` reads."""
    if not all(spec.columns for spec in formats):
        return  # a format that does not say what it reads may read anything
    known = {field for spec in formats for field in spec.columns}
    for field in columns:
        if field not in known:
            expected = "; ".join(f"{spec.name} ({', '.join(spec.columns)})" for spec in formats)
            raise UnknownName(
                "field", field, known, where="data.columns", hint=f"Fields that the row formats read: {expected}."
            )


def rename_columns(numbered: Sequence[NumberedRow], columns: Mapping[str, str]) -> list[NumberedRow]:
    """Return the rows with each field of ``columns`` in the place of the column that it is read from.

    Raises:
        UnknownName: No row has one of the columns.
    """
    found = dict.fromkeys(name for _, row in numbered if not isinstance(row, DataError) for name in row)
    for field, column in columns.items():
        if found and column not in found:
            raise UnknownName("column", column, found, where=f"data.columns.{field}")
    taken = set(columns.values())
    renamed: list[NumberedRow] = []
    for number, row in numbered:
        if not isinstance(row, DataError):
            others = {name: value for name, value in row.items() if name not in taken}
            row = {**others, **{field: row[column] for field, column in columns.items() if column in row}}
        renamed.append((number, row))
    return renamed


def with_origin(message: str, columns: Mapping[str, str]) -> str:
    """Return a message about a row with, for the fields that it names, the columns that they are read from."""
    named = [f"{field} is read from {column!r}" for field, column in columns.items() if repr(field) in message]
    return f"{message} ({', '.join(named)})" if named else message
