"""Step quantize: plain transformers loads the result, and the certificate refuses a broken one."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from ftreg.core.errors import InfeasiblePlan
from ftreg.evaluation import check
from ftreg.plugins.engines import transformers as engine
from ftreg.plugins.post.config import QuantizeConfig
from ftreg.plugins.post.quantize import apply
from tests.post.helpers import IDS, make_job, make_source, parity_of


@pytest.mark.parametrize("scheme", ["int8", "nf4"])
@pytest.mark.parametrize(("architecture", "tied"), [("llama", False), ("gpt2", True), ("qwen3", True)])
def test_quantized_checkpoint(architecture, tied, scheme, trained, staging):
    """The result is smaller, loads with plain transformers, and is within its tolerance of what it comes from."""
    source = make_source(trained(architecture, tied))
    artifact = apply(make_job(source, QuantizeConfig(scheme=scheme), staging))
    model = AutoModelForCausalLM.from_pretrained(staging)
    kinds = {type(module).__name__ for module in model.modules()}
    assert ("Linear8bitLt" if scheme == "int8" else "Linear4bit") in kinds
    assert type(model.get_output_embeddings()).__name__ == "Linear"
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) is tied
    assert artifact.facts["bytes_after"] < 0.6 * artifact.facts["bytes_before"]
    assert artifact.facts["quantized_layers"] == (8 if architecture == "gpt2" else 14)
    assert AutoTokenizer.from_pretrained(staging).chat_template
    assert "_name_or_path" not in json.loads((staging / "config.json").read_text())
    assert check(parity_of(source, artifact, staging), artifact.tolerance) == []


@pytest.mark.parametrize("scheme", ["int8", "nf4"])
def test_certificate_fails_for_a_broken_layer(scheme, trained, staging):
    """One layer whose weights are shuffled fails the certificate."""
    source = make_source(trained("llama"))
    artifact = apply(make_job(source, QuantizeConfig(scheme=scheme), staging))
    path = staging / "model.safetensors"
    tensors = load_file(path)
    weight = tensors["model.layers.0.mlp.down_proj.weight"]
    tensors["model.layers.0.mlp.down_proj.weight"] = weight.flatten().roll(1000).reshape(weight.shape)
    save_file(tensors, path, metadata={"format": "pt"})
    assert check(parity_of(source, artifact, staging), artifact.tolerance)


def test_bfloat16_source_stays_bfloat16(model_folder, tmp_path, staging):
    """What is not quantized keeps a bfloat16 checkpoint's dtype."""
    AutoModelForCausalLM.from_pretrained(model_folder()).to(torch.bfloat16).save_pretrained(tmp_path / "base")
    apply(make_job(make_source(tmp_path / "base"), QuantizeConfig(), staging))
    assert load_file(staging / "model.safetensors")["lm_head.weight"].dtype == torch.bfloat16


def test_quantized_checkpoint_is_refused(trained, tmp_path, staging):
    """Quantizing twice is refused."""
    apply(make_job(make_source(trained()), QuantizeConfig(), staging))
    (tmp_path / "again").mkdir()
    with pytest.raises(InfeasiblePlan, match="these are quantized"):
        apply(make_job(make_source(staging), QuantizeConfig(), tmp_path / "again"))


def test_engine_answers_from_a_quantized_checkpoint(trained, staging):
    """The engine gives finite float32 logits and answers for bitsandbytes checkpoints on a CPU."""
    apply(make_job(make_source(trained()), QuantizeConfig(), staging))
    loaded = engine.load(make_source(staging), "cpu")
    logits = loaded.logits(IDS)
    assert [row.shape for row in logits] == [(len(row), 320) for row in IDS]
    assert {row.dtype.name for row in logits} == {"float32"}
    assert len(loaded.generate(IDS, max_new_tokens=4)) == len(IDS)


def test_nf4_takes_widths_that_no_block_divides(model_folder, tmp_path, staging):
    """Layers whose input features are not a multiple of nf4's block size are quantized, and the engine runs them."""
    config = AutoConfig.from_pretrained(model_folder())
    config.intermediate_size = 160
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(model_folder()).save_pretrained(tmp_path / "base")
    apply(make_job(make_source(tmp_path / "base"), QuantizeConfig(scheme="nf4"), staging))
    assert all(torch.isfinite(torch.tensor(row)).all() for row in engine.load(make_source(staging), "cpu").logits(IDS))
