"""Step drop-layers: the result is the model without the layers, in plain transformers, with cache and windows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from ftreg.core.errors import FtregError, InfeasiblePlan, RecipeError
from ftreg.core.recipe import validate
from ftreg.core.types import NullProgress, Splits
from ftreg.evaluation import check as check_parity
from ftreg.models.blocks import find_blocks
from ftreg.models.checkpoint import Checkpoint
from ftreg.models.depth import shorten
from ftreg.plugins.post.config import DropLayersConfig
from ftreg.plugins.post.drop_layers.comparison import check_equal
from ftreg.plugins.post.drop_layers.influence import block_influences
from ftreg.plugins.post.drop_layers.step import apply, check
from tests.post.helpers import EXAMPLES, make_job, make_source, parity_of
from tests.tiny import SIZES, WINDOW, make_model

LAYERS = 5
ONE_BY_ONE = ["sliding_attention", "full_attention", "sliding_attention", "full_attention", "full_attention"]
LONG = torch.randint(2, 320, (2, WINDOW + 16), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function ``architecture -> folder`` of an untrained model of five layers; do not write there."""
    made: dict[str, Path] = {}

    def get(architecture: str = "llama") -> Path:
        if architecture not in made:
            more = {"n_layer" if architecture == "gpt2" else "num_hidden_layers": LAYERS}
            if "layer_types" in SIZES[architecture]:
                more["layer_types"] = ONE_BY_ONE
            if architecture == "qwen2":  # the kinds of layers follow from the first two keys
                more |= {"use_sliding_window": True, "max_window_layers": 2, "sliding_window": WINDOW}
            folder = tmp_path_factory.mktemp(architecture)
            made[architecture] = make_model(folder, architecture, **more)
        return made[architecture]

    return get


