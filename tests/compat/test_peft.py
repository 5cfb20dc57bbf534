"""What ftreg assumes of PEFT: a failing test names the function of ftreg.compat.peft to mend."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from peft.utils import ModulesToSaveWrapper
from transformers import LlamaConfig, LlamaForCausalLM

from ftreg.compat.peft import (
    BASE_NAME,
    lora_layers,
    merge_module,
    prefix_cache,
    replaced_layers,
    reset_scaling,
    share_replaced_layers,
    take_out_start,
    tie_head,
    trained_part,
    unsuitable_layers,
    unwrapped_name,
    virtual_tokens,
    wrapped_modules,
)
from ftreg.models.skeleton import load_skeleton

IDS = torch.tensor([[5, 6, 7, 8]])


def make_base(*, tied: bool = False) -> LlamaForCausalLM:
    """A tiny model with random weights, the same at each call."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=40, tie_word_embeddings=tied, pad_token_id=0)).eval()


def lora(**settings) -> LoraConfig:
    """A LoRA configuration of the query projections, unless ``settings`` say otherwise."""
    return LoraConfig(**{"r": 2, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM", **settings})


def disturb(model: PeftModel, name: str) -> None:
    """Give the adapter ``name`` random weights."""
    torch.manual_seed(sum(map(ord, name)))
    for key, parameter in model.named_parameters():
        if f".{name}." in key:
            parameter.data.add_(torch.randn_like(parameter) * 0.1)


def make_peft(config, *, tied: bool = False) -> PeftModel:
    """A tiny model with one adapter, named ``default``, of random weights."""
    model = get_peft_model(make_base(tied=tied), config).eval()
    disturb(model, "default")
    return model


KINDS = {
    "lora": lora(),
    "saved": lora(modules_to_save=["lm_head"]),
    "tokens": lora(trainable_token_indices=[3, 4]),
    "embedding": lora(target_modules=["q_proj", "embed_tokens"]),
}


def test_unsuitable_layers(model_folder):
    """The layers that a Mamba block does not call and routers are found, PEFT refuses the former, and no others are."""
    model = load_skeleton(model_folder("mamba"))
    found = unsuitable_layers(model)
    assert found == [f"backbone.layers.{i}.mixer.{name}" for i in (0, 1) for name in ("dt_proj", "out_proj")]
    with pytest.raises(ValueError, match="incompatible with Mamba"):
        get_peft_model(model, lora(target_modules=["out_proj"]))
    routed = unsuitable_layers(load_skeleton(model_folder("llama4_text")))
    assert routed == [f"model.layers.{i}.feed_forward.router" for i in (0, 1)]
    assert unsuitable_layers(load_skeleton(model_folder("llama"))) == []


def test_lora_layers():
    """The layers that LoRA updates are found by name, and no others."""
    assert [name for name, _ in lora_layers(make_peft(KINDS["embedding"]).get_base_model())] == [
        "model.embed_tokens",
        "model.layers.0.self_attn.q_proj",
    ]


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_take_out_start(start):
    """The base loses what the start moved into the adapter, and the adapter keeps what it was trained to."""
    expected = dict(make_peft(lora(init_lora_weights=start)).get_base_model().named_parameters())
    model = make_peft(lora()).get_base_model()
    name = "model.layers.0.self_attn.q_proj"
    layer = model.get_submodule(name)
    trained, whole = layer.lora_A["default"].weight.clone(), layer.base_layer.weight.clone()
    take_out_start(layer, start)
    assert torch.equal(layer.lora_A["default"].weight, trained)
    assert torch.equal(layer.base_layer.weight, expected[f"{name}.base_layer.weight"])
    assert not torch.allclose(layer.base_layer.weight, whole, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_merge_module(kind):
    """Wrapped modules, merged one at a time, give the weights of PEFT's own merge, under the base's names."""
    model = make_peft(KINDS[kind])
    expected = copy.deepcopy(model).merge_and_unload(safe_merge=True).state_dict()
    base = model.get_base_model()
    names = wrapped_modules(base)
    assert len(names) == (1 if kind == "lora" else 2)
    for name in names:
        for key, weight in merge_module(base.get_submodule(name)).state_dict().items():
            assert torch.equal(weight, expected[f"{name}.{key}"])


@pytest.mark.parametrize("kind", KINDS)
def test_unwrapped_name(kind):
    """Every weight of the base is found under its own name behind PEFT's wrappers."""
    wrapped = make_peft(KINDS[kind]).get_base_model()
    found = {unwrapped_name(name) for name, _ in wrapped.named_parameters()}
    assert found >= {name for name, _ in make_base().named_parameters()}


def test_trained_part():
    """Of a module that is saved whole it is the trained copy, of a LoRA layer the layer itself."""
    base = make_peft(KINDS["saved"]).get_base_model()
    copied = trained_part(base.lm_head)
    assert type(copied) is torch.nn.Linear
    assert copied.weight.requires_grad
    query = base.model.layers[0].self_attn.q_proj
    assert trained_part(query) is query


@pytest.mark.parametrize("rslora", [False, True])
def test_reset_scaling(rslora):
    """A combination by ``cat`` is the weighted sum of its adapters' updates."""
    model = make_peft(lora(use_rslora=rslora))
    model.add_adapter("second", lora(r=4, use_rslora=rslora))
    disturb(model, "second")
    model.add_weighted_adapter(["default", "second"], [0.5, -2.0], "combined", combination_type="cat")
    reset_scaling(model, "combined")
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    first, second, combined = (layer.get_delta_weight(name) for name in ("default", "second", "combined"))
    assert torch.allclose(combined, 0.5 * first - 2.0 * second, atol=1e-6)
    assert combined.abs().max() > 1e-3


@torch.no_grad()
def test_prefix_cache():
    """The base, continuing a prefix's cache, computes what the PEFT model does; other models have no virtual tokens."""
    model = make_peft(PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    cache = prefix_cache(model, 1)
    assert cache.get_seq_length() == virtual_tokens(model) == 3
    logits = model.get_base_model()(input_ids=IDS, past_key_values=cache).logits
    assert torch.allclose(logits, model(input_ids=IDS).logits, atol=1e-5)
    assert virtual_tokens(make_base()) == virtual_tokens(make_peft(lora())) == 0


@pytest.mark.parametrize(
    ("settings", "tied"),
    [
        ({"modules_to_save": ["lm_head"]}, False),
        ({"modules_to_save": ["norm", "o_proj"]}, False),
        ({"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, True),
        ({}, False),
    ],
    ids=["head", "several", "tied", "none"],
)
def test_replaced_layers(settings, tied):
    """The layers that a configuration replaces are foreseen as PEFT then replaces them."""
    config = lora(**settings)
    foreseen = replaced_layers(make_base(tied=tied), config)
    modules = make_peft(config, tied=tied).get_base_model().named_modules()
    assert set(foreseen) == {name for name, module in modules if isinstance(module, ModulesToSaveWrapper)}


@torch.no_grad()
def test_tie_head():
    """A second adapter with tied embeddings uses its own embedding as its head, as when it is loaded alone."""
    settings = {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}
    model = make_peft(lora(**settings), tied=True)
    model.add_adapter("second", lora(**settings))
    tie_head(model, "second")
    disturb(model, "second")
    base = model.get_base_model()
    head, embedding = base.get_output_embeddings(), base.get_input_embeddings()
    assert head.modules_to_save["second"].weight is embedding.modules_to_save["second"].weight

    alone = get_peft_model(make_base(tied=True), lora(**settings), adapter_name="second").eval()
    alone.load_state_dict({key: value for key, value in model.state_dict().items() if key in alone.state_dict()})
    model.set_adapter("second")
    assert torch.allclose(model(input_ids=IDS).logits, alone(input_ids=IDS).logits, atol=1e-6)


@torch.no_grad()
def test_share_replaced_layers():
    """In a mixed batch, every row gets what its adapter, or the base, computes alone."""
    model = make_peft(lora(modules_to_save=["lm_head"]))
    model.add_adapter("second", lora(r=4))
    disturb(model, "second")
    expected = []
    for name in ("default", "second"):
        model.set_adapter(name)
        expected.append(model(input_ids=IDS).logits[0])
    expected.append(make_base()(input_ids=IDS).logits[0])
    model.set_adapter("default")
    share_replaced_layers(model, ["default", "second"])
    mixed = model(input_ids=IDS.repeat(3, 1), adapter_names=["default", "second", BASE_NAME]).logits
    for row, alone in zip(mixed, expected, strict=True):
        assert torch.allclose(row, alone, atol=1e-5)
    assert min((a - b).abs().max() for a, b in ((expected[0], expected[1]), (expected[1], expected[2]))) > 1e-3
