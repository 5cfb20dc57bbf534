"""Packages: what a Bento contains, which weights are written, and how damage is repaired."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import pytest

from ftreg import Registry
from ftreg.context import Context
from ftreg.core.errors import CorruptRegistry, DiskFull, MissingExtra
from ftreg.serving import package, weights
from ftreg.serving.deployment import RECORD, Deployment, read_deployment
from ftreg.serving.experiment.record import ExperimentRecord
from ftreg.serving.package import Package, build
from ftreg.serving.planning import plan
from ftreg.serving.requirements import pinned
from tests.command import ftreg

AB = {"name": "bot", "variants": {"bot:1": 80, "bot:2": 20}}


@pytest.fixture(scope="module")
def built(context: Context) -> tuple[Deployment, Package]:
    """The Bento of two adapters on one base."""
    deployment, sources = plan(context, AB)
    return deployment, build(context, deployment, sources)


def test_the_base_is_packaged_once_and_each_weight_is_written_once(
    context: Context, built: tuple[Deployment, Package]
) -> None:
    """Two adapters and their common base are three models in the store, with real files."""
    _, packaged = built
    digests = {context.registry.get(ref).digest for ref in ("base:1", "bot:1", "bot:2")}
    assert set(packaged.models) == digests
    assert packaged.written == sum(context.registry.get(digest).size for digest in digests)
    for digest, path in packaged.models.items():
        assert weights.check(path, digest).size == context.registry.get(digest).size
        files = [file for file in path.rglob("*") if file.is_file()]
        assert not any(file.is_symlink() or file.stat().st_nlink > 1 for file in files)


def test_the_bento_holds_the_deployment_and_pinned_requirements(built: tuple[Deployment, Package]) -> None:
    """The Bento contains the planned deployment, and exact versions without local labels."""
    deployment, packaged = built
    assert read_deployment(packaged.path / "src") == deployment
    requirements = (packaged.path / "env" / "python" / "requirements.txt").read_text().split()
    assert f"torch=={metadata.version('torch').partition('+')[0]}" in requirements
    assert f"bentoml=={metadata.version('bentoml')}" in requirements
    assert all("==" in line and "+" not in line for line in requirements)
    assert not any(line.startswith("ftreg") for line in requirements)
    assert (packaged.path / "src" / "ftreg" / "serving" / "service.py").is_file()


def test_the_same_again_writes_nothing(context: Context, built: tuple[Deployment, Package]) -> None:
    """Deploying again finds the existing Bento and writes no weights."""
    deployment, packaged = built
    again = build(context, *plan(context, AB))
    assert (again.tag, again.written) == (packaged.tag, 0)
    assert deployment.name in again.tag


def test_latest_is_what_was_deployed_last(context: Context, built: tuple[Deployment, Package]) -> None:
    """Deploying an earlier deployment again makes it the latest, without building it."""
    import bentoml

    other = build(context, *plan(context, {"name": "bot", "variants": {"bot:1": 50, "bot:2": 50}}))
    assert other.tag != built[1].tag
    assert other.written == 0
    assert str(bentoml.bentos.get("bot:latest").tag) == other.tag
    build(context, *plan(context, AB))
    assert str(bentoml.bentos.get("bot:latest").tag) == built[1].tag


@pytest.mark.parametrize("damage", ["changed", "missing", "half"])
def test_a_broken_model_in_the_store_is_written_again(
    context: Context, built: tuple[Deployment, Package], damage: str
) -> None:
    """A model that was changed, or that a killed process left half written, is written again."""
    _, packaged = built
    digest = context.registry.get("bot:1").digest
    path = packaged.models[digest]
    file = max((path / "files").rglob("*.safetensors"))
    if damage == "changed":
        file.write_bytes(b"x" * file.stat().st_size)
    elif damage == "missing":
        file.unlink()
    else:
        (path / "model.yaml").unlink()
    again = build(context, *plan(context, AB))
    assert again.written == context.registry.get("bot:1").size
    weights.check(again.models[digest], digest)


def test_an_emptied_description_is_no_bento(context: Context, built: tuple[Deployment, Package]) -> None:
    """A Bento or model whose description was truncated, as by a power loss, is replaced."""
    (built[1].path / "bento.yaml").write_text("")
    model = next(iter(built[1].models.values()))
    (model / "model.yaml").write_text("")
    again = build(context, *plan(context, AB))
    assert again.tag == built[1].tag
    assert again.written > 0


def test_deploying_again_says_which_weights_are_in_force(registry: Registry, tmp_path: Path) -> None:
    """Other weights for the same versions do not change their running experiment, and ``ftreg deploy`` says so."""
    env = {"BENTOML_HOME": str(tmp_path / "bentoml"), "FTREG_STATE": str(tmp_path / "state")}

    def deploy(second: int) -> str:
        flags = ("--variant", "bot:1=80", "--variant", f"bot:2={second}")
        return ftreg("deploy", "again", *flags, home=registry.home, env=env).stderr

    assert "weights on record" not in deploy(20)
    served = Path(next((tmp_path / "bentoml" / "bentos" / "again").glob("*/src")))
    (tmp_path / "state" / "again").mkdir(parents=True)
    ExperimentRecord(tmp_path / "state" / "again" / RECORD, read_deployment(served)).close()
    assert "weights on record" not in deploy(20)
    assert "ftreg experiment set again bot:1=80 bot:2=80" in deploy(80)


def test_several_processes_deploy_at_once(registry: Registry, tmp_path: Path) -> None:
    """Concurrent deployments that share a base wait for each other, and the base is written once."""
    env = {"BENTOML_HOME": str(tmp_path / "bentoml")}

    def deploy(number: int) -> dict:
        flags = ("--variant", f"bot:{number}", "--json")
        return json.loads(ftreg("deploy", f"bot-{number}", *flags, home=registry.home, env=env).stdout)

    with ThreadPoolExecutor() as several:
        first, second = several.map(deploy, (1, 2))
    sizes = [registry.get(ref).size for ref in ("base:1", "bot:1", "bot:2")]
    assert first["written"] + second["written"] == sum(sizes)


def test_a_full_disk_is_one_clear_error(context: Context, bentoml_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If BentoML's store has no room, the error says so, and no half-written model stays."""
    copytree = shutil.copytree

    def copy(source: Path, target: Path, *arguments: object, **options: object) -> Path:
        if Path(target).is_relative_to(bentoml_home):
            raise shutil.Error([("a", "b", f"[Errno 28] {os.strerror(errno.ENOSPC)}: 'b'")])
        return copytree(source, target, *arguments, **options)

    planned = plan(context, {"name": "full", "variants": {"bot-merged:1": 1}})
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copytree", copy)
        with pytest.raises(DiskFull):
            build(context, *planned)
    assert build(context, *planned).written


