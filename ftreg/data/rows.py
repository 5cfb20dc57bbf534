"""Reading data files into rows: JSON Lines, JSON, CSV and Parquet, told apart by file suffix.

A row is a mapping of column names to JSON values. A row that cannot be read does not end the reading: an error takes
its place, so that a check can list all of them.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from ftreg.core.errors import DataError, MissingExtra
from ftreg.core.manifest import Json
from ftreg.core.text import not_utf8, read_text, refuse_utf16
from ftreg.data.columns import kind_of

Row = dict[str, Json]
NumberedRow = tuple[int, Row | DataError]
"""A row, or what is wrong with it, with its number from 1: its first line in JSON Lines and CSV, else its position."""

_BOM = b"\xef\xbb\xbf"


def read_rows(path: Path) -> Iterator[NumberedRow]:
    """Yield the rows of a data file, each with its number.

    Raises:
        DataError: The file as a whole cannot be read: missing, empty, of an unknown kind, broken.
        MissingExtra: A Parquet file, and pyarrow is not installed.
    """
    reader = _READERS.get(path.suffix.lower())
    if path.is_dir():
        raise DataError("is a folder, not a data file", where=str(path), hint=f"Give a file: {_kinds()}.")
    if not path.exists():
        raise DataError("no such data file", where=str(path), hint="Check the path.")
    if reader is None:
        raise DataError(
            f"{path.suffix or 'no suffix'} is not a known kind of data file", where=str(path), hint=_kinds()
        )
    if path.stat().st_size == 0:
        raise DataError("the file is empty", where=str(path))
    return reader(path)


def place(path: Path, number: int) -> str:
    """Return where a row is, as a user looks for it: ``data.jsonl:17`` or ``data.parquet, row 17``."""
    return f"{path}, row {number}" if path.suffix.lower() in (".json", ".parquet") else f"{path}:{number}"


def _read_jsonl(path: Path) -> Iterator[NumberedRow]:
    with path.open("rb") as file:
        refuse_utf16(file.read(4), path, DataError)
        file.seek(0)
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(_BOM)
            if line.strip():
                yield number, _parse_line(line)


def _parse_line(line: bytes) -> Row | DataError:
    """Parse one line into a row, or return what is wrong with it."""
    try:
        return _as_row(_parse_json(line.decode("utf-8")))
    except UnicodeDecodeError as error:
        return DataError(not_utf8(line, error.start))
    except DataError as error:
        return error


def _parse_json(text: str) -> Json:
    """Parse JSON strictly; raise ``DataError`` for anything else, such as NaN."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise DataError(f"is not JSON: {error.msg} ({line}column {error.colno})") from None
    except UnicodeEncodeError:
        raise DataError("holds half of a surrogate pair (\\ud800-\\udfff), which is not a character") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not usable JSON: {error}") from None
    return value


def _refuse_constant(constant: str) -> NoReturn:
    raise DataError(f"is not JSON: {constant} is not a JSON value; write null for a missing number")


def _as_row(value: Json) -> Row | DataError:
    return value if isinstance(value, dict) else DataError(f"is {kind_of(value)}, not an object with columns")


def _read_json(path: Path) -> Iterator[NumberedRow]:
    """Read a JSON list of objects, or JSON Lines in a file called .json."""
    text = read_text(path, DataError)
    if not text.lstrip().startswith("["):
        yield from _read_jsonl(path)
        return
    try:
        values = _parse_json(text)
    except DataError as error:
        raise DataError(error.message, where=str(path)) from None
    for number, value in enumerate(values, start=1):
        yield number, _as_row(value)


def _read_csv(path: Path) -> Iterator[NumberedRow]:
    """Read a table with a header; the cells of .tsv files are separated by tabs."""
    csv.field_size_limit(2**31 - 1)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.reader(io.StringIO(read_text(path, DataError), newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        header = next(reader, [])
        _check_header(path, header, delimiter)
        line = reader.line_num + 1
        for cells in reader:
            if len(cells) == len(header):
                yield line, dict(zip(header, cells, strict=True))
            elif cells:
                yield line, DataError(f"has {len(cells)} cells, but the header names {len(header)} columns")
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"is not CSV: {error}", where=f"{path}:{line}") from None


def _check_header(path: Path, header: list[str], delimiter: str) -> None:
    for index, column in enumerate(header):
        if not column.strip():
            raise DataError(f"column {index + 1} of the header has no name", where=str(path))
        if column in header[:index]:
            raise DataError(f"the header names column {column!r} twice", where=str(path))
    if len(header) == 1 and any(mark in header[0] for mark in ";\t,"):
        expected = "tabs" if delimiter == "\t" else "commas"
        raise DataError(f"the header {header[0]!r} is not separated by {expected}", where=str(path))


def _read_parquet(path: Path) -> Iterator[NumberedRow]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtra("reading Parquet", "pyarrow", "ftreg[parquet]") from None
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=10_000):
                for values in batch.to_pylist():
                    number += 1
                    try:
                        yield number, {column: _plain(value, column) for column, value in values.items()}
                    except DataError as error:
                        yield number, error
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"is not a readable Parquet file: {error}", where=str(path)) from None


def _plain(value: Any, column: str) -> Json:
    """Turn a Parquet value into a JSON value: NaN becomes null, dates and decimals become text."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_plain(item, column) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item, column) for key, item in value.items()}
    if isinstance(value, bytes):
        raise DataError(f"column {column!r} holds bytes, not text")
    return str(value)


_READERS: dict[str, Callable[[Path], Iterator[NumberedRow]]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
}


def _kinds() -> str:
    return f"Known kinds: {', '.join(_READERS)}"
