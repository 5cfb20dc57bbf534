"""Step merge: equals the live adapter, and PEFT's own merge bit by bit, for every architecture and adapter type."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import IA3Config, LoHaConfig, LoraConfig, PeftModel, PrefixTuningConfig
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from ftreg.core.errors import FtregError, InfeasiblePlan, InputError
from ftreg.core.types import Splits
from ftreg.evaluation import check
from ftreg.plugins.post.config import MergeConfig
from ftreg.plugins.post.merge import apply
from tests.post.helpers import EXAMPLES, make_job, make_source, parity_of, plain_logits

ARCHITECTURES = [
    ("llama", False), ("llama", True), ("gpt2", False), ("gpt2", True),
    ("qwen2", False), ("qwen2", True), ("qwen3", False), ("qwen3", True),
]  # fmt: skip


def lora(**settings: Any) -> LoraConfig:
    """A LoRA configuration for all linear layers, unless ``settings`` say otherwise."""
    return LoraConfig(**{"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **settings})


def peft_merge(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """The weights that PEFT's own merge of the whole model makes."""
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    return dict(model.merge_and_unload(safe_merge=True).state_dict())


@pytest.mark.parametrize(("architecture", "tied"), ARCHITECTURES)
def test_equals_live_adapter_and_pefts_own_merge(architecture, tied, model_folder, adapter, staging):
    """The merged checkpoint answers as the live adapter does, holds PEFT's own weights, and is not the base."""
    base = model_folder(architecture, tied)
    source = adapter(base, lora())
    artifact = apply(make_job(source, MergeConfig(), staging))

    live, merged = plain_logits(base, source.path), plain_logits(staging)
    assert np.abs(live - merged).max() < 1e-5
    assert np.abs(plain_logits(base) - merged).max() > 1e-3
    own, written = peft_merge(base, source.path), load_file(staging / "model.safetensors")
    assert all(torch.equal(own[name], tensor) for name, tensor in written.items())
    assert written.keys() == load_file(base / "model.safetensors").keys()
    assert json.loads((staging / "config.json").read_text())["tie_word_embeddings"] is tied
    assert artifact.facts["changed_tensors"] == (8 if architecture == "gpt2" else 14)
    assert AutoTokenizer.from_pretrained(staging).chat_template == AutoTokenizer.from_pretrained(base).chat_template
    assert check(parity_of(source, artifact, staging), artifact.tolerance) == []


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("gpt2", lora(use_dora=True)),
        ("qwen2", lora(use_rslora=True, rank_pattern={"q_proj": 8}, alpha_pattern={"k_proj": 2})),
        ("qwen2", lora(target_modules=["q_proj"], bias="all")),
        ("qwen2", lora(target_modules=["q_proj", "v_proj"], lora_bias=True)),
        ("llama", lora(target_modules=["q_proj", "embed_tokens"], modules_to_save=["lm_head"])),
        ("llama", lora(target_modules=["q_proj"], trainable_token_indices=[3, 4])),
        ("llama", lora(init_lora_weights="pissa")),
        (
            "llama",
            IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
        ),
        ("qwen3", LoHaConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "k_proj"], r=4)),
    ],
    ids=["dora", "rslora", "bias", "lora_bias", "embeddings", "tokens", "pissa", "ia3", "loha"],
)
def test_every_kind_of_adapter(architecture, config, model_folder, adapter, staging):
    """Every adapter type that PEFT can merge is merged to the weights of PEFT's own merge."""
    base = model_folder(architecture)
    source = adapter(base, config)
    artifact = apply(make_job(source, MergeConfig(), staging))
    assert np.abs(plain_logits(base, source.path) - plain_logits(staging)).max() < 1e-5
    if config.peft_type != "LORA" or config.init_lora_weights != "pissa":  # PiSSA is merged in memory
        assert artifact.measured["modules_checked"] >= 1
        assert artifact.measured["largest_module_error"] < 1e-5
    own = peft_merge(base, source.path)
    assert all(torch.equal(own[name], tensor) for name, tensor in load_file(staging / "model.safetensors").items())


@pytest.mark.parametrize(
    ("config", "untied"),
    [
        (lora(target_modules=["q_proj", "lm_head"]), True),
        (lora(target_modules=["q_proj", "embed_tokens"]), True),
        (lora(target_modules=["q_proj"], modules_to_save=["lm_head"]), True),
        (lora(target_modules=["q_proj", "embed_tokens"], ensure_weight_tying=True), False),
        (lora(target_modules=["q_proj"], modules_to_save=["embed_tokens"], ensure_weight_tying=True), False),
        (lora(target_modules=["q_proj"], trainable_token_indices=[3]), False),
    ],
    ids=["head", "embedding", "saved-head", "both", "saved-both", "tokens"],
)
def test_tied_embeddings_follow_the_live_model(config, untied, model_folder, adapter, staging):
    """An adapter on one of the tied embeddings unties them, one on both leaves them tied; logits are the live ones."""
    base = model_folder("qwen3", True)
    source = adapter(base, config)
    artifact = apply(make_job(source, MergeConfig(), staging))
    assert artifact.facts["untied_embeddings"] is untied
    assert json.loads((staging / "config.json").read_text())["tie_word_embeddings"] is not untied
    assert ("lm_head.weight" in load_file(staging / "model.safetensors")) is untied
    assert np.abs(plain_logits(base, source.path) - plain_logits(staging)).max() < 1e-5


