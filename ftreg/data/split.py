"""Splitting: which examples are for training, for validation during it, and for the final evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from blake3 import blake3

from ftreg.core.errors import DataError, UnknownName
from ftreg.core.manifest import Json, canonical_json
from ftreg.core.recipe import DataConfig
from ftreg.core.types import Example, NullProgress, Progress, Splits
from ftreg.data.store import to_json

_NAMES = ("train", "validation", "test")
_SYNONYMS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}


@dataclass
class _Unit:
    """Examples that stay together: those of a group, or the copies of one example."""

    stratum: bytes
    key: bytes
    indices: list[int] = field(default_factory=list)


def split_examples(examples: Sequence[Example], config: DataConfig, progress: Progress | None = None) -> Splits:
    """Split examples as ``config`` says.

    The split of an example depends on its content and the seed alone, not on the order of the examples. Copies of one
    example stay in one split. Every requested split gets at least one example (or group) if train keeps one too;
    otherwise ``progress`` reports the empty split. Within a split the examples keep their order.

    Raises:
        DataError: There are no examples, one has no value in the column to split by, or train would be empty.
        UnknownName: There is no such column, besides those that the row format uses.
    """
    if not examples:
        raise DataError("there are no examples to split")
    chosen = _by_share(examples, config) if config.split_by is None else _by_name(examples, config.split_by)
    members: dict[str, list[Example]] = {name: [] for name in _NAMES}
    for example, name in zip(examples, chosen, strict=True):
        members[name].append(example)
    if not members["train"]:
        raise DataError(f"no row has train in column {config.split_by!r}: there is nothing to train on")
    for name in ("validation", "test"):
        if config.split_by is None and getattr(config, name) and not members[name]:
            (progress or NullProgress()).say(
                f"the {name} split is empty: {len(examples)} x {getattr(config, name):g} examples are too few"
            )
    return Splits(**members)


def _by_name(examples: Sequence[Example], column: str) -> list[str]:
    """Return the split that each example names in ``column``."""
    chosen = []
    for number, example in enumerate(examples, start=1):
        value = _field(example, column, number, "split_by")
        name = _SYNONYMS.get(value.strip().lower()) if isinstance(value, str) else None
        if name is None:
            raise DataError(
                f"column {column!r} of example {number} is {value!r}, which is not the name of a split",
                where="data.split_by",
                hint=f"Known: {', '.join(_SYNONYMS)}.",
            )
        chosen.append(name)
    return chosen


def _by_share(examples: Sequence[Example], config: DataConfig) -> list[str]:
    """Assign units, in a pseudo-random order, to the split that is furthest behind its share.

    This is error diffusion: over any stretch of that order each split is within one unit of its share. The units of a
    stratum are neighbours, so that holds within each stratum too. A stratum's first unit goes to train.
    """
    shares = {"train": 1 - config.validation - config.test, "validation": config.validation, "test": config.test}
    units = _units(examples, config)
    credit = dict.fromkeys(_NAMES, 0.0)
    assigned: list[str] = []
    movable: list[int] = []
    for _, stratum in groupby(units, key=lambda unit: unit.stratum):
        for position, unit in enumerate(stratum):
            for name, share in shares.items():
                credit[name] += share * len(unit.indices)
            wanted = [name for name in _NAMES if shares[name]]
            name = "train" if position == 0 else max(wanted, key=lambda name: credit[name])
            credit[name] -= len(unit.indices)
            if name == "train" and position > 0:
                movable.append(len(assigned))
            assigned.append(name)
    for name in ("test", "validation"):
        if shares[name] and name not in assigned and movable:
            smallest = min(movable, key=lambda index: len(units[index].indices))
            movable.remove(smallest)
            assigned[smallest] = name
    chosen = ["train"] * len(examples)
    for unit, name in zip(units, assigned, strict=True):
        for index in unit.indices:
            chosen[index] = name
    return chosen


def _units(examples: Sequence[Example], config: DataConfig) -> list[_Unit]:
    """Return the units to split, stratum by stratum, in an order that depends on the seed and their content."""
    units: dict[tuple[bytes, bytes], _Unit] = {}
    for index, example in enumerate(examples):
        stratum, key = b"", b""
        if config.stratify_by is not None:
            stratum = _hash(config.seed, _field(example, config.stratify_by, index + 1, "stratify_by"))
        if config.group_by is not None:
            key = _hash(config.seed, _field(example, config.group_by, index + 1, "group_by"))
        else:
            key = _hash(config.seed, to_json(example))
        units.setdefault((stratum, key), _Unit(stratum, key)).indices.append(index)
    return sorted(units.values(), key=lambda unit: (unit.stratum, unit.key))


def _hash(seed: int, value: Json) -> bytes:
    return blake3(canonical_json([seed, value])).digest()


def _field(example: Example, column: str, number: int, setting: str) -> Json:
    """Return an example's value in ``column``; raise ``UnknownName`` or ``DataError`` if it has none."""
    if column not in example.fields:
        hint = None if example.fields else "The rows have no columns besides those that their format uses."
        raise UnknownName("column", column, example.fields, where=f"data.{setting}", hint=hint)
    value = example.fields[column]
    if value is None or value == "":
        raise DataError(f"column {column!r} has no value in example {number}", where=f"data.{setting}")
    return value
