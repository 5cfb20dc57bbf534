"""Checks before work: a dry run refuses everything that the run would refuse, with the same message."""

from __future__ import annotations

import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftreg.api import steps
from ftreg.api.evaluation import evaluate
from ftreg.api.training import load_recipe
from ftreg.context import Context
from ftreg.core.errors import DataError, DiskFull, FtregError, InfeasiblePlan, InputError, UnknownName
from ftreg.core.hookspecs import hookimpl
from ftreg.core.host import PluginHost
from ftreg.core.manifest import Parent, Producer
from ftreg.core.types import Problem, RunInfo, Version
from ftreg.pipeline.plan import make_plan
from ftreg.pipeline.preview import preview
from ftreg.pipeline.recipes import run_plan
from ftreg.registry import Draft, Registry


@pytest.fixture(params=["dry run", "run"])
def attempt(request: pytest.FixtureRequest, registry: Registry) -> Callable[[dict], Any]:
    """Return a function that previews a recipe or runs it."""

    def carry_out(raw: dict, where: Registry = registry) -> Any:
        context = Context(where)
        plan = make_plan(context.host, load_recipe(raw))
        return preview(context, plan) if request.param == "dry run" else run_plan(context, plan)

    return carry_out


def _absent_device() -> str:
    import torch

    return "mps" if torch.cuda.is_available() else "cuda"


def test_the_base_must_be_of_a_kind_that_the_method_trains_on(
    attempt: Callable[[dict], Any], recipe: Callable[..., dict], adapter: Version
) -> None:
    """A dataset and an adapter are refused as a base; for the adapter, the error proposes to merge it."""
    with pytest.raises(InfeasiblePlan, match="method lora trains on a checkpoint; colours is a dataset"):
        attempt({**recipe("lora", name="x"), "base": "colours"})
    with pytest.raises(InfeasiblePlan, match=r"Merge it first: `ftreg.merge\('bot:1'\)`"):
        attempt({**recipe("lora", name="x"), "base": adapter.ref})


def test_the_base_must_be_a_causal_language_model(
    attempt: Callable[[dict], Any], recipe: Callable[..., dict], model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """A classifier is refused, with what it is, by every method and before anything is imported."""
    folder = Path(shutil.copytree(model_folder(), tmp_path / "classifier"))
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace("LlamaForCausalLM", "LlamaForSequenceClassification"))
    for method in ("full", "lora", "qlora", "prefix"):
        with pytest.raises(InputError, match="LlamaForSequenceClassification is a classifier of texts"):
            attempt({**recipe(method, name="x"), "base": str(folder)})


def test_versions_of_other_kinds_are_refused_by_every_step(
    registry: Registry, rows: Path, model_folder: Callable[..., Path]
) -> None:
    """A version that is not a causal language model, which a plugin may have made, is refused with what it is."""
    producer = Producer("method", "encode", "encoders", "acme", "1")
    with registry.staging() as staging:
        shutil.copytree(model_folder(), staging.files, dirs_exist_ok=True)
        config = (staging.files / "config.json").read_text()
        (staging.files / "config.json").write_text(config.replace("LlamaForCausalLM", "BertForMaskedLM"))
        draft = Draft(folder=staging.files, kind="checkpoint", producer=producer, capabilities=["full-precision"])
        registry.publish("encoder", draft)
    reason = "BertForMaskedLM is a masked language model"
    for step in (steps.quantize, steps.prune, steps.export):
        with pytest.raises(InputError, match=f"encoder:1: {reason}"):
            step("encoder", registry=registry)
    with pytest.raises(InputError, match=reason):
        evaluate("encoder", rows, registry=registry)


def test_a_method_and_a_step_must_be_able_to_work_on_the_model(
    attempt: Callable[[dict], Any], recipe: Callable[..., dict], model_folder: Callable[..., Path]
) -> None:
    """A method is asked about the base before any work, and so is each step that follows it."""
    with pytest.raises(InfeasiblePlan, match="base: bitsandbytes can quantize nothing in FalconForCausalLM"):
        attempt({**recipe("qlora", name="x"), "base": str(model_folder("falcon"))})
    then = [{"merge": None}, {"export": {"format": "onnx"}}]
    with pytest.raises(InfeasiblePlan, match="then: onnx: the export to ONNX needs a model that remembers"):
        attempt({**recipe("lora", name="x", then=then), "base": str(model_folder("mamba"))})


def test_the_device_must_be_there(attempt: Callable[[dict], Any], recipe: Callable[..., dict]) -> None:
    """A device or a precision that this machine does not have is refused."""
    device = _absent_device()
    with pytest.raises(InputError, match=f"this machine has no {device} device"):
        attempt(recipe("lora", name="x", train={"max_steps": 1, "device": device}))
    with pytest.raises(InputError, match="fp16 training needs a CUDA device"):
        attempt(recipe("lora", name="x", train={"max_steps": 1, "device": "cpu", "precision": "fp16"}))


@pytest.mark.parametrize("setting", ["early_stopping_patience", "eval_every"])
def test_evaluations_need_validation_examples(
    setting: str, attempt: Callable[[dict], Any], recipe: Callable[..., dict]
) -> None:
    """Early stopping, and evaluations that are asked for, are refused without validation examples."""
    with pytest.raises(InputError, match=f"{setting} needs validation examples"):
        attempt(recipe("lora", name="x", train={"max_steps": 1, setting: 2}))


def test_the_template_must_take_the_data(
    attempt: Callable[[dict], Any], recipe: Callable[..., dict], tmp_path: Path
) -> None:
    """A chat template that refuses the examples is refused before a model is loaded."""
    template = tmp_path / "strict.jinja"
    template.write_text("{{ raise_exception('no users, please') }}")
    raw = recipe("lora", name="x")
    with pytest.raises(DataError, match="no users, please"):
        attempt({**raw, "data": {**raw["data"], "template": str(template)}})