@pytest.mark.parametrize(
    ("settings", "changed"),
    [
        ({"target_modules": ["q_proj"]}, 2),
        ({"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.down_proj"]}, 10),
    ],
    ids=["attention", "experts"],
)
def test_mixture_of_experts(settings, changed, model_folder, adapter, tmp_path, staging):
    """Experts, which the model fuses while it loads them, are copied as they are stored, and merged where adapted."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_local_experts": 4}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 320}
    base = tmp_path / "mixtral"
    AutoModelForCausalLM.from_config(AutoConfig.for_model("mixtral", **sizes, **heads)).save_pretrained(base)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(model_folder() / name, base)
    source = adapter(base, lora(**settings))
    artifact = apply(make_job(source, MergeConfig(), staging))
    assert np.abs(plain_logits(base, source.path) - plain_logits(staging)).max() < 1e-5
    assert load_file(staging / "model.safetensors").keys() == load_file(base / "model.safetensors").keys()
    assert artifact.facts["changed_tensors"] == changed


def test_bfloat16_shards(model_folder, adapter, tmp_path, staging):
    """A sharded bfloat16 base gives a bfloat16 result, computed in float32; dtype=float32 keeps all of it."""
    base = tmp_path / "sharded"
    AutoModelForCausalLM.from_pretrained(model_folder()).to(torch.bfloat16).save_pretrained(
        base, max_shard_size="100KB"
    )
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(model_folder() / name, base)
    assert (base / "model.safetensors.index.json").exists()
    source = adapter(base, lora())
    artifact = apply(make_job(source, MergeConfig(), staging))
    tensors = load_file(staging / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert check(parity_of(source, artifact, staging), artifact.tolerance) == []

    wide = tmp_path / "wide"
    wide.mkdir()
    apply(make_job(source, MergeConfig(dtype="float32"), wide))
    wide_tensors = load_file(wide / "model.safetensors")
    assert all(torch.equal(tensor, wide_tensors[name].to(torch.bfloat16)) for name, tensor in tensors.items())
    assert AutoModelForCausalLM.from_pretrained(wide).dtype == torch.float32
    assert np.abs(plain_logits(base, source.path) - plain_logits(wide)).max() < 1e-5


def delta(base: Path, merged: Path, name: str) -> torch.Tensor:
    """What a merge added to one weight."""
    return load_file(merged / "model.safetensors")[name] - load_file(base / "model.safetensors")[name]


def test_combination_is_the_weighted_sum(model_folder, adapter, tmp_path):
    """By default, several adapters add their weighted updates, ranks and rslora scalings of their own included."""
    base = model_folder()
    first = adapter(base, lora(use_rslora=True), seed=1)
    second = adapter(base, lora(r=2, use_rslora=True), seed=2)
    folders = {name: tmp_path / name for name in ("one", "two", "both")}
    for folder in folders.values():
        folder.mkdir()
    apply(make_job(first, MergeConfig(), folders["one"]))
    apply(make_job(second, MergeConfig(), folders["two"]))
    artifact = apply(make_job(first, MergeConfig(), folders["both"], weight=0.7, others=[(second, -0.4)]))
    name = "model.layers.0.mlp.up_proj.weight"
    one, two, both = (delta(base, folders[key], name) for key in ("one", "two", "both"))
    assert torch.allclose(both, 0.7 * one - 0.4 * two, atol=1e-6)
    assert both.abs().max() > 1e-3
    assert artifact.tolerance is not None
    assert artifact.tolerance.kl is None


@pytest.mark.parametrize("combination", ["svd", "linear", "ties", "dare_linear", "dare_ties", "magnitude_prune"])
def test_combinations_of_peft(combination, model_folder, adapter, tmp_path):
    """PEFT's other combinations work, and the random ones repeat with the same seed."""
    base = model_folder()
    adapters = [adapter(base, lora(target_modules=["q_proj"]), seed=seed) for seed in (1, 2)]
    results = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        job = make_job(adapters[0], MergeConfig(combination=combination), folder, others=[(adapters[1], 1.0)], seed=3)
        apply(job)
        results.append(delta(base, folder, "model.layers.1.self_attn.q_proj.weight"))
    assert torch.equal(*results)
    assert results[0].abs().max() > 1e-4


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_qlora_merges_into_the_base_that_training_saw(architecture, trained, adapter, tmp_path):
    """An adapter of a 4-bit base agrees with its live self far better on the dequantized base than on the original."""
    quantization = {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": "float32",
    }
    source = adapter(trained(architecture), lora(), base_quantization=quantization)
    kl = {}
    for onto in ("dequantized", "original"):
        folder = tmp_path / onto
        folder.mkdir()
        artifact = apply(make_job(source, MergeConfig(onto=onto), folder))
        parity = parity_of(source, artifact, folder)
        assert artifact.facts["merged_onto"] == onto
        assert check(parity, artifact.tolerance) == []
        kl[onto] = parity.kl
    assert kl["dequantized"] < 1e-4
    assert kl["dequantized"] < kl["original"] / 10

    folder = tmp_path / "auto"
    folder.mkdir()
    artifact = apply(make_job(source, MergeConfig(), folder, data=Splits(train=(), validation=EXAMPLES)))
    losses = artifact.measured["held_out_loss"]
    assert artifact.facts["merged_onto"] == min(losses, key=losses.__getitem__)
    expected = load_file(tmp_path / str(artifact.facts["merged_onto"]) / "model.safetensors")
    written = load_file(folder / "model.safetensors")
    assert all(torch.equal(written[name], tensor) for name, tensor in expected.items())
    assert not [path for path in folder.iterdir() if path.is_dir()]


