"""Loading: from a data file to examples, through the row format that fits its columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import cast

from ftreg.core.errors import DataError
from ftreg.core.host import PluginHost
from ftreg.core.specs import FormatSpec
from ftreg.core.types import Example, Format
from ftreg.data.mapping import check_fields, rename_columns, with_origin
from ftreg.data.rows import NumberedRow, Row, place, read_rows

_ROWS_TO_DETECT_BY = 1000


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used: its number in the file, and what is wrong."""

    row: int
    message: str


@dataclass(frozen=True)
class DataFile:
    """A data file as it was read.

    Attributes:
        path: The file.
        format: Name of the row format.
        examples: The examples of all good rows.
        rows: For each example, its row's number in the file.
        bad: All rows that cannot be used.
    """

    path: Path
    format: str
    examples: Sequence[Example]
    rows: Sequence[int]
    bad: Sequence[BadRow]


def load_examples(
    path: Path,
    *,
    format: str = "auto",  # noqa: A002
    columns: Mapping[str, str] = MappingProxyType({}),
    host: PluginHost,
) -> tuple[list[Example], str]:
    """Load the examples of a data file, and the name of its row format, as ``stream_examples`` does one by one."""
    examples, name = stream_examples(path, format=format, columns=columns, host=host)
    return list(examples), name


def stream_examples(
    path: Path,
    *,
    format: str = "auto",  # noqa: A002
    columns: Mapping[str, str] = MappingProxyType({}),
    host: PluginHost,
) -> tuple[Iterator[Example], str]:
    """Open a data file, to read its examples one after the other; return these, and the name of its row format.

    A file of JSON Lines or Parquet takes no memory in this way. Bad rows are an error once all rows are read.

    Args:
        path: The file.
        format: Name of the row format; ``auto`` detects it.
        columns: For fields of the row format, the columns of the file to read them from, such as
            ``{"prompt": "Question"}``. A column that is mapped is not read under its own name.
        host: The plugins that bring the formats.

    Raises:
        DataError: The file, or the first bad row of it, cannot be used; no format, or more than one, fits its columns.
        MissingExtra: Reading it needs a package that is not installed.
        UnknownName: No format is called ``format``, no format reads a field of ``columns``, or the file lacks a column.
    """
    rows, name = _open(path, format, columns, host)
    return _good(path, rows), name


def read_data(
    path: Path,
    *,
    format: str = "auto",  # noqa: A002
    columns: Mapping[str, str] = MappingProxyType({}),
    host: PluginHost,
) -> DataFile:
    """Read a data file, bad rows and all; arguments, and errors that concern the whole file, as ``stream_examples``."""
    found, name = _open(path, format, columns, host)
    examples, rows, bad = [], [], []
    for number, example in found:
        if isinstance(example, BadRow):
            bad.append(example)
        else:
            examples.append(example)
            rows.append(number)
    return DataFile(path, name, examples, rows, bad)


def _open(
    path: Path,
    format: str,  # noqa: A002
    columns: Mapping[str, str],
    host: PluginHost,
) -> tuple[Iterator[tuple[int, Example | BadRow]], str]:
    """Return what is in each row of a data file, with the row's number, and the name of the row format."""
    specs = host.specs(FormatSpec) if format == "auto" else [host.get(FormatSpec, format, where="format")]
    check_fields(columns, specs)
    numbered = read_rows(path)
    if columns:
        numbered = iter(rename_columns(list(numbered), columns))
    head = list(_head(numbered))
    if not head:
        raise DataError("the file holds no rows", where=str(path))
    name = _detect(path, head, host) if format == "auto" else format
    spec = host.get(FormatSpec, name)
    return _converted(path, chain(head, numbered), columns, host, spec), name


def _head(numbered: Iterator[NumberedRow]) -> Iterator[NumberedRow]:
    """Yield rows until there are enough readable ones to detect the format by."""
    readable = 0
    for number, row in numbered:
        yield number, row
        readable += not isinstance(row, DataError)
        if readable == _ROWS_TO_DETECT_BY:
            return