def test_the_versions_to_combine_must_be_there(attempt: Callable[[dict], Any], recipe: Callable[..., dict]) -> None:
    """A reference in ``with`` to a version that does not exist, or that the step cannot use, is refused."""
    with pytest.raises(UnknownName, match="nobody"):
        attempt(recipe("lora", name="x", then=[{"merge": {"with": "nobody:1"}}]))
    with pytest.raises(InfeasiblePlan, match="step merge needs a mergeable adapter"):
        attempt(recipe("lora", name="x", then=[{"merge": {"with": "base:1"}}]))


def test_the_disk_must_have_room(
    attempt: Callable[[dict], Any], recipe: Callable[..., dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan whose whole models would not fit on the disk is refused."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 70_000))
    with pytest.raises(DiskFull, match=r"the disk has 0\.0 GB free"):
        attempt(recipe("lora", name="x", then=["merge"]))


def test_the_disk_must_have_room_for_checkpoints(
    attempt: Callable[[dict], Any], recipe: Callable[..., dict], base: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training of all weights needs room for two checkpoints, each with the state of its optimizer."""
    weights = 4 * base.manifest.facts["parameters"]
    result = sum(entry.size for entry in base.manifest.files if entry.path.endswith(".safetensors"))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, result + 6 * weights - 1))
    with pytest.raises(DiskFull):
        attempt(recipe("full", name="x"))
    attempt(recipe("full", name="y", train={"max_steps": 1, "optimizer": "sgd"}))


class _Gate:
    @hookimpl
    def ftreg_check_version(self) -> list[Problem]:
        return []


def test_the_gates_must_be_loaded(
    attempt: Callable[..., Any], recipe: Callable[..., dict], base: Version, registry: Registry, tmp_path: Path
) -> None:
    """If a gate of the registry is not loaded, the plan is refused, since its result could not be published."""
    copy = tmp_path / "registry"
    shutil.copytree(registry.home, copy)
    host = PluginHost(only=())
    host.register(_Gate())
    with Registry(copy, host=host) as guarded, guarded.staging() as staging:
        (staging.files / "config.json").write_text("{}")
        producer = Producer("import", "test", "test", "test", "1")
        guarded.publish("any", Draft(folder=staging.files, kind="checkpoint", producer=producer))
    with (
        Registry(copy, host=PluginHost(only=())) as unguarded,
        pytest.raises(FtregError, match=r"plugin _Gate \(this process\) guards this registry and is not loaded"),
    ):
        attempt(recipe("lora", name="x"), unguarded)


class _Owned:
    """A gate for runs that keeps what it was asked, and refuses a training without an owner and any pruning."""

    def __init__(self) -> None:
        self.asked: list[RunInfo] = []

    @hookimpl
    def ftreg_check_run(self, run: RunInfo) -> list[Problem]:
        self.asked.append(run)
        refused = run.name == "prune" or (run.type == "method" and "owner" not in run.tags)
        return [Problem("no owner", hint="Add tags: {owner: you}")] if refused else []


def test_a_gate_refuses_a_run_before_its_work(
    attempt: Callable[..., Any], recipe: Callable[..., dict], registry: Registry
) -> None:
    """A gate for runs is asked about the training and every step of a recipe before anything is trained."""
    gate, host = _Owned(), PluginHost(only=())
    host.register(gate)
    with Registry(registry.home, host=host) as guarded:
        with pytest.raises(FtregError, match="method lora cannot make x: no owner") as refused:
            attempt(recipe("lora", name="x"), guarded)
        assert refused.value.hint == "Add tags: {owner: you}"
        steps = ["merge", {"prune": {"sparsity": 0.1, "name": "x-small"}}]
        with pytest.raises(FtregError, match="step prune cannot make x-small: no owner"):
            attempt(recipe("lora", name="x", tags={"owner": "me"}, then=steps), guarded)
        training, merge, prune = gate.asked[-3:]
        assert [parent.role for parent in training.inputs] == ["base", "dataset"]
        assert training.config["train"]["max_steps"] == 8
        assert (merge.target, prune.target) == ("x-merged", "x-small")
        assert prune.config["prune"]["sparsity"] == 0.1
        if any(each.plugin == "_Owned" for each in guarded.gates()):
            guarded.release_gate("_Owned")


def test_a_dry_run_does_not_record_a_gate(recipe: Callable[..., dict], registry: Registry) -> None:
    """A dry run asks the gates for runs and changes nothing, not even the record of gates."""
    host = PluginHost(only=())
    host.register(_Owned())
    with Registry(registry.home, host=host) as guarded:
        before = guarded.events(limit=1)
        context = Context(guarded)
        preview(context, make_plan(host, load_recipe(recipe("lora", name="x", tags={"owner": "me"}))))
        assert guarded.events(limit=1) == before


def test_a_gate_refuses_a_step(adapter: Version, registry: Registry) -> None:
    """A step that is applied by itself is checked before its work, with its input."""
    gate, host = _Owned(), PluginHost(only=())
    host.register(gate)
    with Registry(registry.home, host=host) as guarded:
        merged = steps.merge(adapter.ref, name="owned-merged", registry=guarded)
        with pytest.raises(FtregError, match="step prune cannot make owned-merged-pruned: no owner"):
            steps.prune(merged.ref, registry=guarded)
        assert gate.asked[-1].inputs == (Parent("source", merged.digest, 1.0),)
        guarded.release_gate("_Owned")


def test_nothing_was_published(registry: Registry) -> None:
    """The refusals in this module published nothing."""
    assert "x" not in {version.name for version in registry.list(limit=None)}
