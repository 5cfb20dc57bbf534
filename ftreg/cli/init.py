"""``ftreg init``: an untrained base model to pre-train from scratch."""

from __future__ import annotations

from pathlib import Path

import click

from ftreg.cli.options import set_option, show_versions
from ftreg.cli.session import Session, json_option


@click.command()
@click.argument("name")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Text to learn the tokenizer from.")
@set_option
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the random weights.")
@json_option
@click.pass_obj
def command(session: Session, name: str, data: Path, settings: dict[str, str], seed: int, as_json: bool) -> None:
    """Create an untrained base model called NAME, with a byte-level BPE tokenizer of its own.

    Its size is set with --set, such as --set hidden_size=256 --set layers=4 --set vocab_size=4096. Pre-train it with
    `ftreg train --method full`.
    """
    from ftreg.core.recipe import apply_settings
    from ftreg.pipeline.scratch import create_base_version

    version = create_base_version(session.context, name, data, apply_settings({}, settings), seed=seed)
    show_versions(session, [version], as_json=as_json)
