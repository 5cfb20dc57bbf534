"""Held-out examples: chooses what versions are measured on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ftreg.context import Context
from ftreg.core.errors import InputError, UnknownName
from ftreg.core.types import Example
from ftreg.data import StoredExamples, open_split
from ftreg.pipeline.inputs import dataset_of, open_whole, registered_data

_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class HeldOut:
    """The examples that versions are measured on.

    Attributes:
        dataset: The dataset's reference, or the file's path.
        digest: The dataset's digest.
        split: ``test``, ``validation`` or ``train``; ``all`` for a file.
        examples: The examples.
    """

    dataset: str
    digest: str
    split: str
    examples: Collection[Example]


def held_out(
    context: Context,
    stack: ExitStack,
    refs: Sequence[str],
    *,
    data: str | None = None,
    split: str | None = None,
    limit: int | None = None,
) -> HeldOut:
    """Choose the examples to measure ``refs`` on.

    Args:
        context: Where to look.
        stack: Owns the file that the examples of a data file are read from.
        refs: The versions to measure.
        data: A file, all of whose rows are used, or a registered dataset; by default the first dataset in the versions'
            lineages that has a test split, else the first that has a validation split.
        split: The split of the dataset; by default the test split, else the validation split.
        limit: Take only the first so many examples.

    Raises:
        UnknownName: A version or the split does not exist.
        InputError: The data has no examples in this split, or no held-out data is in the lineages.
    """
    if split is not None and split not in _SPLITS:
        raise UnknownName("split", split, _SPLITS, where="split")
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}, which leaves no examples", where="limit", hint="Give at least 1.")
    if data is not None and Path(data).expanduser().is_file():
        return _of_file(context, stack, data, split, limit)
    wanted = [split] if split else ["test", "validation"]
    if data is not None:
        known = registered_data(context, data)
        examples = _first(known.path, wanted, limit)
        if examples is None:
            hint = "Name another split with `split`."
            raise InputError(f"{data} has no {wanted[-1]} examples", where="data", hint=hint)
        return HeldOut(data, known.digest, examples.file.stem, examples)
    sources = [context.registry.source(ref) for ref in refs]
    found = [dataset for source in sources if (dataset := dataset_of(context, source))]
    for name in wanted:
        for version in found:
            examples = _first(context.registry.source(version.digest).path, [name], limit)
            if examples is not None:
                return HeldOut(version.ref, version.digest, name, examples)
    raise InputError(
        f"no {split or 'held-out'} examples are in the lineage of {', '.join(refs)}",
        hint="Name a file or a dataset with `data`.",
    )


def _of_file(context: Context, stack: ExitStack, data: str, split: str | None, limit: int | None) -> HeldOut:
    """Return the examples of a file."""
    if split is not None:
        raise InputError(f"{data} is a file and has no splits", where="split", hint="Leave `split` out.")
    dataset, examples = open_whole(context, stack, Path(data).expanduser())
    return HeldOut(data, dataset.digest, "all", _limited(examples, limit))


def _first(folder: Path, splits: Sequence[str], limit: int | None) -> StoredExamples | None:
    """Return the first examples of the first split that has any; None if none has."""
    for split in splits:
        examples = open_split(folder, split)
        if examples:
            return _limited(examples, limit)
    return None


def _limited(examples: StoredExamples, limit: int | None) -> StoredExamples:
    """Return the first ``limit`` examples, or all."""
    return StoredExamples(examples.file, min(len(examples), limit or len(examples)))
