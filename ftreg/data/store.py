"""The files of a dataset version: examples in one form, whatever format they were read from.

A dataset's folder holds ``train.jsonl``, ``validation.jsonl`` and ``test.jsonl``, one example a line, and
``dataset.json``, which says where they come from. The same splits are written as the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ftreg.core.errors import DataError
from ftreg.core.manifest import Json, canonical_json
from ftreg.core.types import Example, Message, Splits

SCHEMA = "ftreg.dataset/1"
ABOUT = "dataset.json"
_NAMES = ("train", "validation", "test")


def write_dataset(
    folder: Path,
    *,
    about: Mapping[str, Json],
    train: Iterable[Example],
    validation: Iterable[Example] = (),
    test: Iterable[Example] = (),
) -> dict[str, Json]:
    """Write the examples of each split into ``folder``, one after the other; return how many each split has.

    ``about`` records their origin: file, its hash, format, split settings.
    """
    counts: dict[str, Json] = {}
    for name, examples in zip(_NAMES, (train, validation, test), strict=True):
        counts[name] = 0
        with (folder / f"{name}.jsonl").open("wb") as file:
            for example in examples:
                file.write(canonical_json(to_json(example)) + b"\n")
                counts[name] += 1
    record = {"schema": SCHEMA, "about": dict(about), "rows": counts}
    (folder / ABOUT).write_bytes(canonical_json(record) + b"\n")
    return counts


def read_dataset(folder: Path) -> Splits:
    """Read what ``write_dataset`` wrote; raise ``DataError`` for a folder that is not a dataset."""
    _read_counts(folder)
    return Splits(**{name: tuple(_read(folder / f"{name}.jsonl")) for name in _NAMES})


@dataclass(frozen=True)
class StoredExamples(Collection[Example]):
    """Examples of a split, read from its file whenever they are iterated over, so that they take no memory.

    Attributes:
        file: The file.
        count: How many of its examples are meant, from the first.
    """

    file: Path
    count: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Example]:
        return islice(_read(self.file), self.count)

    def __contains__(self, example: object) -> bool:
        return any(one == example for one in self)


def open_split(folder: Path, name: str) -> StoredExamples:
    """Return the examples of one split that ``write_dataset`` wrote, without reading them into memory.

    Raises:
        DataError: The folder is not a dataset.
    """
    return StoredExamples(folder / f"{name}.jsonl", _read_counts(folder)[name])


def _read_counts(folder: Path) -> Mapping[str, int]:
    """Return the number of examples in each split; raise ``DataError`` for a folder that is not a dataset."""
    try:
        record = json.loads((folder / ABOUT).read_bytes())
        schema = record["schema"]
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError("is not a dataset", where=str(folder), hint=f"A dataset has a file {ABOUT}.") from None
    if schema != SCHEMA:
        raise DataError(f"has the schema {schema!r}; this ftreg reads {SCHEMA!r}", where=str(folder / ABOUT))
    counts: Mapping[str, int] = record["rows"]
    return counts


def to_json(example: Example) -> dict[str, Json]:
    """Return an example as JSON; the inverse of ``from_json``."""
    fields = {"fields": dict(example.fields)} if example.fields else {}
    if example.text is not None:
        return {"text": example.text, **fields}
    return {"messages": [{"role": turn.role, "content": turn.content} for turn in example.messages], **fields}


def from_json(value: Mapping[str, Json]) -> Example:
    """Return the example that ``to_json`` wrote; raise ``KeyError`` or ``TypeError`` for anything else."""
    fields = value.get("fields", {})
    if "text" in value:
        return Example(text=value["text"], fields=fields)
    return Example(messages=tuple(Message(**turn) for turn in value["messages"]), fields=fields)


def _read(path: Path) -> Iterator[Example]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield from_json(json.loads(line))
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise DataError(f"is not an example: {error}", where=f"{path}:{number}") from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path)) from None
