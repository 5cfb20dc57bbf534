"""The chain from a base to a merged, quantized, pruned and exported model, with its lineage and certificates."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ftreg import Registry, apply, evaluate, export, merge, prune, quantize, run, train
from ftreg.api.evaluation import held_out
from ftreg.core.errors import CertificateFailed, InfeasiblePlan, InputError
from ftreg.core.types import Version


@pytest.fixture(scope="module")
def merged(registry: Registry, adapter: Version) -> Version:
    """Merge the adapter."""
    return merge(adapter.ref, registry=registry)


def certificate(registry: Registry, version: Version) -> dict:
    """Return the one certificate of a derived version."""
    found = [record.body for record in registry.evidence(version.ref) if record.type == "certificate"]
    assert len(found) == 1
    return dict(found[0])


@pytest.mark.parametrize("method", ["lora", "qlora", "prefix"])
def test_each_method_trains_an_adapter(
    registry: Registry, recipe: Callable[..., dict], base: Version, method: str
) -> None:
    """An adapter is published with its base and dataset as parents, and without the base's weights."""
    version = train(recipe(method), registry=registry)
    assert version.kind == "adapter"
    assert {parent.role for parent in version.manifest.parents} == {"base", "dataset"}
    assert version.manifest.parent("base") == base.digest
    assert "model.safetensors" not in [entry.path for entry in version.manifest.files]
    assert version.manifest.producer.name == method
    assert version.manifest.producer.config["train"]["max_steps"] == 8


def test_training_keeps_its_curve_and_picture(registry: Registry, adapter: Version) -> None:
    """A run's metrics and loss picture are kept as evidence, not as part of the version."""
    run = next(record for record in registry.evidence(adapter.ref) if record.type == "run")
    files = dict(run.files)
    assert {"metrics.json", "loss.png"} <= set(files)
    assert files["loss.png"].read_bytes().startswith(b"\x89PNG")
    assert len(json.loads(files["metrics.json"].read_text())["steps"]) == 8
    assert run.body["tokens_per_second"] > 0


def test_the_same_recipe_makes_the_same_version(
    registry: Registry, recipe: Callable[..., dict], adapter: Version
) -> None:
    """On CPU, a recipe with a seed gives the same files again, and therefore the same version."""
    again = train(recipe("lora", name="bot"), registry=registry)
    assert again.ref == adapter.ref
    other = train(recipe("lora", name="bot", train={"max_steps": 8, "seed": 1}), registry=registry)
    assert other.number == adapter.number + 1


def test_merge_equals_the_adapter(registry: Registry, merged: Version, adapter: Version) -> None:
    """A merged version has adapter and base as parents, and a certificate that both give the same answers."""
    assert {(parent.role, parent.digest) for parent in merged.manifest.parents} == {
        ("adapter", adapter.digest),
        ("base", adapter.manifest.parent("base")),
    }
    body = certificate(registry, merged)
    assert body["parity"]["logit_error"] < 1e-4
    assert body["parity"]["top1"] == 1.0
    assert body["failures"] == []
    assert body["reference"] == adapter.digest
    assert body["probe"]["new_tokens"] == 8  # the modules were checked one by one, so few tokens are compared


def test_merged_loads_with_plain_transformers(registry: Registry, merged: Version) -> None:
    """The folder of a merged version is a model that transformers loads and runs."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = registry.source(merged.ref).path
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "colour of sky"}], return_tensors="pt")
    with torch.no_grad():
        assert torch.isfinite(model(ids["input_ids"] if hasattr(ids, "keys") else ids).logits).all()


def test_quantized_is_smaller_and_close(registry: Registry, merged: Version) -> None:
    """An int8 version is smaller than its source and within the tolerance that its certificate names."""
    version = quantize(merged.ref, scheme="int8", registry=registry, accept=True)
    assert version.size < merged.size
    body = certificate(registry, version)
    assert body["parity"]["kl"] < 0.05
    assert body["probe"]["new_tokens"] == 16
    assert version.manifest.parent("source") == merged.digest


def test_pruned_has_the_sparsity(registry: Registry, merged: Version) -> None:
    """A pruned version records the sparsity that was measured after it was loaded again."""
    version = prune(merged.ref, sparsity=0.25, registry=registry, accept=True)
    assert version.manifest.facts["sparsity"] == pytest.approx(0.25, abs=0.01)


def test_exported_runs_in_onnxruntime(registry: Registry, merged: Version) -> None:
    """An ONNX version loads in plain ONNX Runtime, takes a KV cache, and agrees with its source."""
    import onnxruntime

    version = export(merged.ref, registry=registry)
    assert version.kind == "onnx"
    model = next(registry.source(version.ref).path.rglob("*.onnx"))
    names = [item.name for item in onnxruntime.InferenceSession(str(model)).get_inputs()]
    assert any("past" in name for name in names)
    assert certificate(registry, version)["parity"]["top1"] > 0.99


def test_evaluation_is_kept_as_evidence(registry: Registry, adapter: Version, base: Version) -> None:
    """Evaluating records the figures on the digest, and training lowered the held-out loss."""
    figures = evaluate(adapter.ref, registry=registry)
    assert figures.loss > 0
    body = [record.body for record in registry.evidence(adapter.ref) if record.type == "evaluation"][-1]
    assert body["loss"] == figures.loss
    assert body["split"] == "test"


def test_held_out_examples_are_read_from_the_dataset(registry: Registry, adapter: Version) -> None:
    """By default the test split of the lineage's dataset is used; ``limit`` takes the first of its examples."""
    found = held_out([adapter.ref], registry=registry)
    named = held_out([], found.dataset, split="train", limit=2, registry=registry)
    assert (found.split, len(found.examples), len(list(found.examples))) == ("test", 4, 4)
    assert (named.split, named.digest, len(named.examples), len(list(named.examples))) == ("train", found.digest, 2, 2)
    with pytest.raises(InputError, match="has no validation examples"):
        held_out([], found.dataset, split="validation", registry=registry)


