"""``ftreg init``: an untrained base model to pre-train from scratch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ftreg.cli.command import Command
from ftreg.cli.options import set_option, show_versions
from ftreg.cli.session import Session, json_option


@click.command(
    cls=Command,
    settings=["ftreg settings init"],
    examples=[
        "ftreg init tiny --data stdlib.jsonl --set hidden_size=256 --set layers=4",
        "ftreg train --base tiny --data stdlib.jsonl --method full",
    ],
)
@click.argument("name")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Text to train the tokenizer on.")
@set_option
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the random weights.")
@json_option
@click.pass_obj
def command(session: Session, name: str, data: Path, settings: dict[str, Any], seed: int, as_json: bool) -> None:
    """Create an untrained base model called NAME, with a byte-level BPE tokenizer of its own.

    Its size is set with --set. Pre-train it with `ftreg train --method full`.
    """
    from ftreg.api import training

    version = training.init(name, data, seed=seed, settings=settings, **session.api_arguments)
    show_versions(session, [version], as_json=as_json)
