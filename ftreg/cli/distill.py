"""``ftreg distill``: train a student on what a teacher finds likely."""

from __future__ import annotations

from typing import Any

import click

from ftreg.cli.command import Command
from ftreg.cli.completion import complete_plugins, complete_refs
from ftreg.cli.options import training_options
from ftreg.cli.session import Session, json_option
from ftreg.cli.train import column_settings, train


@click.command(
    cls=Command,
    settings=["ftreg settings distillation", "ftreg settings train", "ftreg settings full    (or another method)"],
    examples=[
        "ftreg distill support-bot-shallow --teacher support-bot-merged --data faq.jsonl",
        "ftreg distill hf:Qwen/Qwen3-0.6B --teacher support-bot@champion --data support_faq --method lora",
        "ftreg distill small:1 --teacher big:2 --data faq.jsonl --temperature 1 --divergence reverse --dry-run",
    ],
)
@click.argument("student", shell_complete=complete_refs)
@click.option(
    "--teacher",
    required=True,
    help="The model to learn from: a checkpoint or an adapter with the student's vocabulary.",
    shell_complete=complete_refs,
)
@click.option("--data", required=True, help="Training data: a file, or a dataset in the registry.")
@click.option("--name", help="Name of the result; by default that of STUDENT, followed by -distilled.")
@click.option("--method", default="full", help="How the student is trained, such as full (the default) or lora.",
              shell_complete=complete_plugins("method"))  # fmt: skip
@click.option("--temperature", type=float, help="Divides the logits of both before they are compared; by default 2.")
@click.option("--divergence", help="forward: cover all that the teacher finds likely; reverse: keep to it.")
@click.option("--label-weight", type=float, help="Share of the loss on the labels, from 0 to below 1; by default 0.5.")
@training_options
@json_option
@click.pass_obj
def command(
    session: Session,
    /,
    columns: dict[str, str],
    settings: dict[str, Any],
    dry_run: bool,
    resume: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Train STUDENT to answer like a teacher, and register the result.

    The student learns the probabilities that the teacher gives to each token of the answers in the data, mixed with the
    answers themselves. A student is any base model, or a version with fewer layers (`ftreg apply drop-layers`). Both
    models are held in memory.
    """
    from ftreg.api.distillation import distillation_recipe

    recipe = distillation_recipe(**options, registry=session.registry)
    wanted = {**column_settings(columns), **settings}
    train(session, recipe, wanted, dry_run=dry_run, resume=resume, as_json=as_json)
