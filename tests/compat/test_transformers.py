"""What ftreg assumes of transformers: a failing test names the function of ftreg.compat.transformers to mend."""

from __future__ import annotations

import contextlib
import inspect

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, DynamicCache

from ftreg.compat.bitsandbytes import quantized_layers
from ftreg.compat.transformers import (
    cache_from,
    cache_sizes,
    cache_tensors,
    caches_keys_and_values,
    computes_quantized,
    export_decoder,
    join_weights,
    keeps_rows_apart,
    loaded_as,
    planned_steps,
    replace_quantized_layers,
    stop_rescaling,
    take_weights_apart,
    tied_weights,
    to_device,
    use_one_gpu,
)
from ftreg.models.skeleton import load_skeleton
from ftreg.training.trainer import LanguageTrainer
from tests.tiny import make_model

SIZES = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "vocab_size": 320, "max_position_embeddings": 32,
}  # fmt: skip


@pytest.fixture
def model(model_folder):
    """A tiny Llama."""
    return AutoModelForCausalLM.from_pretrained(model_folder()).eval()


@torch.no_grad()
def test_cache_round_trip(model):
    """A cache that is taken apart and put together again continues a text with the same logits, and is not changed."""
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    cache = model(input_ids=ids[:, :4], use_cache=True).past_key_values
    tensors = cache_tensors(cache)
    assert [tuple(tensor.shape) for tensor in tensors] == [(1, 1, 4, 32)] * 4
    copies = [tensor.clone() for tensor in tensors]
    again = cache_from(tensors)
    assert isinstance(again, DynamicCache)
    assert again.get_seq_length() == 4
    continued = model(input_ids=ids[:, 4:], past_key_values=again, position_ids=torch.tensor([[4, 5]])).logits
    assert torch.allclose(continued, model(input_ids=ids).logits[:, 4:], atol=1e-5)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(tensors, copies, strict=True))


@pytest.mark.parametrize(
    ("architecture", "settings", "apart"),
    [
        ("llama", {}, True),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, True),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, False),
        ("mistral", {"sliding_window": 8}, False),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, False),
        ("lfm2", {"layer_types": ["conv", "full_attention"]}, False),
    ],
    ids=["plain", "linear-rope", "dynamic-rope", "sliding", "some-sliding", "recurrent"],
)
def test_keeps_rows_apart(architecture, settings, apart):
    """Models whose caches or positions depend on other rows or drop columns are told from those that do not."""
    config = AutoConfig.for_model(architecture, **SIZES, **settings)
    assert keeps_rows_apart(AutoModelForCausalLM.from_config(config)) is apart


def test_int8_does_not_keep_rows_apart(model_folder):
    """LLM.int8() lets the outliers of a row change the others."""
    eight = BitsAndBytesConfig(load_in_8bit=True)
    assert not keeps_rows_apart(AutoModelForCausalLM.from_pretrained(model_folder(), quantization_config=eight))


def test_tied_weights(model_folder):
    """Ties are known on the meta device too, by the names of both ends."""
    assert tied_weights(load_skeleton(model_folder("llama", True))) == {"lm_head.weight": "model.embed_tokens.weight"}
    assert tied_weights(load_skeleton(model_folder("llama", False))) == {}


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("architecture", "tied"), [("llama", False), ("gpt2", True), ("llama4_text", False)])
def test_replace_quantized_layers(architecture, tied, bits, model_folder):
    """The layers that the skeleton shows in 4 or 8 bits are those that loading makes so."""
    settings = BitsAndBytesConfig(**{f"load_in_{bits}bit": True})
    folder = model_folder(architecture, tied)
    loaded = AutoModelForCausalLM.from_pretrained(folder, quantization_config=settings)
    skeleton = load_skeleton(folder)
    replace_quantized_layers(skeleton, settings, stored=False)
    assert quantized_layers(loaded)
    assert quantized_layers(skeleton) == quantized_layers(loaded)


@torch.no_grad()
def test_computes_quantized(model_folder):
    """Mamba fails with quantized layers; as soon as it does not, ftreg can let it be quantized."""
    settings = BitsAndBytesConfig(load_in_8bit=True)
    for architecture, fine in (("mamba", False), ("jamba", True)):
        folder = model_folder(architecture)
        loaded = AutoModelForCausalLM.from_pretrained(folder, quantization_config=settings, dtype=torch.float16)
        with contextlib.nullcontext() if fine else pytest.raises(RuntimeError):
            loaded(input_ids=torch.tensor([[1, 2, 3]]))
        assert computes_quantized(loaded) is fine


