"""Packages: writes a deployment as a folder that BentoML serves, and builds it as a Bento."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from blake3 import blake3

from ftreg.context import Context
from ftreg.core.specs import EngineSpec
from ftreg.core.types import Source
from ftreg.serving import weights
from ftreg.serving.bento_store import SERVICE_MODULE, BentoStore, import_bentoml
from ftreg.serving.deployment import FILE, RECORD, REQUIREMENTS, Deployment, state_folder
from ftreg.serving.experiment.store import check_deployable
from ftreg.serving.requirements import OWN, pinned

_CODE = Path(__file__).parents[1]  # the package ftreg itself
_SERVICE = '''"""Serves the deployment {name}. Written by ftreg; `bentoml serve` runs it."""

from pathlib import Path

from ftreg.serving.service import make_service

service = make_service(Path(__file__).parent)
'''


@dataclass(frozen=True)
class Package:
    """A Bento that was built, or that was there already.

    Attributes:
        tag: BentoML's name for it, ``name:version``.
        path: Its folder in BentoML's store.
        models: Folder in BentoML's store of each version that it contains, by digest.
        written: Bytes of weights that were written; 0 if other deployments had brought all of them.
        deployment: The deployment that it contains.
    """

    tag: str
    path: Path
    models: dict[str, Path]
    written: int
    deployment: Deployment


def write_folder(context: Context, deployment: Deployment, sources: Iterable[Source], folder: Path) -> None:
    """Write everything that a server needs except weights: the deployment, its service, its requirements, and ftreg."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(deployment.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (folder / f"{SERVICE_MODULE}.py").write_text(_SERVICE.format(name=deployment.name), encoding="utf-8")
    (folder / REQUIREMENTS).write_text("\n".join(_requirements(context, deployment, sources)) + "\n", encoding="utf-8")
    shutil.copytree(_CODE, folder / OWN, ignore=shutil.ignore_patterns("__pycache__", "examples"), dirs_exist_ok=True)


def write_served(context: Context, deployment: Deployment, sources: Iterable[Source], folder: Path) -> None:
    """Write a deployment's folder with links to the weights in the registry, to be served on this machine."""
    import_bentoml()  # fail now rather than in the server
    write_folder(context, deployment, sources, folder)
    for digest, source in _needed(sources).items():
        place = folder / weights.MODELS / digest.removeprefix("b3:")
        place.mkdir(parents=True)
        weights.link(source, place)


def build(context: Context, deployment: Deployment, sources: Iterable[Source]) -> Package:
    """Build the Bento of a deployment with the weights of ``sources``, except those that the store has already.

    The Bento's version is the digest of its content, so deploying the same again finds the existing Bento.

    Raises:
        MissingExtra: BentoML is not installed.
        InputError: The experiment's record on this machine does not accept these versions.
        DiskFull: No room is left.
    """
    store = BentoStore()
    check_deployable(state_folder(deployment.name) / RECORD, deployment)
    written, models = 0, {}
    with store.writing(), tempfile.TemporaryDirectory(prefix="ftreg-deploy-") as temporary:
        for digest, source in _needed(sources).items():
            context.progress.say(f"packaging {source.ref}")
            models[digest], is_new = store.add_model(source)
            written += source.manifest.size if is_new else 0
        folder = Path(temporary)
        write_folder(context, deployment, sources, folder)
        version = _digest_of_folder(folder)
        labels = {"ftreg": metadata.version(OWN), "experiment": deployment.experiment}
        path = store.add_bento(
            folder,
            deployment.name,
            version,
            models=list(models),
            labels=labels,
            description=_description(deployment),
        )
    return Package(f"{deployment.name}:{version}", path, models, written, deployment)


def _needed(sources: Iterable[Source]) -> dict[str, Source]:
    """Return all versions that ``sources`` need, each once, by digest."""
    return {needed.digest: needed for source in sources for needed in weights.needed(source)}


def _requirements(context: Context, deployment: Deployment, sources: Iterable[Source]) -> list[str]:
    """Return the exact versions of everything that the server, the deployment's engines and its versions import."""
    roots = [f"{OWN}[serve]"]
    for name in {variant.engine for variant in deployment.all_variants()}:
        spec = context.host.get(EngineSpec, name)
        roots += [requirement.install for requirement in spec.requires]
        distribution = context.host.provider(spec).distribution
        roots += [distribution] if distribution else []
    for source in _needed(sources).values():
        roots += [requirement.distribution for requirement in source.manifest.requires]
    return pinned(dict.fromkeys(roots), gpu=deployment.gpus > 0)


def _digest_of_folder(folder: Path) -> str:
    """Return a digest of the paths and contents of all files below ``folder``."""
    digest = blake3()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _description(deployment: Deployment) -> str:
    """Return the Bento's README."""
    rows = [
        f"| {variant.ref} | {variant.weight:g} | {variant.engine} | `{variant.digest}` |"
        for variant in deployment.variants
    ] + [f"| {variant.ref} | shadow | {variant.engine} | `{variant.digest}` |" for variant in deployment.shadows]
    table = "\n".join(rows)
    return (
        f"# {deployment.name}\n\n"
        f"| version | weight | engine | digest |\n|---|---|---|---|\n{table}\n\n"
        "Built by ftreg. `bentoml serve` answers OpenAI's API under /v1 on 127.0.0.1:3000.\n"
    )
