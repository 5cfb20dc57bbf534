"""``ftreg models golden`` and ``ftreg models policy``: what the versions of a name have to show."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ftreg.cli.command import Command
from ftreg.cli.completion import complete_refs
from ftreg.cli.options import version_facts
from ftreg.cli.session import Session, json_option
from ftreg.core.errors import InputError

if TYPE_CHECKING:
    from ftreg.registry import Policy


@click.command("golden", cls=Command, examples=["ftreg models golden support-bot goldens.yaml"])
@click.argument("name", shell_complete=complete_refs)
@click.argument("file")
@json_option
@click.pass_obj
def golden_command(session: Session, name: str, file: str, as_json: bool) -> None:
    """Register the golden prompts in FILE for the versions of NAME.

    `ftreg eval REF --golden` runs them, and `ftreg models policy` can demand that they pass.
    """
    from ftreg.api.goldens import set_goldens

    version = set_goldens(name, file, registry=session.registry)
    prompts = version.manifest.facts["prompts"]
    if as_json:
        session.json(version_facts(session, version) | {"prompts": prompts})
    else:
        session.progress.say(f"{version.ref}: {prompts} golden prompts")


@click.command(
    "policy",
    cls=Command,
    examples=[
        "ftreg models policy support-bot",
        "ftreg models policy support-bot --require certificate --require golden --perplexity 2",
        "ftreg models policy support-bot --remove",
    ],
)
@click.argument("name", shell_complete=complete_refs)
@click.option(
    "--require",
    "required",
    type=click.Choice(["certificate", "golden"]),
    multiple=True,
    help="certificate: what a step made passed it; golden: the newest golden prompts are passed. Can be repeated.",
)
@click.option(
    "--perplexity",
    metavar="PERCENT",
    type=click.FloatRange(min=0),
    help="Most that the perplexity may be above that of the version that the alias points to.",
)
@click.option("--alias", default="champion", show_default=True, help="The alias to guard.")
@click.option("--remove", is_flag=True, help="Remove the policy.")
@json_option
@click.pass_obj
def policy_command(
    session: Session,
    name: str,
    required: tuple[str, ...],
    perplexity: float | None,
    alias: str,
    remove: bool,
    as_json: bool,
) -> None:
    """Show or set what evidence a version of NAME needs to get an alias or to be deployed.

    It is enforced for everyone who uses the registry, from the command line and from Python. What is set replaces the
    policy as a whole.
    """
    from ftreg.registry import Policy

    registry = session.registry
    wanted = bool(required) or perplexity is not None
    if remove and wanted:
        raise InputError("a policy cannot be set and removed at once", where="--remove", hint="Leave one of them out.")
    if remove:
        registry.set_policy(name, None)
    elif wanted:
        share = None if perplexity is None else perplexity / 100
        registry.set_policy(name, Policy(alias, "certificate" in required, "golden" in required, share))
    policy = registry.policy(name)
    if as_json:
        session.json({"name": name, "policy": asdict(policy) if policy else None})
    else:
        session.print(f"{name}: {_rules(policy)}" if policy else f"{name} has no policy")


def _rules(policy: Policy) -> str:
    """Say what a policy demands."""
    rules = []
    if policy.certificate:
        rules.append("a passed certificate of what a step made")
    if policy.golden:
        rules.append("the newest golden prompts passed")
    if policy.perplexity is not None:
        rules.append(f"a perplexity at most {100 * policy.perplexity:.3g} % above that of @{policy.alias}")
    return f"@{policy.alias} and deployments need {', '.join(rules)}"
