"""Replay: the recorded work is done again from the recorded inputs, and the result is graded with its reasons."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from ftreg import Registry, export, init, merge, prune, quantize, replay, train
from ftreg.cli.main import main
from ftreg.compat.gptqmodel import GPTQMODEL
from ftreg.core.errors import CorruptRegistry, InputError, MissingExtra
from ftreg.core.hookspecs import hookimpl
from ftreg.core.host import PluginHost
from ftreg.core.recipe import Config
from ftreg.core.requirements import Requirement
from ftreg.core.specs import StepSpec
from ftreg.core.types import CHECKPOINT, Artifact, StepJob, Version
from tests.registry.kit import blob_of
from tests.tiny import CHAT_TEMPLATE

GPTQ = {"scheme": "gptq", "bits": 3, "rows": 4, "length": 32, "accept": True}
needs_gptqmodel = pytest.mark.skipif(not GPTQMODEL.is_installed, reason="gptqmodel is not installed: make test-extras")


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pack weights in Python: gptqmodel would compile an extension, for a minute, on first use."""
    monkeypatch.setenv("GPTQMODEL_DISABLE_PACK_EXT", "1")


@pytest.fixture(scope="module")
def merged(registry: Registry, adapter: Version) -> Version:
    """Merge the adapter."""
    return merge(adapter.ref, registry=registry)


@pytest.mark.parametrize("method", ["full", "lora", "prefix", "qlora"])
def test_a_training_is_bit_exact(registry: Registry, recipe: Callable[..., dict], method: str, tmp_path: Path) -> None:
    """Each method writes the same files again, with a chat template of its own, and nothing is published."""
    template = tmp_path / "chat.jinja"
    template.write_text(CHAT_TEMPLATE + "\n", encoding="utf-8")
    raw = recipe(method, name=f"again-{method}", train={"max_steps": 2, "batch_size": 8})
    version = train({**raw, "data": {**raw["data"], "template": str(template)}}, registry=registry)
    template.unlink()
    before = registry.count()
    found = replay(version.ref, registry=registry)
    assert (found.grade, found.replayed, found.reasons) == ("bit-exact", version.digest, ())
    assert len(found.files.same) == len(version.manifest.files)
    assert registry.count() == before
    assert not list((registry.home / "tmp").iterdir())
    (record,) = [record for record in registry.evidence(version.digest) if record.type == "replay"]
    assert record.body["grade"] == "bit-exact"


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda ref, **place: prune(ref, sparsity=0.25, accept=True, **place), id="prune"),
        pytest.param(lambda ref, **place: quantize(ref, scheme="int8", accept=True, **place), id="int8"),
        pytest.param(lambda ref, **place: quantize(ref, scheme="nf4", accept=True, **place), id="nf4"),
        pytest.param(lambda ref, **place: export(ref, **place), id="onnx", marks=pytest.mark.slow),
        pytest.param(lambda ref, **place: quantize(ref, **GPTQ, **place), id="gptq", marks=needs_gptqmodel),
    ],
)
def test_a_step_is_bit_exact(registry: Registry, merged: Version, make: Callable[..., Version]) -> None:
    """Each step writes the same files again."""
    version = make(merged.ref, registry=registry)
    assert replay(version.ref, registry=registry).grade == "bit-exact"


@needs_gptqmodel
def test_awq_is_bit_exact(registry: Registry, recipe: Callable[..., dict], model_folder: Callable[..., Path]) -> None:
    """Of a model that is wide enough; what awq needs is on record, so that a replay names an upgrade of it."""
    wide = str(model_folder(num_key_value_heads=2))
    base = train(recipe("full", name="wide", base=wide, train={"max_steps": 2}), registry=registry)
    version = quantize(base.ref, scheme="awq", rows=4, length=32, accept=True, registry=registry)
    assert version.manifest.environment[GPTQMODEL.provider]
    assert replay(version.ref, registry=registry).grade == "bit-exact"


