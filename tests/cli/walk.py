"""Walks the real command line: every command with its path."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import click

from ftreg.cli.main import cli
from ftreg.cli.session import Session


def root() -> click.Context:
    """A context of ``ftreg`` itself."""
    return click.Context(cli, info_name="ftreg", obj=Session())


def commands(ctx: click.Context | None = None) -> Iterator[tuple[str, click.Command]]:
    """Every command, groups included, by what is typed for it: ``ftreg models list``."""
    ctx = ctx or root()
    yield ctx.command_path, ctx.command
    if isinstance(ctx.command, click.Group):
        for name in ctx.command.list_commands(ctx):
            found = ctx.command.get_command(ctx, name)
            assert found is not None
            yield from commands(click.Context(found, info_name=name, parent=ctx))


def parse(line: str) -> None:
    """Parse a line such as ``ftreg models list --kind onnx`` without running it; raise as ``ftreg`` would."""
    words = shlex.split(line)
    assert words.pop(0) == "ftreg", line
    ctx = root()
    while isinstance(ctx.command, click.Group):
        _, command, words = ctx.command.resolve_command(ctx, words)
        assert command is not None
        ctx = command.make_context(command.name, words, parent=ctx)
        words = [*ctx._protected_args, *ctx.args] if isinstance(command, click.Group) else []


def ftreg_lines(text: str) -> list[str]:
    """The command lines of ftreg in a line of shell: alone, in ``$(...)`` or before a pipe."""
    return [found.strip() for found in re.findall(r"(ftreg [^|)]*)", text)]
