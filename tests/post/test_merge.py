"""Step merge: equals the live adapter, and PEFT's own merge bit by bit, for every architecture and adapter type."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import (
    AdaLoraConfig,
    BOFTConfig,
    C3AConfig,
    DeloraConfig,
    FourierFTConfig,
    GraloraConfig,
    HRAConfig,
    IA3Config,
    LNTuningConfig,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    MissConfig,
    OFTConfig,
    OSFConfig,
    PeftModel,
    PrefixTuningConfig,
    RandLoraConfig,
    RoadConfig,
    ShiraConfig,
    TrainableTokensConfig,
    VBLoRAConfig,
    VeraConfig,
    WaveFTConfig,
)
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


def edit_config(folder: Path, **changes: Any) -> None:
    """Change settings in the file of an adapter's configuration."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


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
        ("gpt2", lora(init_lora_weights="pissa", target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)),
        ("llama", lora(init_lora_weights="olora", use_dora=True)),
        (
            "llama",
            IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
        ),
        ("qwen3", LoHaConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "k_proj"], r=4)),
    ],
    ids=["dora", "rslora", "bias", "lora_bias", "embeddings", "tokens", "pissa", "olora", "ia3", "loha"],
)
def test_every_kind_of_adapter(architecture, config, model_folder, adapter, staging):
    """Every adapter type that PEFT can merge is merged to the weights of PEFT's own merge."""
    base = model_folder(architecture)
    source = adapter(base, config)
    artifact = apply(make_job(source, MergeConfig(), staging))
    assert np.abs(plain_logits(base, source.path) - plain_logits(staging)).max() < 1e-5
    assert artifact.measured["modules_checked"] >= 1
    assert artifact.measured["largest_module_error"] < 1e-5
    own = peft_merge(base, source.path)
    assert all(torch.equal(own[name], tensor) for name, tensor in load_file(staging / "model.safetensors").items())


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (AdaLoraConfig, {"init_r": 6, "target_r": 4, "total_step": 10}),
        (BOFTConfig, {"boft_block_size": 8}),
        (C3AConfig, {"block_size": 8}),
        (DeloraConfig, {"r": 4}),
        (FourierFTConfig, {"n_frequency": 50}),
        (GraloraConfig, {"r": 4, "gralora_k": 2}),
        (HRAConfig, {}),
        (LNTuningConfig, {"target_modules": ["input_layernorm"]}),
        (LoKrConfig, {"r": 4}),
        (LoraConfig, {"init_lora_weights": "mica"}),
        (MissConfig, {"r": 4}),
        (OFTConfig, {"oft_block_size": 8, "r": 0}),
        (RandLoraConfig, {"r": 8}),
        (RoadConfig, {"group_size": 16}),
        (ShiraConfig, {"r": 4}),
        (TrainableTokensConfig, {"target_modules": ["embed_tokens"], "token_indices": [5, 9]}),
        (VBLoRAConfig, {"r": 4, "num_vectors": 8, "vector_length": 8}),
        (VeraConfig, {"r": 8, "save_projection": False}),
        (WaveFTConfig, {"n_frequency": 50}),
    ],
    ids=lambda value: value.__name__.removesuffix("Config") if isinstance(value, type) else "",
)
def test_types_that_are_streamed(kind, settings, model_folder, adapter, staging):
    """An adapter of any of these types is merged module by module into what the live adapter computes."""
    base = model_folder()
    source = adapter(base, kind(**{"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "v_proj"], **settings}))
    live = plain_logits(base, source.path)
    assert "modules_checked" in apply(make_job(source, MergeConfig(), staging)).measured
    assert np.abs(live - plain_logits(staging)).max() < 1e-5
    assert np.abs(live - plain_logits(base)).max() > 1e-4


def test_a_type_that_needs_the_base_in_memory(model_folder, adapter, staging):
    """OSF, which splits the base's weights when it is loaded, is merged by PEFT with the whole base."""
    base = model_folder()
    source = adapter(base, OSFConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"]))
    assert "modules_checked" not in apply(make_job(source, MergeConfig(), staging)).measured
    assert np.abs(plain_logits(base, source.path) - plain_logits(staging)).max() < 1e-5


@pytest.mark.parametrize("start", ["pissa_niter_4", "corda", "loftq", "lora_ga", "something new"])
def test_starts_that_cannot_be_computed_again_are_refused(start, model_folder, adapter, staging):
    """What such a start took out of the base is in no file: the base as it is stored would be the wrong one."""
    source = adapter(model_folder(), lora())
    edit_config(source.path, init_lora_weights=start)
    with pytest.raises(InfeasiblePlan, match=f"initialized by {start}"):
        apply(make_job(source, MergeConfig(), staging))
    assert list(staging.iterdir()) == []


def test_a_start_on_a_quantized_base_is_refused(model_folder, adapter, staging):
    """OLoRA on a 4-bit base quantized what it left there, which cannot be told from the base as it is stored."""
    source = adapter(model_folder(), lora())
    edit_config(source.path, init_lora_weights="olora")
    quantized = make_source(
        source.path, "adapter", base=source.parent("base"), facts={"base_quantization": {"load_in_4bit": True}}
    )
    with pytest.raises(InfeasiblePlan, match="initialized by olora"):
        apply(make_job(quantized, MergeConfig(), staging))


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_a_merge_onto_the_wrong_base_is_found(start, model_folder, adapter, staging):
    """A certificate finds an adapter of a reduced base that was merged onto the base as it is stored."""
    source = adapter(model_folder(), lora(init_lora_weights=start, r=8))
    wrong = source.path.with_name("wrong")
    shutil.copytree(source.path, wrong)
    edit_config(wrong, init_lora_weights=True)
    fault = apply(make_job(make_source(wrong, "adapter", base=source.parent("base")), MergeConfig(), staging))
    assert "modules_checked" in fault.measured  # each module was merged as PEFT would
    assert check(parity_of(source, fault, staging), fault.tolerance) != []


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
        ({"alora_invocation_tokens": [3, 4]}, "aLoRA"),
    ],
)
def test_adapters_that_are_more_than_weights_are_refused(setting, reason, model_folder, adapter, staging):
    """An adapter for a model with more layers, or for some of the tokens only, is refused before any work."""
    source = adapter(model_folder(), lora(target_modules=["q_proj"]))
    edit_config(source.path, **setting)
    with pytest.raises(InfeasiblePlan, match=reason):
        apply(make_job(source, MergeConfig(), staging))


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
    ("settings", "changed", "checked"),
    [
        ({"target_modules": ["q_proj"]}, 2, 2),
        ({"target_modules": ["q_proj"], "target_parameters": ["experts.down_proj"]}, 26, 4),
        ({"target_modules": [], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}, 72, 2),
    ],
    ids=["attention", "both", "experts"],
)
def test_mixture_of_experts(settings, changed, checked, model_folder, adapter, tmp_path, staging):
    """Experts, which the model stacks while it loads them, are merged and checked as stacks, and stored one by one."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_local_experts": 12}
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
    assert artifact.measured["modules_checked"] == checked
    assert artifact.checked is (changed == 2)


@pytest.mark.parametrize(
    ("settings", "checked"),
    [
        ({}, True),
        ({"bias": "all", "target_modules": ["q_proj"]}, False),
        ({"target_modules": ["q_proj", "embed_tokens"]}, False),
        ({"modules_to_save": ["lm_head"]}, False),
        ({"trainable_token_indices": [3]}, False),
    ],
    ids=["linear", "biases", "embeddings", "saved", "tokens"],
)
def test_what_counts_as_checked(settings, checked, model_folder, adapter, staging):
    """Few tokens can certify the whole only if the modules' check has seen all that the adapter changes."""
    source = adapter(model_folder("qwen2"), lora(**settings))
    assert apply(make_job(source, MergeConfig(), staging)).checked is checked


@pytest.mark.parametrize("architecture", ["gpt_oss", "llama4_text"])
def test_experts_that_are_stored_as_stacks(architecture, model_folder, adapter, staging):
    """Stacks of transposed matrices are merged as they are stored, and run on random inputs before and after it."""
    base = model_folder(architecture)
    source = adapter(base, lora(target_modules=[], target_parameters=["experts.gate_up_proj"]))
    assert apply(make_job(source, MergeConfig(), staging)).measured["modules_checked"] == 2
    live = plain_logits(base, source.path)
    assert np.abs(live - plain_logits(staging)).max() < 1e-5
    assert np.abs(live - plain_logits(base)).max() > 1e-3


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


@pytest.mark.parametrize("combination", ["cat", "svd", "linear", "ties", "dare_linear", "dare_ties", "magnitude_prune"])
def test_combinations_are_those_of_peft(combination, model_folder, adapter, staging):
    """Each combination gives the weights that PEFT's own gives, also those that draw from the seed."""
    base = model_folder()
    adapters = [adapter(base, lora(target_modules=["q_proj"]), seed=seed) for seed in (1, 2)]
    density = None if combination in ("cat", "svd", "linear") else 0.4
    config = MergeConfig(combination=combination, **({"density": density} if density else {}))
    apply(make_job(adapters[0], config, staging, weight=0.7, others=[(adapters[1], -0.5)], seed=3))

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapters[0].path, "first")
    model.load_adapter(adapters[1].path, "second")
    torch.manual_seed(3)
    model.add_weighted_adapter(["first", "second"], [0.7, -0.5], "mix", combination_type=combination, density=density)
    model.set_adapter("mix")
    own = model.merge_and_unload().state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in load_file(staging / "model.safetensors").items())
    assert delta(base, staging, "model.layers.1.self_attn.q_proj.weight").abs().max() > 1e-4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"onto": "original"}, "onto is only for adapters that were trained on a quantized base"),
        ({"combination": "ties"}, "combination ties is only for several adapters"),
    ],
)
def test_settings_that_would_do_nothing(settings, message, model_folder, adapter, staging):
    """Where to add an update to, and how to combine several, are refused for one adapter of a full-precision base."""
    source = adapter(model_folder(), lora(target_modules=["q_proj"]))
    with pytest.raises(InfeasiblePlan, match=message):
        apply(make_job(source, MergeConfig(**settings), staging))