def test_a_merge_is_done_again_with_all_its_inputs(registry: Registry, adapter: Version) -> None:
    """A merge of two versions has its inputs in their order, with their weights."""
    version = merge(adapter.ref, others={adapter.digest: 0.25}, weight=0.5, name="two", registry=registry)
    assert replay(version.ref, registry=registry).replayed == version.digest


def test_an_untrained_base_is_bit_exact(registry: Registry, tmp_path: Path) -> None:
    """The tokenizer and the weights of ``init`` are made again; its packages are on record."""
    texts = [
        {"text": f"the quick brown fox {n} jumps over {n * n} lazy dogs and sings {n * 7 % 13}"} for n in range(99)
    ]
    (tmp_path / "text.jsonl").write_text("\n".join(map(json.dumps, texts)))
    sizes = {"vocab_size": 320, "hidden_size": 64, "layers": 1, "heads": 2, "intermediate_size": 64}
    version = init("blank", tmp_path / "text.jsonl", seed=3, registry=registry, **sizes)
    assert version.manifest.environment["torch"]
    assert replay(version.ref, registry=registry).grade == "bit-exact"


class Noise(Config):
    """Settings of the step below, which needs a package more for much noise."""

    scale: float = 1

    def requires(self) -> tuple[Requirement, ...]:
        return (Requirement("click", "click"),) if self.scale >= 1 else ()