def test_failed_certificate_publishes_nothing(registry: Registry, merged: Version) -> None:
    """A result outside its tolerance fails its step, unless it is accepted, which is recorded."""
    before = len(registry.list(limit=1000))
    with pytest.raises(CertificateFailed, match="too far"):
        prune(merged.ref, sparsity=0.95, name="ruined", registry=registry)
    assert len(registry.list(limit=1000)) == before
    assert not list((registry.home / "tmp").iterdir())
    version = prune(merged.ref, sparsity=0.95, name="ruined", accept=True, registry=registry)
    body = certificate(registry, version)
    assert body["accepted"]
    assert body["failures"]


def test_recipe_runs_its_steps_and_reuses_them(registry: Registry, recipe: Callable[..., dict]) -> None:
    """Each step of a recipe works on the newest result that it can use; a second run makes nothing new."""
    raw = recipe("lora", name="whole", then=["merge", {"quantize": {"scheme": "int8"}}, {"export": {"format": "onnx"}}])
    versions = run(raw, registry=registry, accept=True)
    assert [version.name for version in versions] == [
        "whole",
        "whole-merged",
        "whole-merged-quantized",
        "whole-merged-onnx",
    ]
    count = len(registry.list(limit=1000))
    again = run(raw, registry=registry, accept=True)
    assert [version.digest for version in again] == [version.digest for version in versions]
    assert len(registry.list(limit=1000)) == count


def test_prefix_cannot_be_merged_and_nothing_starts(registry: Registry, recipe: Callable[..., dict]) -> None:
    """A recipe that merges a prefix adapter is refused before anything is trained."""
    count = len(registry.list(limit=1000))
    with pytest.raises(InfeasiblePlan, match="mergeable"):
        run(recipe("prefix", name="never", then=["merge"]), registry=registry)
    assert len(registry.list(limit=1000)) == count


def test_steps_refuse_what_they_cannot_take(registry: Registry, merged: Version, adapter: Version) -> None:
    """A step on a version of the wrong kind, or without a capability that it needs, is refused."""
    with pytest.raises(InfeasiblePlan, match="needs a mergeable adapter; this one is a checkpoint"):
        merge(merged.ref, registry=registry)
    with pytest.raises(
        InfeasiblePlan,
        match=r"needs a full-precision checkpoint; (.|\n)*Merge it first: `ftreg\.merge",
    ):
        apply("onnx", adapter.ref, registry=registry)


def test_failed_training_leaves_nothing(registry: Registry, recipe: Callable[..., dict], tmp_path: Path) -> None:
    """If a method fails, nothing is registered, not even its data."""
    data = tmp_path / "fresh.jsonl"
    data.write_text('{"prompt": "a", "response": "b"}\n' * 1 + '{"prompt": "c", "response": "d"}\n', encoding="utf-8")
    raw = recipe("lora", name="never", data={"path": str(data), "validation": 0.0}, lora={"target_modules": ["nope"]})
    count = len(registry.list(limit=1000))
    with pytest.raises(InputError, match="nope"):
        train(raw, registry=registry)
    assert len(registry.list(limit=1000)) == count
    assert not list((registry.home / "tmp").iterdir())


def test_qlora_merges_onto_the_dequantized_base(registry: Registry, recipe: Callable[..., dict]) -> None:
    """A QLoRA adapter, merged into the weights that it was trained on, answers as the live adapter does."""
    adapter = train(recipe("qlora", name="four-bit"), registry=registry)
    version = merge(adapter.ref, onto="dequantized", registry=registry)
    assert version.kind == "checkpoint"
    assert certificate(registry, version)["parity"]["kl"] < 1e-4
