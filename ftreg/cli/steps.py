"""``ftreg merge``, ``quantize``, ``prune``, ``export`` and ``apply``: transform a version into a new one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from ftreg.cli.options import set_option, show_versions
from ftreg.cli.session import Session, json_option
from ftreg.core.errors import InputError
from ftreg.core.types import Version

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def step_options(command: CommandT) -> CommandT:
    """Add what all steps share: ``--set``, ``--name``, ``--accept``, ``--json``."""
    for option in (
        json_option,
        click.option(
            "--accept", is_flag=True, help="Publish the result even if it is further from its source than allowed."
        ),
        click.option("--name", help="Name of the result; by default the source's and the step's."),
        set_option,
    ):
        command = option(command)
    return command


@click.command()
@click.argument("ref")
@click.option("--adapter", "adapters", metavar="REF:WEIGHT", multiple=True, help="A further adapter to merge in.")
@step_options
@click.pass_obj
def merge(session: Session, /, ref: str, adapters: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Merge the adapter REF into its base: a full checkpoint that needs no adapter."""
    others = dict(_weighted(text) for text in adapters)
    show_versions(session, [_apply(session, "merge", ref, {}, others=others, **options)], as_json=as_json)


@click.command()
@click.argument("ref")
@click.option("--scheme", help="int8 or nf4.")
@step_options
@click.pass_obj
def quantize(session: Session, /, ref: str, scheme: str | None, as_json: bool, **options: Any) -> None:
    """Store the weights of the checkpoint REF in fewer bits."""
    show_versions(session, [_apply(session, "quantize", ref, {"scheme": scheme}, **options)], as_json=as_json)


@click.command()
@click.argument("ref")
@click.option("--sparsity", type=float, help="Share of the weights to set to zero, such as 0.5.")
@step_options
@click.pass_obj
def prune(session: Session, /, ref: str, sparsity: float | None, as_json: bool, **options: Any) -> None:
    """Set the least important weights of the checkpoint REF to zero."""
    show_versions(session, [_apply(session, "prune", ref, {"sparsity": sparsity}, **options)], as_json=as_json)


@click.command()
@click.argument("ref")
@click.option("--format", "format_name", help="Export format; onnx is built in.")
@click.option("--to", type=click.Path(path_type=Path), help="Copy the files, as real files, into this new folder.")
@step_options
@click.pass_obj
def export(
    session: Session, /, ref: str, format_name: str | None, to: Path | None, as_json: bool, **options: Any
) -> None:
    """Export the checkpoint REF to ONNX; with --to and no --format, copy the files of REF as they are."""
    if to is not None and to.exists():
        raise InputError("exists already", where=f"--to {to}", hint="Name a folder that does not exist yet.")
    if to is not None and format_name is None:
        version = session.registry.get(ref)
    else:
        version = _apply(session, format_name or "onnx", ref, {}, **options)
    if to is not None:
        _copy_out(session.registry.source(version.digest).path, to)
    show_versions(session, [version], as_json=as_json)


@click.command()
@click.argument("step")
@click.argument("ref")
@step_options
@click.pass_obj
def apply(session: Session, /, step: str, ref: str, as_json: bool, **options: Any) -> None:
    """Apply any STEP, a plugin's too, to the version REF."""
    show_versions(session, [_apply(session, step, ref, {}, **options)], as_json=as_json)


def _apply(
    session: Session,
    step: str,
    ref: str,
    flags: Mapping[str, Any],
    *,
    settings: Mapping[str, str],
    name: str | None,
    accept: bool,
    others: Mapping[str, float] | None = None,
) -> Version:
    """Check the step's settings and apply it."""
    from ftreg.core.names import check_name
    from ftreg.core.recipe import apply_settings
    from ftreg.core.specs import StepSpec
    from ftreg.pipeline.steps import apply_step

    spec = session.host.get(StepSpec, step)
    raw = apply_settings({key: value for key, value in flags.items() if value is not None}, settings)
    config = session.host.configure(spec, raw, where=step)
    if name is not None:
        check_name(name, where="--name")
    inputs = [(ref, 1.0), *(others or {}).items()]
    return apply_step(session.context, spec, inputs, config, name=name, accept=accept)


def _weighted(text: str) -> tuple[str, float]:
    """Read ``support-bot:2:0.5`` or ``support-bot@champion:0.5``."""
    ref, _, weight = text.rpartition(":")
    try:
        return ref, float(weight)
    except ValueError:
        raise InputError(
            f"{text!r} has no weight", where="--adapter", hint="Write --adapter support-bot:2:0.5"
        ) from None


def _copy_out(source: Path, target: Path) -> None:
    """Copy a version's files, all or nothing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        shutil.copytree(source, partial, symlinks=False, dirs_exist_ok=True, copy_function=shutil.copyfile)
        partial.chmod(0o755)
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