def test_ranks_that_do_not_go_together(model_folder, adapter, staging):
    """A combination value by value of adapters of different ranks is refused, with those that take any rank."""
    adapters = [adapter(model_folder(), lora(target_modules=["q_proj"], r=rank)) for rank in (2, 4)]
    with pytest.raises(InfeasiblePlan, match="these adapters by ties: All adapters must have the same r") as found:
        apply(make_job(adapters[0], MergeConfig(combination="ties"), staging, others=[(adapters[1], 1.0)]))
    assert "cat and svd take adapters of any rank" in str(found.value)


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


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"init_lora_weights": "pissa"}, "init pissa"),
    ],
)
def test_only_plain_lora_is_combined(settings, named, model_folder, adapter, staging):
    """Adapters of which PEFT would combine a part only, or would take a part of the base out twice, are refused."""
    first = adapter(model_folder(), lora(target_modules=["q_proj"]))
    other = adapter(model_folder(), lora(target_modules=["q_proj"], **settings))
    with pytest.raises(InfeasiblePlan, match=f"only plain LoRA adapters .* has {named}"):
        apply(make_job(first, MergeConfig(), staging, others=[(other, 1.0)]))
    with pytest.raises(InfeasiblePlan, match=f"only plain LoRA adapters .* has {named}"):
        apply(make_job(other, MergeConfig(), staging, weight=0.5))


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
