"""The check of a merge by modules: it passes what PEFT merges, and finds a module that was merged wrongly."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM

from ftreg.core.errors import FtregError
from ftreg.plugins.post.module_check import ModuleCheck
from tests.tiny import make_model


class Small(nn.Module):
    """An embedding and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.linear = nn.Embedding(32, 64), nn.Linear(64, 96)


@pytest.fixture(params=["embed", "linear"])
def live(request):
    """A layer with a LoRA adapter whose weights are random."""
    torch.manual_seed(0)
    model = get_peft_model(Small(), LoraConfig(r=4, target_modules=[request.param], lora_dropout=0.5))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.1)
    return model.get_base_model().get_submodule(request.param)


def test_a_right_merge_passes(live):
    """A module that PEFT merged computes what it computed live, dropout apart."""
    check = ModuleCheck()
    sample = check.before(live)
    live.merge()
    check.after("layer", sample, live.base_layer)
    assert check.modules == 1
    assert check.error < 1e-5


@pytest.mark.parametrize("scale", [0.0, 1.01])
def test_a_wrong_merge_is_found(live, scale):
    """A module whose update was left out, or is too large by a hundredth, is named."""
    check = ModuleCheck()
    sample = check.before(live)
    wrong = copy.deepcopy(live.base_layer)
    wrong.weight.data += scale * live.get_delta_weight("default")
    with pytest.raises(FtregError, match="the merged module layer does not compute what the adapter computes"):
        check.after("layer", sample, wrong)


def test_an_expert_that_was_left_out_is_found(tmp_path):
    """A stack of experts in which a single one was not merged is found, and the whole stack passes."""
    base = AutoModelForCausalLM.from_pretrained(make_model(tmp_path, "mixtral"))
    torch.manual_seed(0)
    settings = LoraConfig(r=4, target_modules=[], target_parameters=["experts.gate_up_proj"])
    model = get_peft_model(base, settings).get_base_model()
    experts = model.model.layers[0].mlp.experts
    nn.init.normal_(experts.lora_B["default"].weight, std=0.1)
    check = ModuleCheck()
    sample = check.before(experts)
    original = experts.base_layer.gate_up_proj[2].clone()
    experts.merge()
    check.after("experts", sample, experts.base_layer)
    assert check.error < 1e-5
    experts.base_layer.gate_up_proj.data[2] = original
    with pytest.raises(FtregError, match="does not compute what the adapter computes"):
        check.after("experts", sample, experts.base_layer)


def test_other_kinds_of_layers_are_left_out():
    """A layer whose inputs are not known is not compared."""
    check = ModuleCheck()
    assert check.before(nn.LayerNorm(8)) is None
    check.after("norm", None, nn.LayerNorm(8))
    assert check.modules == 0
