"""``ftreg replay`` and ``ftreg bisect``: do again what made a version, and find the step that lost the quality."""

from __future__ import annotations

import sys
from dataclasses import asdict

import click

from ftreg.cli.command import Command
from ftreg.cli.completion import complete_refs
from ftreg.cli.session import Session, json_option


@click.command(
    cls=Command, examples=["ftreg replay support-bot:2", "ftreg replay support-bot-merged --kl 0.001 --json"]
)
@click.argument("ref", shell_complete=complete_refs)
@click.option("--kl", type=click.FloatRange(min=0), help="Largest KL divergence, in nats per token, within tolerance.")
@json_option
@click.pass_obj
def replay(session: Session, ref: str, kl: float | None, as_json: bool) -> None:
    """Do again what made REF, and grade the result: bit-exact, within tolerance or different.

    The work is done from the recorded inputs, configuration and seed. Nothing is published; the grade is kept with the
    version as evidence. The exit code is 1 if the result is different.
    """
    from ftreg.api import history

    session.no_outcome = "no grade was recorded"
    found = history.replay(ref, kl=kl, **session.api_arguments)
    if as_json:
        session.json(asdict(found))
    else:
        session.print(f"{found.ref}, made again in {found.seconds:.1f} s: {found.grade}")
        same, total = len(found.files.same), len(found.files.same + found.files.different + found.files.missing)
        session.print(f"  {same} of {total} files are the same")
        for reason in found.reasons:
            session.print(f"  {reason}")
    if found.grade == "different":
        sys.exit(1)