def test_the_callers_own_service_module_stays(context: Context, built: tuple[Deployment, Package]) -> None:
    """Building keeps a module of the caller that is called ``service``."""
    from types import ModuleType

    mine = sys.modules["service"] = ModuleType("service")
    try:
        build(context, *plan(context, AB | {"salt": "another"}))
        assert sys.modules["service"] is mine
    finally:
        del sys.modules["service"]


@pytest.mark.parametrize("lost", ["src/service.py", "src/ftreg/core/types.py", "env/docker/Dockerfile", "bento.yaml"])
def test_a_half_written_bento_is_built_again(context: Context, built: tuple[Deployment, Package], lost: str) -> None:
    """A Bento that lacks one of its files is built again."""
    (built[1].path / lost).unlink()
    again = build(context, *plan(context, AB))
    assert again.tag == built[1].tag
    assert (again.path / lost).is_file()


def test_a_gpu_deployment_starts_from_a_cuda_image(context: Context) -> None:
    """If GPUs are requested, the image is a CUDA image and the service requests the same number."""
    packaged = build(context, *plan(context, AB | {"name": "gpu-bot", "gpus": 1}))
    dockerfile = (packaged.path / "env" / "docker" / "Dockerfile").read_text()
    assert "FROM nvidia/cuda:" in dockerfile
    assert "python3-pip" in dockerfile
    assert "gpu: 1" in (packaged.path / "bento.yaml").read_text()


def test_the_image_of_a_cpu_deployment(built: tuple[Deployment, Package]) -> None:
    """Without GPUs the image is a slim Python, and the server listens on all interfaces."""
    dockerfile = (built[1].path / "env" / "docker" / "Dockerfile").read_text()
    assert f"FROM python:{sys.version_info.major}.{sys.version_info.minor}-slim" in dockerfile
    assert "ENV BENTOML_HOST=$BENTOML_HOST" in dockerfile
    assert "0.0.0.0" in dockerfile


def test_requirements_follow_extras_and_name_what_is_missing() -> None:
    """All dependencies of an extra are pinned; a missing one is an error that names it."""
    lines = pinned(["ftreg[serve]"])
    assert {"bentoml", "starlette", "click", "pydantic"} <= {line.partition("==")[0] for line in lines}
    assert not any(line.startswith("torch==") for line in lines)
    with pytest.raises(MissingExtra, match="no-such-engine"):
        pinned(["no-such-engine"])
    assert any(line.startswith("onnxruntime-gpu==") for line in pinned(["ftreg[onnx]"], gpu=True))


def test_packaged_versions_are_hashed_when_they_are_opened(context: Context, tmp_path: Path) -> None:
    """A packaged version can be opened with its base; after one changed byte it cannot."""
    places = {}
    for needed in weights.needed(context.registry.source("bot:2")):
        places[needed.digest] = tmp_path / needed.digest[3:13]
        places[needed.digest].mkdir()
        weights.link(needed, places[needed.digest])
    digest = context.registry.get("bot:2").digest
    opened = weights.opener(places.__getitem__, {digest: "bot:2"})(digest)
    assert opened.ref == "bot:2"
    assert (opened.parent("base").path / "config.json").is_file()

    files = places[digest] / weights.FILES
    target = files.resolve()
    files.unlink()
    shutil.copytree(target, files)
    (files / "special_tokens_map.json").write_text("{}")
    with pytest.raises(CorruptRegistry, match="does not belong"):
        weights.opener(places.__getitem__, {})(digest)
    (files / "special_tokens_map.json").unlink()
    changed = next(files.rglob("*.safetensors"))
    changed.chmod(0o600)
    changed.write_bytes(changed.read_bytes()[:-1] + b"?")
    with pytest.raises(CorruptRegistry, match=r"safetensors.*not what its digest says"):
        weights.opener(places.__getitem__, {})(digest)


def test_importing_the_package_module_does_not_import_bentoml() -> None:
    """Importing the package module does not import BentoML."""
    code = f"import sys, {package.__name__}; sys.exit('bentoml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