@torch.no_grad()
def test_stop_rescaling(tmp_path):
    """RWKV divides weights of later layers when it turns to inference, and does not after ``stop_rescaling``."""
    config = AutoConfig.for_model("rwkv", vocab_size=32, hidden_size=32, num_hidden_layers=2, rescale_every=1)
    for stopped in (False, True):
        model = AutoModelForCausalLM.from_config(config).eval()
        before = model.rwkv.blocks[1].attention.output.weight.clone()
        if stopped:
            stop_rescaling(model)
        model(input_ids=torch.tensor([[1, 2, 3]]))
        assert torch.equal(before, model.rwkv.blocks[1].attention.output.weight) is stopped


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "falcon", "mixtral", "gpt_oss", "jamba", "mamba"])
def test_loaded_as(architecture, model_folder):
    """Every stored tensor is found in the model: under its own name, its new one, or as a part of stacked experts."""
    folder = model_folder(architecture)
    model = AutoModelForCausalLM.from_pretrained(folder)
    stored = load_file(folder / "model.safetensors")
    found = loaded_as(model, stored)
    assert found.keys() == stored.keys()
    for name, loaded in found.items():
        weight = model.get_parameter(loaded.name)
        if not loaded.converted:
            assert torch.equal(weight, stored[name])
        else:  # an expert's matrix is a block of one of the stacked ones
            rows = {tuple(row) for matrix in weight.tolist() for row in matrix}
            assert not loaded.turned
            assert {tuple(row) for row in stored[name].tolist()} <= rows
    assert any(loaded.converted for loaded in found.values()) is (architecture == "mixtral")


def test_join_weights_and_take_weights_apart(tmp_path):
    """Experts, also the tenth, are stacked as ``from_pretrained`` does, and taken apart into what was stored."""
    folder = make_model(tmp_path, "mixtral", num_local_experts=12)
    model = AutoModelForCausalLM.from_pretrained(folder)
    skeleton = load_skeleton(folder)
    stored = load_file(folder / "model.safetensors")
    parts = {name: tensor for name, tensor in stored.items() if ".0.block_sparse_moe.experts." in name}
    joined = join_weights(skeleton, parts)
    assert joined.keys() == {f"model.layers.0.mlp.experts.{name}" for name in ("gate_up_proj", "down_proj")}
    assert all(torch.equal(weight, model.get_parameter(name)) for name, weight in joined.items())
    apart = take_weights_apart(skeleton, joined)
    assert apart.keys() == parts.keys()
    assert all(torch.equal(tensor, parts[name]) for name, tensor in apart.items())


@pytest.mark.parametrize(
    ("architecture", "cached"),
    [("llama", True), ("falcon", True), ("gpt_oss", True), ("mamba", False), ("rwkv", False), ("jamba", False)],
)
def test_caches_keys_and_values(architecture, cached, model_folder):
    """Attention keeps keys and values, in full or in a window; state-space models and hybrids keep a state."""
    assert caches_keys_and_values(load_skeleton(model_folder(architecture))) is cached


@pytest.mark.parametrize(("architecture", "sizes"), [("llama", (1, 32)), ("falcon", (1, 32)), ("gpt2", (2, 32))])
def test_cache_sizes(architecture, sizes, model_folder):
    """The sizes are those of the keys, also of multi-query attention."""
    assert cache_sizes(AutoModelForCausalLM.from_pretrained(model_folder(architecture))) == {sizes}


def test_export_decoder(model_folder):
    """The traced graph has ids, a mask and a cache of known sizes as its inputs, and no local paths."""
    model = AutoModelForCausalLM.from_pretrained(model_folder("gpt2", True)).eval()
    graph = export_decoder(model).program.graph
    names = {value.name for value in graph.inputs}
    assert {"input_ids", "attention_mask"} < names
    assert len(names) >= 2 + 2 * 2
    heads = [value.shape for value in graph.inputs if value.name.endswith(("keys", "values"))]
    assert [(shape[1], shape[3]) for shape in heads] == [(2, 32)] * 4
    assert not any(node.metadata_props for node in graph.all_nodes())


@pytest.fixture
def trainer(model, tmp_path):
    """Transformers' trainer on ten examples."""
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=2, num_train_epochs=3, use_cpu=True, report_to="none"
    )
    rows = [{"input_ids": [5, 6, 7], "labels": [5, 6, 7]}] * 10
    return transformers.Trainer(model=model, args=arguments, train_dataset=rows)


def test_planned_steps(trainer):
    """The steps that are foreseen are those that the trainer takes."""
    assert planned_steps(trainer) == 15
    assert trainer.train().global_step == 15


def test_to_device(trainer):
    """Tensors go to the device, and what is not a tensor stays as it is."""
    moved = to_device(trainer, {"input_ids": torch.tensor([[1]]), "tokens": 3})
    assert moved["input_ids"].device == trainer.args.device
    assert moved["tokens"] == 3


def test_use_one_gpu(tmp_path):
    """Arguments that see several GPUs use one; those that see none use none."""
    arguments = transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    use_one_gpu(arguments)
    assert arguments.n_gpu == 0
    arguments._n_gpu = 4
    use_one_gpu(arguments)
    assert arguments.n_gpu == 1


@pytest.mark.parametrize(
    "name",
    [
        "get_train_dataloader", "get_batch_samples", "compute_loss", "create_scheduler", "floating_point_ops",
        "evaluate", "log", "save_model", "_load_from_checkpoint", "_save_checkpoint",
    ],
)  # fmt: skip
def test_trainer_hooks(name):
    """Every method that LanguageTrainer overrides exists in transformers' trainer with the same arguments."""
    ours = list(inspect.signature(getattr(LanguageTrainer, name)).parameters.values())
    theirs = list(inspect.signature(getattr(transformers.Trainer, name)).parameters.values())
    named = [each.name.lstrip("_") for each in ours if each.kind is each.POSITIONAL_OR_KEYWORD]
    assert named == [each.name.lstrip("_") for each in theirs][: len(named)]
    takes_any = any(each.kind is each.VAR_POSITIONAL for each in ours)
    assert takes_any or len(named) == len(theirs)
