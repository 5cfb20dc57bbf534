"""Packages: a deployment as a folder that BentoML serves, and as a Bento in BentoML's store."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

import ftreg
from ftreg.context import Context
from ftreg.core.errors import CorruptRegistry, MissingExtra
from ftreg.core.faults import disk_full
from ftreg.core.specs import EngineSpec
from ftreg.core.types import Source
from ftreg.serving import weights
from ftreg.serving.deployment import FILE, RECORD, REQUIREMENTS, Deployment, bentoml_home, model_tag, state_folder
from ftreg.serving.experiment.record import check_deployable
from ftreg.serving.requirements import OWN, pinned

_MODULE = "service"
_SERVICE = '''"""Serves the deployment {name}. Written by ftreg; `bentoml serve` runs it."""

from pathlib import Path

from ftreg.serving.service import make_service

service = make_service(Path(__file__).parent)
'''


@dataclass(frozen=True)
class Package:
    """A Bento that was built, or was there already.

    Attributes:
        tag: By which BentoML knows it, ``name:version``.
        path: Its folder in BentoML's store.
        models: Folder in BentoML's store of each digest that it contains.
        written: Bytes of weights that were written; 0 if other deployments had brought all of them.
        deployment: What it holds.
    """

    tag: str
    path: Path
    models: dict[str, Path]
    written: int
    deployment: Deployment


def write_folder(context: Context, deployment: Deployment, sources: Iterable[Source], folder: Path) -> None:
    """Write what a server needs but the weights: the deployment, its service, its requirements, and ftreg itself."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(deployment.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (folder / f"{_MODULE}.py").write_text(_SERVICE.format(name=deployment.name), encoding="utf-8")
    (folder / REQUIREMENTS).write_text("\n".join(_requirements(context, deployment, sources)) + "\n", encoding="utf-8")
    code = Path(ftreg.__file__).parent
    shutil.copytree(code, folder / OWN, ignore=shutil.ignore_patterns("__pycache__", "examples"), dirs_exist_ok=True)


def write_served(context: Context, deployment: Deployment, sources: Iterable[Source], folder: Path) -> None:
    """Write a deployment's folder with links to the weights in the registry, to be served on this machine."""
    _import_bentoml()
    write_folder(context, deployment, sources, folder)
    for digest, source in _needed(sources).items():
        place = folder / weights.MODELS / digest.removeprefix("b3:")
        place.mkdir(parents=True)
        weights.link(source, place)


def build(context: Context, deployment: Deployment, sources: Iterable[Source]) -> Package:
    """Build the Bento of a deployment, which contains the weights of ``sources``; each of them is written once.

    The Bento's version is the digest of what it holds: deploying the same again finds what is there.

    Raises:
        MissingExtra: BentoML is not installed.
        InputError: The experiment's record here cannot go on with these versions.
        DiskFull: No room is left.
    """
    bentoml = _import_bentoml()
    check_deployable(state_folder(deployment.name) / RECORD, deployment)
    with _alone(), _store_errors():
        return _build(bentoml, context, deployment, sources)


def _build(bentoml: Any, context: Context, deployment: Deployment, sources: Iterable[Source]) -> Package:
    """As ``build``, while nobody else writes to BentoML's stores."""
    written, models = 0, {}
    for digest, source in _needed(sources).items():
        context.progress.say(f"packaging {source.ref}")
        models[digest], new = _store_model(bentoml, source)
        written += source.manifest.size if new else 0
    with tempfile.TemporaryDirectory(prefix="ftreg-deploy-") as temporary:
        folder = Path(temporary)
        write_folder(context, deployment, sources, folder)
        version = _digest_of_folder(folder)
        bento = _find_bento(bentoml, f"{deployment.name}:{version}", folder)
        if bento is None:
            with _own_module(), contextlib.chdir("."):  # where BentoML fails, it stays in the folder that it built
                bento = bentoml.bentos.build(
                    f"{_MODULE}:service",
                    name=deployment.name,
                    version=version,
                    build_ctx=str(folder),
                    include=["*"],
                    models=[model_tag(digest) for digest in models],
                    labels={"ftreg": ftreg.__version__, "experiment": deployment.experiment},
                    description=_description(deployment),
                )
    _make_latest(Path(bento.path))
    return Package(str(bento.tag), Path(bento.path), models, written, deployment)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """While this lasts, no other ``build`` writes to BentoML's stores: what is half written would look broken to it."""
    home = bentoml_home() / "ftreg"
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _store_errors() -> Iterator[None]:
    """Turn a full disk, which copying folders reports as a list of all that failed, into an error that says so."""
    try:
        yield
    except OSError as error:
        full = isinstance(error, shutil.Error) and os.strerror(errno.ENOSPC) in str(error)
        if full or error.errno == errno.ENOSPC:
            raise disk_full(str(bentoml_home())) from error
        raise