@torch.no_grad()
def logits_without(folder, dropped):
    """The logits of the whole model, in plain transformers, whose dropped layers hand on what they are given."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for number in dropped:
        layer = find_blocks(model)[1][number]
        alone = model.config.model_type != "falcon"  # whose layers return more
        layer.forward = lambda hidden_states, *_, alone=alone, **__: hidden_states if alone else (hidden_states, None)
    return model(input_ids=LONG, use_cache=False).logits


@pytest.mark.parametrize(
    "architecture", ["falcon", "gemma3_text", "gpt2", "llama4_text", "mamba", "mistral", "mixtral", "qwen2"]
)
def test_equals_the_model_without_the_layers(architecture, deep, staging):
    """Plain transformers loads the result, which computes the same beyond windows too, and generates with its cache."""
    artifact = apply(make_job(make_source(deep(architecture)), DropLayersConfig(layers=(3, 1)), staging))
    model, report = AutoModelForCausalLM.from_pretrained(staging, dtype=torch.float32, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert len(find_blocks(model)[1]) == model.config.num_hidden_layers == 3
    expected = logits_without(deep(architecture), (1, 3))
    with torch.no_grad():
        assert torch.allclose(model(input_ids=LONG, use_cache=False).logits, expected, atol=1e-5)
        answers = [
            model.generate(input_ids=LONG, max_new_tokens=6, do_sample=False, use_cache=use_cache, eos_token_id=None)
            for use_cache in (True, False)
        ]
    assert torch.equal(*answers)
    facts = artifact.facts
    assert (facts["dropped_layers"], facts["layers_before"], facts["layers_after"]) == ([1, 3], 5, 3)
    assert (
        facts["bytes_after"] == Checkpoint(staging).size < facts["bytes_before"] == Checkpoint(deep(architecture)).size
    )
    assert facts["parameters"] == sum(tensor.numel() for tensor in load_file(staging / "model.safetensors").values())
    assert facts["parameters"] < facts["parameters_before"]


def test_the_configuration_says_what_is_left(deep):
    """Lists with an entry for each layer, lists of numbers of layers, and counts of first layers are right."""
    config = shorten(Checkpoint(deep("llama4_text")), [1, 3]).config
    assert config["no_rope_layers"] == [1, 1, 1]  # the fourth has none
    assert config["moe_layers"] == [0, 1, 2]
    assert shorten(Checkpoint(deep("gemma3_text")), [1]).config["layer_types"] == [ONE_BY_ONE[0], *ONE_BY_ONE[2:]]
    config = shorten(Checkpoint(deep("qwen2")), [1, 4]).config
    assert config["max_window_layers"] == 1
    assert config["layer_types"] == ["full_attention", "sliding_attention", "sliding_attention"]
    assert shorten(Checkpoint(deep("deepseek_v3")), [0]).config["first_k_dense_replace"] == 0


@torch.no_grad()
def test_influence_is_that_of_the_paper(deep):
    """The influence of a layer is one minus the mean cosine between the hidden states that enter and that leave it."""
    model = AutoModelForCausalLM.from_pretrained(deep(), dtype=torch.float32)
    states = model(input_ids=LONG, output_hidden_states=True).hidden_states[:-1]  # the last ones are normalized
    found = block_influences(model, LONG, NullProgress())
    assert len(found) == LAYERS
    for entering, leaving, influence in zip(states, states[1:], found, strict=False):
        cosine = (entering * leaving).sum(-1) / entering.norm(dim=-1) / leaving.norm(dim=-1)
        assert influence == pytest.approx(1 - float(cosine.mean()), abs=1e-5)


def test_the_layer_that_does_nothing_is_found(trained, tmp_path, staging):
    """A layer that adds nothing has no influence: it is the one that count removes, and the certificate is perfect."""
    base = tmp_path / "idle"
    shutil.copytree(trained(), base)
    tensors = load_file(base / "model.safetensors")
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        tensors[f"model.layers.0.{name}.weight"].zero_()
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    config = DropLayersConfig(count=1, rows=2, length=32)
    artifact = apply(make_job(make_source(base), config, staging, data=Splits(train=EXAMPLES)))
    assert artifact.facts["dropped_layers"] == [0]
    assert artifact.measured["block_influence"][0] == pytest.approx(0, abs=1e-6)
    assert artifact.measured["block_influence"][1] > 1e-3
    parity = parity_of(make_source(base), artifact, staging)
    assert parity.kl < 1e-9
    assert check_parity(parity, artifact.tolerance) == []


def test_without_data_layers_have_to_be_named(deep, staging):
    """Layers are chosen on the data of the lineage; without any, the error says to name them."""
    with pytest.raises(InfeasiblePlan, match="no training or validation data") as raised:
        apply(make_job(make_source(deep()), DropLayersConfig(count=1), staging))
    assert "layers=[3]" in str(raised.value)


@pytest.mark.parametrize(
    ("architecture", "settings", "message"),
    [
        ("llama", {"layers": [5]}, "no layer 5: the model has the layers 0 to 4"),
        ("llama", {"layers": [0, 1, 2, 3, 4]}, "at least one has to be left"),
        ("llama", {"count": 5}, "at least one has to be left"),
        ("jamba", {"layers": [1]}, "layer 2 would become another one as layer 1"),
    ],
)
def test_what_cannot_be_removed_is_refused_before_work(architecture, settings, message, deep):
    """Layers that do not exist, all of them, and layers whose kind follows from their number."""
    with pytest.raises(InfeasiblePlan, match=message):
        check(deep(architecture), DropLayersConfig(**settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "either layers"),
        ({"layers": [1], "count": 1}, "either layers"),
        ({"layers": [1, 1]}, "different numbers"),
        ({"layers": [-1]}, "from 0"),
        ({"layers": []}, "at least 1"),
    ],
)
def test_settings_that_name_no_layers_are_refused(settings, message):
    """Exactly one of layers and count is given, and layers are different numbers from 0."""
    with pytest.raises(RecipeError, match=message):
        validate(DropLayersConfig, settings, where="drop-layers")


def test_what_is_not_known_of_layers_is_refused_by_name(deep, tmp_path):
    """A key of the configuration that has an entry for each layer, and is not known, is named."""
    base = tmp_path / "base"
    shutil.copytree(deep(), base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "heads_of_layers": [2, 2, 2, 2, 2]}))
    with pytest.raises(InfeasiblePlan, match="heads_of_layers has an entry for each of the 5 layers"):
        check(base, DropLayersConfig(layers=(1,)))


def test_models_for_text_and_images_are_refused(tmp_path):
    """A decoder that is described inside the configuration of a larger model is not shortened."""
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32}
    text = {**sizes, "num_hidden_layers": 3, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 64}
    config = AutoConfig.for_model("llama4", text_config=text, vision_config={**sizes, "num_hidden_layers": 2})
    config.architectures = ["Llama4ForConditionalGeneration"]
    config.save_pretrained(tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InfeasiblePlan, match="Llama4TextConfig does not name the layers"):
        check(tmp_path, DropLayersConfig(layers=(1,)))


def test_tensors_of_further_layers_are_refused(deep, tmp_path):
    """Layers that transformers does not load, such as those that predict further tokens, are not renumbered."""
    base = tmp_path / "base"
    shutil.copytree(deep(), base)
    tensors = load_file(base / "model.safetensors")
    tensors["model.layers.5.eh_proj.weight"] = torch.zeros(4)
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InfeasiblePlan, match=r"model\.layers\.5\.eh_proj\.weight belongs to a layer beyond the 5"):
        check(base, DropLayersConfig(layers=(1,)))


@pytest.mark.parametrize("fault", ["another layer", "one weight", "order"])
def test_a_result_that_is_not_the_model_without_the_layers_is_refused(fault, deep, staging):
    """A result without another layer than was asked for, with layers in another order, or one wrong weight, fails."""
    dropped = [2] if fault == "another layer" else [1]
    apply(make_job(make_source(deep()), DropLayersConfig(layers=tuple(dropped)), staging))
    tensors = load_file(staging / "model.safetensors")
    first, second = "model.layers.1.mlp.down_proj.weight", "model.layers.2.mlp.down_proj.weight"
    if fault == "one weight":
        tensors[first] = tensors[first] * 1.1
    elif fault == "order":
        tensors[first], tensors[second] = tensors[second], tensors[first]
    save_file(tensors, staging / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FtregError, match="does not compute what the model computes without these layers"):
        check_equal(deep(), [1], staging)