def _converted(
    path: Path, numbered: Iterable[NumberedRow], columns: Mapping[str, str], host: PluginHost, spec: FormatSpec
) -> Iterator[tuple[int, Example | BadRow]]:
    """Yield the example of each row, or what is wrong with the row."""
    rules = _load_format(host, spec)
    for number, row in numbered:
        try:
            if isinstance(row, DataError):
                raise row
            yield number, _convert(host, spec, rules, row, place(path, number))
        except DataError as error:
            yield number, BadRow(number, with_origin(error.message, columns))


def _good(path: Path, rows: Iterable[tuple[int, Example | BadRow]]) -> Iterator[Example]:
    """Yield the examples; raise ``DataError`` at the end if there are bad rows."""
    bad: BadRow | None = None
    others = -1
    for _, found in rows:
        if isinstance(found, BadRow):
            bad = bad or found
            others += 1
        else:
            yield found
    if bad is not None:
        more = f" (and {others} more bad row{'s' if others > 1 else ''})" if others else ""
        raise DataError(
            f"{bad.message}{more}",
            where=place(path, bad.row),
            hint=f"See all of them: `ftreg.api.data.check({str(path)!r})`",
        )


def _detect(path: Path, numbered: Sequence[NumberedRow], host: PluginHost) -> str:
    """Return the one format that at least half of the rows match; raise ``DataError`` if none does, or several do."""
    sample = [row for _, row in numbered if not isinstance(row, DataError)]
    if not sample:
        number, error = numbered[0]
        assert isinstance(error, DataError)
        raise DataError(f"{error.message}; no row of the file can be read", where=place(path, number))
    names = [spec.name for spec in host.specs(FormatSpec)]
    votes = {name: _count_matches(host, name, sample) for name in names}
    fitting = [name for name, count in votes.items() if count * 2 >= len(sample)]
    if len(fitting) == 1:
        return fitting[0]
    columns = Counter(column for row in sample for column in row)
    found = ", ".join(repr(column) for column, _ in columns.most_common(12)) or "none"
    known = "; ".join(f"{spec.name} ({', '.join(spec.columns)})" for spec in host.specs(FormatSpec))
    if fitting:
        raise DataError(
            f"the columns {found} fit more than one format: {', '.join(fitting)}",
            where=str(path),
            hint=f"Name one with `format`, such as {fitting[0]}, or under data in a recipe.",
        )
    mapping = "If only the names differ, map them with `columns={'prompt': 'Question'}`, or under data in a recipe."
    raise DataError(f"no format fits the columns: {found}", where=str(path), hint=f"Formats: {known}.\n  {mapping}")


def _count_matches(host: PluginHost, name: str, rows: Sequence[Row]) -> int:
    """How many of ``rows`` a format recognizes; raise ``PluginError`` if it says anything but yes or no."""
    spec = host.get(FormatSpec, name)
    rules = _load_format(host, spec)
    answers = host.run(spec, f"{spec.impl}.matches", lambda: [rules.matches(row) for row in rows], returns=list)
    for answer in answers:
        if not isinstance(answer, bool):
            raise host.broken(spec, f"matches returned {answer!r}, not True or False")
    return sum(answers)


def _load_format(host: PluginHost, spec: FormatSpec) -> Format:
    """Import a format; if its plugin names a class, make an instance of it."""
    found = host.load(spec)
    if isinstance(found, type):
        found = host.run(spec, spec.impl, found, returns=object)
    return cast(Format, found)


def _convert(host: PluginHost, spec: FormatSpec, rules: Format, row: Row, where: str) -> Example:
    """Turn a row into an example; raise ``DataError`` for a bad row, ``PluginError`` for a bad format."""
    what = f"{spec.impl}.convert, on {where},"
    example: Example = host.run(spec, what, lambda: rules.convert(row), returns=Example)
    return example
