"""Matrices: which weights of a model count, and how a part of them is reported."""

from __future__ import annotations

import math

import pytest
from transformers import AutoModelForCausalLM

from ftreg.models.matrices import coverage, kind_of, matrices
from ftreg.models.skeleton import load_skeleton
from tests.post.helpers import Listener

KINDS = {
    "llama": {
        *(f"model.layers.*.self_attn.{name}_proj.weight" for name in "qkvo"),
        *(f"model.layers.*.mlp.{name}_proj.weight" for name in ("gate", "up", "down")),
    },
    "gpt2": {
        f"transformer.h.*.{name}.weight" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    },
    "falcon": {
        *(f"transformer.h.*.self_attention.{name}.weight" for name in ("query_key_value", "dense")),
        *(f"transformer.h.*.mlp.{name}.weight" for name in ("dense_h_to_4h", "dense_4h_to_h")),
    },
    "mamba": {f"backbone.layers.*.mixer.{name}_proj.weight" for name in ("in", "x", "dt", "out")},
    "gpt_oss": {
        *(f"model.layers.*.self_attn.{name}_proj.weight" for name in "qkvo"),
        "model.layers.*.mlp.router.weight",
        "model.layers.*.mlp.experts.gate_up_proj",
        "model.layers.*.mlp.experts.down_proj",
    },
}  # fmt: skip


@pytest.mark.parametrize("architecture", KINDS)
def test_what_counts(architecture, model_folder):
    """Layers, experts and routers count with all values; embeddings, the head, norms, biases and states do not."""
    found = matrices(load_skeleton(model_folder(architecture)))
    assert {kind_of(name) for name in found} == KINDS[architecture]
    model = AutoModelForCausalLM.from_pretrained(model_folder(architecture))
    assert {name: math.prod(model.get_parameter(name).shape) for name in found} == {
        name: matrix.size for name, matrix in found.items()
    }


def test_coverage_is_counted_and_said(model_folder):
    """A part is counted with what is left by kind; the user is warned below nine tenths, and told the largest first."""
    known = matrices(load_skeleton(model_folder()))
    for left_out, warned in (((), False), (("k_proj",), False), (("k_proj", "down_proj"), True)):
        changed = [name for name in known if not any(each in name for each in left_out)]
        covered = coverage(known, changed)
        assert covered.weights == sum(known[name].size for name in changed)
        assert covered.of == covered.weights + sum(covered.left.values()) == sum(each.size for each in known.values())
        said = Listener()
        covered.warn(said, "changed")
        assert bool(said.lines) is warned
    share = covered.weights / covered.of
    assert said.lines == [
        f"warning: only {share:.0%} of the linear weights are changed; left as they are: "
        "model.layers.*.mlp.down_proj.weight, model.layers.*.self_attn.k_proj.weight"
    ]