def add_noise(job: StepJob) -> Artifact:
    """Add noise that no seed fixes to a copy of the source's weights: a step that cannot be repeated."""
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(job.source.path, job.staging, dirs_exist_ok=True, copy_function=shutil.copyfile)
    path = job.staging / "model.safetensors"
    noise = {name: job.config.scale * torch.randn_like(tensor) for name, tensor in load_file(path).items()}
    save_file({name: tensor + noise[name] for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    return Artifact(kind=CHECKPOINT)


class _Noisy:
    @hookimpl
    def ftreg_steps(self) -> list[StepSpec]:
        impl, config = f"{__name__}:add_noise", f"{__name__}:Noise"
        return [StepSpec(name="noise", summary="Noise.", impl=impl, config=config, requires=(NEEDED,))]


NEEDED = Requirement("blake3", "blake3")


@pytest.fixture(scope="module")
def noisy(registry: Registry) -> Iterator[Registry]:
    """Open the registry with a step that cannot be repeated."""
    host = PluginHost()
    host.register(_Noisy())
    with Registry(registry.home, host=host) as opened:
        yield opened


def test_packages_that_settings_need_are_recorded(
    noisy: Registry, merged: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that only some settings need is on record with these; without it, they are refused."""
    from ftreg import apply

    faint, loud = (apply("noise", merged.ref, scale=scale, registry=noisy).manifest for scale in (1e-5, 1))
    assert loud.environment.keys() - faint.environment.keys() == {"click"}
    monkeypatch.setattr(Requirement, "is_installed", property(lambda self: self.distribution != "click"))
    with pytest.raises(MissingExtra, match="step noise with these settings needs click"):
        apply("noise", merged.ref, scale=1, registry=noisy)


def test_what_differs_is_measured_and_named(noisy: Registry, merged: Version) -> None:
    """Noise that changes nothing is within tolerance, unless the limit is stricter; noise that does is different."""
    from ftreg import apply

    faint = apply("noise", merged.ref, name="faint", scale=1e-5, registry=noisy)
    found = replay(faint.ref, registry=noisy)
    assert found.grade == "within tolerance"
    assert found.files.different == ("model.safetensors",)
    assert found.reasons[0] == "model.safetensors differs"
    assert "the work itself is not repeatable" in found.reasons[1]
    assert found.certificate is not None
    assert found.certificate["reference"] == faint.digest
    strict = replay(faint.ref, kl=0.0, registry=noisy)
    assert strict.grade == "different"
    loud = apply("noise", merged.ref, name="loud", scale=1.0, registry=noisy)
    found = replay(loud.ref, registry=noisy)
    assert found.grade == "different"
    assert any(reason.startswith("KL") for reason in found.reasons)


def test_the_command(
    noisy: Registry,
    registry: Registry,
    merged: Version,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The command prints the grade and the reasons, and its exit code is 1 for a different result."""
    from ftreg import apply

    version = apply("noise", merged.ref, name="shown", scale=1.0, registry=noisy)
    monkeypatch.setattr(PluginHost, "from_environment", lambda *_, **__: noisy.host)
    for ref, code, grade in ((merged.ref, 0, "bit-exact"), (version.ref, 1, "different")):
        with pytest.raises(SystemExit) as end:
            main(["--home", str(registry.home), "replay", ref])
        assert end.value.code == code
        assert f"{ref}, made again in" in (shown := capsys.readouterr().out)
        assert grade in shown
    assert "model.safetensors differs" in shown


def test_changed_packages_and_device_are_named(
    registry: Registry, merged: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that are the same though packages changed are bit-exact, and the packages are named all the same."""
    monkeypatch.setattr(
        "ftreg.pipeline.runs.installed_versions", lambda requires: {each.distribution: "0.0" for each in requires}
    )
    found = replay(merged.ref, registry=registry)
    assert found.grade == "bit-exact"
    assert found.replayed != merged.digest
    (torch_changed,) = [change for change in found.changes if change.what == "torch"]
    assert torch_changed.recorded == merged.manifest.environment["torch"]
    assert f"torch: {torch_changed.recorded} when it was made, 0.0 now" in found.reasons


def test_an_import_has_nothing_to_replay(registry: Registry, base: Version) -> None:
    """An imported base or dataset is refused with where it came from."""
    with pytest.raises(InputError, match=r"was imported, so .*: it came from folder llama-False"):
        replay(str(base.manifest.parent("base")), registry=registry)
    with pytest.raises(InputError, match=r"it came from file colours\.jsonl"):
        replay(str(base.manifest.parent("dataset")), registry=registry)


def test_a_missing_plugin_is_named(noisy: Registry, registry: Registry, merged: Version) -> None:
    """Without the plugin that made a version, the refusal says which it was; likewise for a missing package."""
    from ftreg import apply

    version = apply("noise", merged.ref, name="orphan", scale=1e-5, registry=noisy)
    with pytest.raises(InputError, match=r"orphan:1 was made by step noise of plugin _Noisy .* which is not loaded"):
        replay(version.ref, registry=registry)


def test_a_missing_package_is_named(registry: Registry, merged: Version, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that the work needs and that is not installed is named before the work starts."""
    monkeypatch.setattr(Requirement, "is_installed", property(lambda self: self.distribution != "peft"))
    with pytest.raises(MissingExtra, match="step merge needs peft"):
        replay(merged.ref, registry=registry)


def test_a_damaged_input_is_found(recipe: Callable[..., dict], rows: Path, tmp_path: Path, model_folder) -> None:
    """An input with a changed byte is named before the work starts, even if its size and time are the old ones."""
    import os

    with Registry(tmp_path / "home", host=PluginHost(only=())) as registry:
        raw = recipe("lora", name="bot", base=str(model_folder()), train={"max_steps": 1})
        version = train(raw, registry=registry)
        parent = registry.get(str(version.manifest.parent("base")))
        blob = blob_of(registry, parent, "model.safetensors")
        before = blob.stat()
        blob.chmod(0o644)
        data = bytearray(blob.read_bytes())
        data[-1] ^= 1
        blob.write_bytes(data)
        os.utime(blob, ns=(before.st_atime_ns, before.st_mtime_ns))
        blob.chmod(0o444)
        with pytest.raises(CorruptRegistry, match=r"the base of bot:1 cannot be used: model\.safetensors does"):
            replay(version.ref, registry=registry)
