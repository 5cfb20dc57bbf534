"""Step quantize: plain transformers loads the result, and the certificate refuses a broken one."""

from __future__ import annotations

import json
import re

import pytest
import torch
from bitsandbytes.functional import has_avx512bf16
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from ftreg.core.errors import InfeasiblePlan
from ftreg.evaluation import check
from ftreg.plugins.engines import transformers as engine
from ftreg.plugins.post.config import QuantizeConfig
from ftreg.plugins.post.quantize.step import apply
from ftreg.plugins.post.quantize.step import check as check_model
from tests.post.helpers import IDS, Listener, make_job, make_source, parity_of


def is_matrix(name):
    """Return whether a stored tensor is the matrix of a linear layer."""
    return re.search(r"\.(attn|self_attn|mlp)\.\w+\.weight", name) and "norm" not in name


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
    sizes = [weight.numel() for name, weight in load_file(source.path / "model.safetensors").items() if is_matrix(name)]
    assert len(sizes) == (8 if architecture == "gpt2" else 14)
    assert artifact.facts["quantized"] == {"weights": sum(sizes), "of": sum(sizes), "left": {}}
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


def test_what_is_left_out_is_counted_and_said(model_folder, staging):
    """Of a Mixtral only the attention is quantized; the facts and the user are told what is not, by name."""
    said = Listener()
    artifact = apply(make_job(make_source(model_folder("mixtral")), QuantizeConfig(), staging, progress=said))
    experts, routers, attention = 2 * 4 * 3 * 64 * 128, 2 * 4 * 64, 2 * (2 * 64 * 64 + 2 * 64 * 32)
    assert artifact.facts["quantized"] == {
        "weights": attention,
        "of": attention + experts + routers,
        "left": {
            "model.layers.*.mlp.experts.gate_up_proj": experts * 2 // 3,
            "model.layers.*.mlp.experts.down_proj": experts // 3,
            "model.layers.*.mlp.gate.weight": routers,
        },
    }
    [warning] = said.lines
    assert warning.startswith("warning: only 11% of the linear weights are quantized; left as they are: model.layers.*")


@pytest.mark.parametrize("scheme", ["int8", "nf4"])
@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ("falcon", "can quantize nothing in Falcon"),
        ("mamba", "Mamba.* cannot with quantized"),
        ("llama4_text", r"cannot load Llama4ForCausalLM with weights .* looks for model\.layers\.0\..*experts\.0"),
    ],
)
def test_models_that_cannot_be_quantized_are_refused(architecture, reason, scheme, model_folder):
    """Other linear layers than PyTorch's, layers that are bypassed, and what could not be loaded, are refused."""
    with pytest.raises(InfeasiblePlan, match=reason):
        check_model(model_folder(architecture), QuantizeConfig(scheme=scheme))


def test_layers_that_bitsandbytes_cannot_compute_are_refused(model_folder, staging):
    """Bitsandbytes' int8 on CPUs fails for DeepSeek's attention, which is an error before anything is written."""
    if torch.cuda.is_available():
        pytest.skip("the kernels for CUDA are others")
    with pytest.raises(InfeasiblePlan, match="With int8 weights, this model cannot be computed"):
        apply(make_job(make_source(model_folder("deepseek_v3")), QuantizeConfig(), staging))
    assert not list(staging.iterdir())


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


@pytest.mark.parametrize("scheme", ["int8", "nf4"])
def test_plain_transformers_computes_what_the_engine_does(scheme, trained, staging):
    """What a user gets from plain transformers is what the certificate was measured on.

    Except on CPUs with AVX-512 BF16, where bitsandbytes rounds the inputs of 4-bit layers to bfloat16 for inference.
    """
    apply(make_job(make_source(trained()), QuantizeConfig(scheme=scheme), staging))
    plain = AutoModelForCausalLM.from_pretrained(staging)
    with torch.inference_mode():
        expected = plain(input_ids=torch.tensor(IDS[:1])).logits[0].float()
    [found] = engine.load(make_source(staging), "cpu").logits(IDS[:1])
    atol = 0.3 if scheme == "nf4" and has_avx512bf16() else 1e-6
    torch.testing.assert_close(torch.tensor(found), expected, atol=atol, rtol=0)


def test_nf4_takes_widths_that_no_block_divides(model_folder, tmp_path, staging):
    """Layers whose input features are not a multiple of nf4's block size are quantized, and the engine runs them."""
    config = AutoConfig.from_pretrained(model_folder())
    config.intermediate_size = 160
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(model_folder()).save_pretrained(tmp_path / "base")
    apply(make_job(make_source(tmp_path / "base"), QuantizeConfig(scheme="nf4"), staging))
    assert all(torch.isfinite(torch.tensor(row)).all() for row in engine.load(make_source(staging), "cpu").logits(IDS))