@contextlib.contextmanager
def _own_module() -> Iterator[None]:
    """While this lasts, no module goes by the service's name: BentoML would take it for the one to import."""
    before = sys.modules.pop(_MODULE, None)
    try:
        yield
    finally:
        sys.modules.pop(_MODULE, None)
        if before is not None:
            sys.modules[_MODULE] = before


def _import_bentoml() -> Any:
    """BentoML, asked not to report its use from a command that is not its own; ``MissingExtra`` without it."""
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    try:
        import bentoml
        import bentoml.bentos
        import bentoml.models
    except ImportError:
        raise MissingExtra("deploying", "bentoml", "ftreg[serve]") from None
    return bentoml


def _needed(sources: Iterable[Source]) -> dict[str, Source]:
    """All versions that ``sources`` need, each once, by digest."""
    return {needed.digest: needed for source in sources for needed in weights.needed(source)}


def _requirements(context: Context, deployment: Deployment, sources: Iterable[Source]) -> list[str]:
    """The exact versions of what the deployment's engines, its versions, and what serves them, import."""
    roots = [f"{OWN}[serve]"]
    for name in {variant.engine for variant in deployment.all_variants()}:
        spec = context.host.get(EngineSpec, name)
        roots += [requirement.install for requirement in spec.requires]
        distribution = context.host.provider(spec).distribution
        roots += [distribution] if distribution else []
    for source in _needed(sources).values():
        roots += [requirement.distribution for requirement in source.manifest.requires]
    return pinned(dict.fromkeys(roots), gpu=deployment.gpus > 0)


def _store_model(bentoml: Any, source: Source) -> tuple[Path, bool]:
    """The folder of ``source`` in BentoML's model store, and whether it was written now.

    BentoML takes a half-written model, as a killed process leaves it, for a whole one. So what is found there is
    hashed, and written again where it is not what it should be.
    """
    tag = model_tag(source.digest)
    try:
        path = Path(bentoml.models.get(tag).path)
        weights.check(path, source.digest)
    except CorruptRegistry:
        bentoml.models.delete(tag)
    except bentoml.exceptions.NotFound:
        pass
    except Exception:  # an empty or a cut description fails in all sorts of ways
        _remove_rest(_stores(bentoml).model_store, tag)
    else:
        return path, False
    try:
        # What is created is links; saving it, at the end of the block, copies what they lead to into the store.
        with bentoml.models.create(tag, labels={"ref": source.ref.replace(":", "-")}) as model:
            weights.link(source, Path(model.path))
    except BaseException:
        _remove_rest(_stores(bentoml).model_store, tag)
        raise
    path = Path(bentoml.models.get(tag).path)
    weights.check(path, source.digest)
    return path, True


def _stores(bentoml: Any) -> Any:
    """Where BentoML keeps its stores; it has no public name for them."""
    return bentoml._internal.configuration.containers.BentoMLContainer


def _remove_rest(store: Any, tag: str) -> None:
    """Remove from a store what an interrupted save left; BentoML itself does not find it."""
    shutil.rmtree(Path(store.get()._path) / tag.replace(":", "/"), ignore_errors=True)


def _find_bento(bentoml: Any, tag: str, context: Path) -> Any:
    """The Bento of that tag, which holds what ``context`` does; None where there is none.

    What a killed process left of one is removed: BentoML takes it for a Bento if only its description is there.
    """
    try:
        bento = bentoml.bentos.get(tag)
    except bentoml.exceptions.NotFound:
        return None
    except Exception:  # an empty or a cut description fails in all sorts of ways
        bento = None
    if bento is not None and _holds(Path(bento.path), context):
        return bento
    _remove_rest(_stores(bentoml).bento_store, tag)
    return None


def _holds(bento: Path, context: Path) -> bool:
    """Whether a Bento has all files of ``context``, unchanged, and what a container is built from."""
    files = [
        path.relative_to(context) for path in context.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ]
    try:
        same = all((bento / "src" / file).read_bytes() == (context / file).read_bytes() for file in files)
    except OSError:
        return False
    return same and all((bento / "env" / file).is_file() for file in ("docker/Dockerfile", "python/requirements.txt"))


def _make_latest(bento: Path) -> None:
    """Make ``name:latest`` the Bento that was asked for last, though it may have been built before others."""
    (bento.parent / "latest").write_text(bento.name)


def _digest_of_folder(folder: Path) -> str:
    """A digest of all files below ``folder``: their paths and contents."""
    digest = blake3()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _description(deployment: Deployment) -> str:
    """The Bento's README."""
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
