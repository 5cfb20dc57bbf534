"""Held-out examples of a data file: the same dataset as in a training, read row by row."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ftreg.context import Context
from ftreg.core.errors import DataError
from ftreg.core.host import PluginHost
from ftreg.core.recipe import DataConfig
from ftreg.pipeline.held_out import held_out
from ftreg.pipeline.inputs import open_data
from ftreg.registry import Registry

ROWS = 4_000


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    """An empty registry."""
    with Registry(tmp_path / "home", host=PluginHost(only=())) as registry:
        yield Context(registry)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of 8 MB."""
    path = tmp_path / "rows.jsonl"
    row = {"prompt": "How?", "response": "x" * 2_000}
    path.write_text("".join(json.dumps({**row, "id": number}) + "\n" for number in range(ROWS)))
    return path


def test_a_file_is_not_held_in_memory(context: Context, file: Path) -> None:
    """All examples of a file are there, and choosing and reading them takes a part of the file's size."""
    tracemalloc.start()
    try:
        with ExitStack() as stack:
            found = held_out(context, stack, [], data=str(file))
            ids = [example.fields["id"] for example in found.examples]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (found.split, ids) == ("all", list(range(ROWS)))
    assert peak < file.stat().st_size / 2  # the first thousand rows are, to detect the format by


def test_a_file_is_the_dataset_that_a_training_makes_of_it(context: Context, file: Path) -> None:
    """Its digest is that of the whole file as training data; a limit takes the first rows of the same dataset."""
    with ExitStack() as stack:
        trained, _ = open_data(context, stack, DataConfig(path=str(file), validation=0.0))
        found = held_out(context, stack, [], data=str(file), limit=3)
        assert (found.digest, len(found.examples)) == (trained.digest, 3)
        assert [example.fields["id"] for example in found.examples] == [0, 1, 2]


def test_all_bad_rows_of_a_file_are_counted(context: Context, file: Path) -> None:
    """The first bad row is named, with how many follow; nothing is left behind."""
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:1500], "1", *lines[1500:], '{"prompt": ""}']))
    with ExitStack() as stack, pytest.raises(DataError, match=r"is the number 1.*\(and 1 more bad row\)") as caught:
        held_out(context, stack, [], data=str(file))
    assert str(caught.value.where).endswith(":1501")
    assert not list((context.registry.home / "tmp").iterdir())
