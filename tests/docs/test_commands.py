"""What the pages tell the reader to type is understood by the command line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_hints import faults
from tests.cli.walk import ftreg_lines, parse
from tests.docs.pages import PAGES, Block, blocks, name, prose

SHELL = ("", "console", "sh", "shell", "bash")


def typed(block: Block) -> Iterator[str]:
    """The commands of ftreg in a block of shell: lines that start with it, or with $, or with variables before it."""
    for line in re.sub(r"\\\n\s*", "", block.text).splitlines():
        found = re.match(r"(?:\$ )?(?:[A-Z_]+=\S* )*(ftreg .*|eval .*ftreg .*)", line)
        if found:
            for command in ftreg_lines(found[1]):
                yield re.sub(r" +#.*| {3,}.*", "", command).strip('" ')


SHOWN = [
    (str(block), line) for page in PAGES for block in blocks(page) if block.language in SHELL for line in typed(block)
]


@pytest.mark.parametrize(("where", "line"), SHOWN, ids=[f"{where} {line}" for where, line in SHOWN])
def test_commands_in_blocks_parse(where: str, line: str) -> None:
    """Each command of a block has the command, the options and the arguments that it uses."""
    parse(line)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_in_sentences_exist(page: Path) -> None:
    """Each command between backquotes exists, with its options."""
    quoted = re.findall(r"`(?:[A-Z_]+=\S* )?ftreg ([a-z-][^`]*)`", prose(page))
    assert [fault for line in quoted for fault in faults(line)] == []


def test_commands_are_found() -> None:
    """Prompts, variables, comments and pipes are left out of a command."""
    text = "$ ftreg models list   # all\nA=b ftreg gc --dry-run\nftreg completion fish | source\nnot ftreg gc\n"
    assert list(typed(Block(PAGES[0], 1, "", text))) == [
        "ftreg models list",
        "ftreg gc --dry-run",
        "ftreg completion fish",
    ]
    assert len(SHOWN) > 50