def test_prefix_cannot_be_merged(model_folder, adapter, staging):
    """A prefix adapter is refused before any work."""
    source = adapter(model_folder(), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    with pytest.raises(InfeasiblePlan, match="PREFIX_TUNING adapter cannot be merged"):
        apply(make_job(source, MergeConfig(), staging))


def test_wrong_base(model_folder, adapter, staging):
    """An adapter of another architecture, or of other widths, is refused as not fitting."""
    source = adapter(model_folder("gpt2"), lora(target_modules=["c_attn"]))
    other = make_source(source.path, "adapter", base=make_source(model_folder("llama")))
    with pytest.raises(InputError, match="does not fit this base"):
        apply(make_job(other, MergeConfig(), staging))
    source = adapter(model_folder("llama"), lora(target_modules=["q_proj", "v_proj"], r=4))
    config = json.loads((source.path / "adapter_config.json").read_text())
    (source.path / "adapter_config.json").write_text(json.dumps({**config, "r": 8}))
    with pytest.raises(InputError, match="does not fit this base"):
        apply(make_job(source, MergeConfig(), staging))


def test_adapters_of_different_bases_are_not_combined(model_folder, adapter, staging):
    """Adapters that were trained on different bases are not combined."""
    first, second = adapter(model_folder(), lora()), adapter(model_folder(), lora(), digest="b3:other")
    with pytest.raises(InputError, match="different bases"):
        apply(make_job(first, MergeConfig(), staging, others=[(second, 1.0)]))


def test_dora_is_not_combined(model_folder, adapter, staging):
    """Combinations that PEFT would compute wrongly are refused."""
    adapters = [adapter(model_folder(), lora(use_dora=True), seed=seed) for seed in (1, 2)]
    with pytest.raises(InfeasiblePlan, match="plain LoRA adapters .* has use_dora"):
        apply(make_job(adapters[0], MergeConfig(), staging, others=[(adapters[1], 1.0)]))


def test_adapter_that_changes_nothing(model_folder, adapter, staging):
    """An untrained adapter, whose merge would be the base under another name, is an error."""
    from safetensors.torch import save_file

    source = adapter(model_folder(), lora())
    path = source.path / "adapter_model.safetensors"
    save_file({name: torch.zeros_like(tensor) for name, tensor in load_file(path).items()}, path)
    with pytest.raises(FtregError, match="changes no weight"):
        apply(make_job(source, MergeConfig(), staging))


def test_adapter_without_a_weight(model_folder, adapter, staging):
    """An adapter file that lacks a weight is refused, not filled with zeros."""
    from safetensors.torch import save_file

    source = adapter(model_folder(), lora(modules_to_save=["lm_head"]))
    path = source.path / "adapter_model.safetensors"
    tensors = load_file(path)
    for name in (next(iter(tensors)), "base_model.model.lm_head.weight"):
        save_file({key: value for key, value in tensors.items() if key != name}, path)
        with pytest.raises(InputError, match="lacks"):
            apply(make_job(source, MergeConfig(), staging))


def test_quantized_base_is_refused(trained, adapter, tmp_path, staging):
    """Merging into quantized weights is refused."""
    source = adapter(trained(), lora())
    base = tmp_path / "quantized"
    shutil.copytree(trained(), base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "quantization_config": {"load_in_4bit": True}}))
    with pytest.raises(InfeasiblePlan, match="quantized"):
        apply(make_job(make_source(source.path, "adapter", base=make_source(base)), MergeConfig(), staging))
