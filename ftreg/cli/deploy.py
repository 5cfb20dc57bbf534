"""``ftreg deploy``: package chosen versions as one deployment; ``ftreg serve``: serve one from the registry."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftreg.cli.command import Command
from ftreg.cli.completion import complete_plugins, complete_refs, complete_weights
from ftreg.cli.options import read_weights
from ftreg.cli.session import Session, human_size, json_option

if TYPE_CHECKING:
    from ftreg.serving.deployment import Deployment
    from ftreg.serving.package import Package


def _read_variants(ctx: click.Context, param: click.Parameter, texts: Sequence[str]) -> dict[str, float]:  # noqa: ARG001
    return read_weights(texts, where="--variant", default=1.0)


@click.command(
    cls=Command,
    settings=["ftreg settings deployment    (keys of a deployment.yaml)"],
    examples=[
        "ftreg deploy support-bot --variant support-bot:1=80 --variant support-bot:2=20",
        "ftreg deploy -f deployment.yaml --gpu 1",
    ],
)
@click.argument("name", required=False)
@click.option("--variant", "variants", metavar="REF=WEIGHT", multiple=True, callback=_read_variants,
              help="A version and its share of the requests; the first one is the control.",
              shell_complete=complete_weights)  # fmt: skip
@click.option("--shadow", "shadows", metavar="REF", multiple=True, shell_complete=complete_refs,
              help="A version that also runs on every request; its answers are discarded.")  # fmt: skip
@click.option("--engine", help="Engine to run the versions with.", shell_complete=complete_plugins("engine"))
@click.option("--gpu", "gpus", type=click.IntRange(0), help="GPUs to request.")
@click.option("--file", "-f", type=click.Path(path_type=Path, dir_okay=False),
              help="A deployment.yaml; options replace what it says.")  # fmt: skip
@json_option
@click.pass_obj
def deploy(session: Session, /, as_json: bool, shadows: tuple[str, ...], **options: Any) -> None:
    """Package versions as the deployment NAME: a Bento with their weights, a router and an OpenAI-compatible API.

    Users are assigned to the variants by weight, and each user stays with one variant. Versions are packaged by digest,
    so the deployment does not change when aliases move or new versions are published.
    """
    from ftreg.api import deployments

    package = deployments.deploy(shadows=shadows or None, **options, **session.api_arguments)
    if as_json:
        session.json(_facts(package))
    else:
        _show(session, package)


@click.command(
    cls=Command, examples=["ftreg serve support-bot@champion", "ftreg serve support-bot:2 --port 8000 --gpu 1"]
)
@click.argument("ref", shell_complete=complete_refs)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=3000, show_default=True, type=click.IntRange(1, 65535), help="Port to listen on.")
@click.option("--engine", help="Engine to run the version with.", shell_complete=complete_plugins("engine"))
@click.option("--gpu", "gpus", type=click.IntRange(0), default=0, help="GPUs to use.")
@click.pass_obj
def serve(session: Session, /, ref: str, **options: Any) -> None:
    """Serve the version REF from the registry, without packaging it; clients ask for it by its model's name."""
    from ftreg.api import deployments

    sys.exit(deployments.serve(ref, **options, **session.api_arguments))


def _facts(package: Package) -> dict[str, Any]:
    """The facts of a package."""
    return {
        "tag": package.tag,
        "path": str(package.path),
        "written": package.written,
        "models": {digest: str(path) for digest, path in package.models.items()},
        "deployment": package.deployment.model_dump(mode="json"),
    }


def _show(session: Session, package: Package) -> None:
    """Print what was packaged, and what to type next."""
    deployment = package.deployment
    total = sum(deployment.weights.values())
    rows = [[v.ref, f"{v.weight / total:.1%}", v.engine, v.digest[:15]] for v in deployment.variants]
    rows += [[v.ref, "shadow", v.engine, v.digest[:15]] for v in deployment.shadows]
    session.table(["variant", "share", "engine", "digest"], rows, right=["share"], optional=["digest", "engine"])
    _tell_weights_in_force(session, deployment)
    written = f"{human_size(package.written)} of weights written" if package.written else "its weights were there"
    session.print(
        f"\n{package.tag}: {written}, {package.path}\n\nNext:\n"
        f"  bentoml serve {deployment.name}:latest            answer on http://127.0.0.1:3000/v1\n"
        f"  ftreg experiment status {deployment.name}         who gets what\n"
        f"  bentoml containerize {deployment.name}:latest     make an image of it\n"
    )


def _tell_weights_in_force(session: Session, deployment: Deployment) -> None:
    """Say so if an experiment of these versions is on record here, with weights that were changed since."""
    from ftreg.api.experiments import weights_in_force

    shares = weights_in_force(deployment)
    if shares is not None:
        now = ", ".join(f"{ref} {share:.1%}" for ref, share in shares.items())
        wanted = " ".join(f"{ref}={weight:g}" for ref, weight in deployment.weights.items())
        session.progress.say(
            f"the experiment with these versions continues with the recorded weights: {now}\n"
            f"  To change them, once it runs: ftreg experiment set {deployment.name} {wanted}"
        )
