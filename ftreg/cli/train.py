"""``ftreg train``: fine-tune a base model and register the result."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftreg.cli.command import Command
from ftreg.cli.completion import complete_plugins, complete_refs
from ftreg.cli.options import show_versions, training_options, version_facts
from ftreg.cli.session import Session, json_option
from ftreg.core.errors import InputError

if TYPE_CHECKING:
    from ftreg.api.training import TrainingFigures
    from ftreg.core.types import Version


@click.command(
    cls=Command,
    settings=["ftreg settings train", "ftreg settings data", "ftreg settings lora    (or another method)"],
    examples=[
        "ftreg train --base hf:Qwen/Qwen3-0.6B --data faq.jsonl",
        "ftreg train recipe.yaml --set train.epochs=3 --set lora.rank=32",
    ],
)
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@click.option(
    "--base", help="Base model: a reference, a folder, or hf:org/name[@revision].", shell_complete=complete_refs
)
@click.option("--data", help="Training data: a file, or a dataset in the registry.")
@click.option("--method", help="Training method, such as full, lora, qlora or prefix; by default lora.",
              shell_complete=complete_plugins("method"))  # fmt: skip
@click.option("--name", help="Name of the result; by default the data's name and the method, such as faq-lora.")
@training_options
@json_option
@click.pass_obj
def command(
    session: Session,
    /,
    recipe: Path | None,
    columns: dict[str, str],
    settings: dict[str, Any],
    dry_run: bool,
    resume: bool,
    as_json: bool,
    **flags: str | None,
) -> None:
    """Fine-tune a base model and register the result.

    Settings come from a RECIPE file, from options, or from both; options take precedence. Steps under `then:` are not
    run: `ftreg run` trains in the same way and then runs them.
    """
    given = {("data.path" if flag == "data" else flag): value for flag, value in flags.items() if value is not None}
    if recipe is None and not (flags["base"] and flags["data"]):
        missing = " and ".join(f"--{flag}" for flag in ("base", "data") if not flags[flag])
        raise InputError(f"{missing} must be given", where="ftreg train", hint="Give both, or a RECIPE file.")
    wanted = {**given, **column_settings(columns), **settings}
    train(session, recipe or {}, wanted, dry_run=dry_run, resume=resume, as_json=as_json)


def column_settings(columns: Mapping[str, str]) -> dict[str, str]:
    """The settings that ``--column`` stands for."""
    return {f"data.columns.{field}": column for field, column in columns.items()}


def train(
    session: Session,
    recipe: Path | Mapping[str, Any],
    settings: Mapping[str, Any],
    *,
    dry_run: bool,
    resume: bool,
    as_json: bool,
) -> None:
    """Train as a recipe says, or preview it, and print the result and what can follow."""
    from ftreg.api import training

    if dry_run:
        facts = training.preview(recipe, settings=settings, **session.api_arguments)
        show_preview(session, facts | {"left_out": facts.pop("then")}, as_json=as_json)
        return
    left_out = [step.spec.name for step in training.plan(recipe, settings=settings, **session.api_arguments).steps]
    version = training.train(recipe, settings=settings, resume=resume, **session.api_arguments)
    figures = training.training_figures(version.ref, registry=session.registry)
    following = _next_commands(version, figures)
    if left_out and isinstance(recipe, Path):
        following.insert(0, (_run_command(recipe, settings), f"the steps that were left out: {', '.join(left_out)}"))
    if as_json:
        session.json(
            version_facts(session, version)
            | {"training": asdict(figures) if figures else None, "left_out": left_out}
            | {"next": [line for line, _ in following]}
        )
        return
    show_versions(session, [version], as_json=False)
    if figures is not None:
        show_figures(session, figures)
    _show_next(session, following)


def show_preview(session: Session, facts: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what a recipe would do."""
    if as_json:
        session.json(facts)
    else:
        rows = [[key.replace("_", " "), _cell(value)] for key, value in facts.items() if value != []]
        session.table(["", "dry run: nothing is changed"], rows)


def show_figures(session: Session, figures: TrainingFigures) -> None:
    """Print the losses of a training run, and where its curves are."""
    line = f"\n{figures.steps} steps, training loss {figures.loss:.4f}"
    if figures.validation_loss is not None and figures.best_validation_loss is not None:
        line += f", validation loss {figures.validation_loss:.4f}"
        line += f" (best {figures.best_validation_loss:.4f} at step {figures.best_step})"
    session.print(line)
    if figures.validation_parts:
        parts = [f"{name.replace('_', ' ')} {value:.4f}" for name, value in figures.validation_parts.items()]
        session.print(f"parts of the validation loss: {', '.join(parts)}")
    if figures.plot is not None:
        session.print(f"loss curves: {figures.plot}")


def _show_next(session: Session, commands: list[tuple[str, str]]) -> None:
    width = max(len(line) for line, _ in commands)
    session.print("\nNext:")
    for line, purpose in commands:
        session.print(f"  {line:<{width}}  {purpose}")


def _next_commands(version: Version, figures: TrainingFigures | None) -> list[tuple[str, str]]:
    """What to type after a training run, with what it is for."""
    commands = []
    if figures is not None and figures.validation_loss is not None:
        commands.append((f"ftreg eval {version.ref}", "measure it on held-out examples"))
    if version.kind == "adapter" and "mergeable" in version.manifest.capabilities:
        commands.append((f"ftreg merge {version.ref}", "merge it into its base: a standalone model"))
    return [*commands, (f"ftreg serve {version.ref}", "serve it over HTTP")]


def _run_command(recipe: Path | None, settings: Mapping[str, Any]) -> str:
    """The ``ftreg run`` that goes on from this training: with the same settings, so that it is reused."""
    changes = [part for key, value in settings.items() for part in ("--set", f"{key}={_as_yaml(value)}")]
    return shlex.join(["ftreg", "run", str(recipe), *changes])


def _as_yaml(value: Any) -> str:
    """A value as ``--set`` reads it."""
    from ftreg.core.yaml12 import read_yaml

    return value if isinstance(value, str) and read_yaml(value) == value else json.dumps(value, ensure_ascii=False)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{key}={item}" for key, item in value.items() if item is not None)
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)
