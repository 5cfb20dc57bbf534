"""Tables: as wide as they are without a terminal, and fitted to one without cutting a word."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftreg.cli.table import layout
from ftreg.registry import Registry
from tests.registry.kit import publish

COLUMNS = ["version", "kind", "size", "tags"]
ROWS = [
    ["support-bot-merged-quantized:2", "checkpoint", "412.0 kB", "stage=test owner=somebody"],
    ["tiny:1", "checkpoint", "1.4 MB", ""],
]


def shown(width: int | None, *optional: str) -> list[str]:
    """The lines of the table, its header first."""
    table = layout(COLUMNS, ROWS, right=["size"], optional=optional, width=width)
    return [table.header, *table.lines]


def test_without_a_width_nothing_changes() -> None:
    """Every column is as wide as its widest cell, and no optional column is left out."""
    header, first, second = shown(None, "tags", "kind")
    assert header == "version                         kind            size  tags"
    assert first == "support-bot-merged-quantized:2  checkpoint  412.0 kB  stage=test owner=somebody"
    assert second == "tiny:1                          checkpoint    1.4 MB"


def test_optional_columns_go_first() -> None:
    """As many as it takes, the first named first; one that fits after all comes back."""
    table = layout(COLUMNS, ROWS, right=["size"], optional=["kind", "tags"], width=56)
    assert (table.header.split(), table.dropped) == (["version", "kind", "size"], ("tags",))
    table = layout(COLUMNS, ROWS, right=["size"], optional=["kind", "tags"], width=50)
    assert (table.header.split(), table.dropped) == (["version", "size"], ("kind", "tags"))


def test_cells_wrap_between_words() -> None:
    """Columns that are aligned to the right, and words, stay whole."""
    lines = shown(70)
    assert lines[1] == "support-bot-merged-quantized:2  checkpoint  412.0 kB  stage=test"
    assert lines[2].split() == ["owner=somebody"]


def test_words_that_are_too_long_make_a_list() -> None:
    """Each row becomes lines of title and value; empty cells are left out."""
    assert shown(30) == [
        "",
        "version  support-bot-merged-quantized:2",
        "kind     checkpoint",
        "size     412.0 kB",
        "tags     stage=test owner=somebody",
        "",
        "version  tiny:1",
        "kind     checkpoint",
        "size     1.4 MB",
    ]


def in_terminal(columns: int, *arguments: str, home: Path) -> list[str]:
    """The lines that ``ftreg`` prints to a terminal that is ``columns`` wide."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "ftreg", *arguments],
        stdout=terminal,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "COLUMNS": str(columns), "FTREG_HOME": str(home), "TERM": "xterm"},
    )
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # how the end of a terminal's output shows on Linux
        while part := os.read(controller, 1 << 16):
            shown += part
    os.close(controller)
    assert process.wait() == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).splitlines()


@pytest.mark.parametrize("columns", [60, 80, 160])
def test_names_are_whole_in_a_terminal(columns: int, tmp_path: Path) -> None:
    """Of a version with a long name, whatever the width; and no line is longer than the terminal is wide."""
    name = "support-bot-merged-quantized-and-pruned"
    with Registry(tmp_path) as registry:
        publish(registry, name, tags={"stage": "test", "owner": "somebody"})
        registry.set_alias(name, "champion")
    lines = in_terminal(columns, "models", "list", home=tmp_path)
    assert any(f"{name}:1" in line for line in lines)
    assert "checkpoint" in "".join(lines)
    assert ("owner=somebody" in "".join(lines)) == (columns == 160)
    assert max(map(len, lines)) <= columns


@given(
    rows=st.lists(st.lists(st.text("ab c\n", max_size=40), min_size=3, max_size=3), max_size=4),
    width=st.none() | st.integers(5, 100),
)
def test_no_word_is_ever_cut(rows: list[list[str]], width: int | None) -> None:
    """Every word of every cell is there, whole; and a table that has a header fits."""
    table = layout(["a", "b", "c"], rows, right=["c"], width=width)
    words = [word for line in table.lines for word in line.split()]
    for row in rows:
        for word in " ".join(row).split():
            assert word in words
    if table.header and width is not None:
        assert all(len(line) <= width for line in (table.header, *table.lines))
