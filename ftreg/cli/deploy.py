"""``ftreg deploy``: package chosen versions as one deployment; ``ftreg serve``: serve a single one where it is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftreg.cli.options import read_weights
from ftreg.cli.session import Session, human_size, json_option
from ftreg.core.errors import FtregError

if TYPE_CHECKING:
    from ftreg.serving.deployment import Deployment
    from ftreg.serving.package import Package


@click.command()
@click.argument("name", required=False)
@click.option("--variant", "variants", metavar="REF=WEIGHT", multiple=True,
              help="A version and its share of the requests; the first one is the control.")  # fmt: skip
@click.option("--shadow", "shadows", metavar="REF", multiple=True, help="A version that answers too, unheard.")
@click.option("--engine", help="Engine to run the versions with.")
@click.option("--gpu", "gpus", type=click.IntRange(0), help="GPUs to ask for.")
@click.option("--file", "-f", type=click.Path(path_type=Path, dir_okay=False),
              help="A deployment.yaml; flags go before it.")  # fmt: skip
@json_option
@click.pass_obj
def deploy(
    session: Session,
    name: str | None,
    variants: tuple[str, ...],
    shadows: tuple[str, ...],
    engine: str | None,
    gpus: int | None,
    file: Path | None,
    as_json: bool,
) -> None:
    """Package versions as the deployment NAME: a Bento with their weights, a router and an OpenAI-compatible API.

    Requests are dealt among the variants by their weights, each user to one variant for good. What is packaged are
    digests: it stays what it is when names and aliases move on.
    """
    from ftreg.serving.package import build
    from ftreg.serving.planning import plan, read_spec

    raw: dict[str, Any] = read_spec(file) if file else {}
    given = {"name": name, "engine": engine, "gpus": gpus, "shadows": shadows or None}
    raw |= {key: value for key, value in given.items() if value is not None}
    if variants:
        raw["variants"] = read_weights(variants, where="--variant", default=1.0)
    space = session.context
    deployment, sources = plan(space, raw, where=str(file) if file else "deployment")
    package = build(space, deployment, sources)
    if as_json:
        session.json(_facts(deployment, package))
    else:
        _show(session, deployment, package)


@click.command()
@click.argument("ref")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=3000, show_default=True, type=click.IntRange(1, 65535), help="Port to listen on.")
@click.option("--engine", help="Engine to run the version with.")
@click.option("--gpu", "gpus", type=click.IntRange(0), default=0, help="GPUs to use.")
@click.pass_obj
def serve(session: Session, ref: str, host: str, port: int, engine: str | None, gpus: int) -> None:
    """Serve the version REF from the registry, without packaging it; clients ask for it by its model's name."""
    from ftreg.serving.deployment import state_folder
    from ftreg.serving.package import write_served
    from ftreg.serving.planning import plan

    space = session.context
    version = session.registry.get(ref)
    raw = {"name": version.name, "variants": {version.ref: 1}, "engine": engine, "gpus": gpus}
    deployment, sources = plan(space, raw, where="serve")
    # What it records is not the record of a deployment that has the same name.
    environment = {**os.environ, "FTREG_STATE": str(state_folder(version.name) / "serve")}
    with tempfile.TemporaryDirectory(prefix="ftreg-serve-") as folder:
        write_served(space, deployment, sources, Path(folder))
        session.progress.say(f"serving {version.ref} as {version.name}: http://{host}:{port}/v1")
        session.close()
        command = [sys.executable, "-m", "bentoml", "serve", "service:service", "--working-dir", folder]
        sys.exit(_run([*command, "--host", host, "--port", str(port)], environment))


def _run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a server until it ends, or until this process is told to end; return its exit code."""
    process = subprocess.Popen(command, env=environment)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the server too, which ends on it
    return process.wait()


def _tell_weights_in_force(session: Session, deployment: Deployment) -> None:
    """Say so where an experiment of these versions is on record here, with weights that were changed since."""
    from ftreg.serving.deployment import RECORD, state_folder
    from ftreg.serving.experiment.history import read
    from ftreg.serving.experiment.routing import Allocation

    try:
        allocation = read(state_folder(deployment.name) / RECORD, deployment.id).allocations[-1]
    except FtregError:
        return
    if allocation.shares == Allocation.of(deployment.weights).shares:
        return
    now = ", ".join(f"{ref} {share:.1%}" for ref, share in allocation.shares.items())
    wanted = " ".join(f"{ref}={weight:g}" for ref, weight in deployment.weights.items())
    session.progress.say(
        f"the experiment of these versions goes on with the weights on record: {now}\n"
        f"  To change them, once it runs: ftreg experiment set {deployment.name} {wanted}"
    )


def _facts(deployment: Deployment, package: Package) -> dict[str, Any]:
    """What is told of a package."""
    return {
        "tag": package.tag,
        "path": str(package.path),
        "written": package.written,
        "models": {digest: str(path) for digest, path in package.models.items()},
        "deployment": deployment.model_dump(mode="json"),
    }


def _show(session: Session, deployment: Deployment, package: Package) -> None:
    """Print what was packaged, and what to type next."""
    total = sum(deployment.weights.values())
    rows = [[v.ref, f"{v.weight / total:.1%}", v.engine, v.digest[:15]] for v in deployment.variants]
    rows += [[v.ref, "shadow", v.engine, v.digest[:15]] for v in deployment.shadows]
    session.table(["variant", "share", "engine", "digest"], rows, right=["share"])
    _tell_weights_in_force(session, deployment)
    written = f"{human_size(package.written)} of weights written" if package.written else "its weights were there"
    session.out.print(
        f"\n{package.tag}: {written}, {package.path}\n\nNext:\n"
        f"  bentoml serve {deployment.name}:latest            answer on http://127.0.0.1:3000/v1\n"
        f"  ftreg experiment status {deployment.name}         who gets what\n"
        f"  bentoml containerize {deployment.name}:latest     make an image of it\n",
        markup=False,
    )
