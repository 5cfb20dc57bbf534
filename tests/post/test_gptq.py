"""Schemes gptq and awq: calibrated on the lineage's data, read by plain transformers, refused where they do not fit.

gptqmodel is not installed beside everything else, because it slows every adapter down: `make test-extras`.
"""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from ftreg.compat.gptqmodel import GPTQMODEL
from ftreg.core.errors import InfeasiblePlan, MissingExtra
from ftreg.core.host import PluginHost
from ftreg.core.specs import StepSpec
from ftreg.core.types import Splits
from ftreg.evaluation import check
from ftreg.plugins.engines import transformers as engine
from ftreg.plugins.post.config import QuantizeConfig
from ftreg.plugins.post.quantize.step import apply
from ftreg.plugins.post.quantize.step import check as check_model
from tests.post.helpers import EXAMPLES, IDS, Listener, make_job, make_source, parity_of

needs_gptqmodel = pytest.mark.skipif(not GPTQMODEL.is_installed, reason="gptqmodel is not installed: make test-extras")
TEXT = Splits(train=tuple(EXAMPLES))
WIDE = {"num_key_value_heads": 2}
"""Makes all widths of a tiny model multiples of 64, as awq needs them."""


def config(**settings):
    """A configuration that calibrates on little."""
    return QuantizeConfig(**{"scheme": "gptq", "rows": 4, "length": 16, **settings})


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch):
    """Pack weights in Python: gptqmodel would compile an extension, for a minute, on first use."""
    monkeypatch.setenv("GPTQMODEL_DISABLE_PACK_EXT", "1")


def quantized(source, staging, **settings):
    """The artifact of quantizing a source with text to calibrate on."""
    return apply(make_job(source, config(**settings), staging, data=TEXT))


@needs_gptqmodel
@pytest.mark.parametrize("scheme", ["gptq", "awq"])
@pytest.mark.parametrize(("architecture", "tied"), [("llama", False), ("qwen3", True)])
def test_result_is_within_its_tolerance(scheme, architecture, tied, trained, staging):
    """Four bits are smaller, load with plain transformers, compute what the engine computes, and stay close."""
    source = make_source(trained(architecture, tied, **WIDE))
    artifact = quantized(source, staging, scheme=scheme)
    assert artifact.facts["bits"] == 4
    assert artifact.facts["quantized"]["weights"] == artifact.facts["quantized"]["of"]
    assert artifact.facts["bytes_after"] < 0.5 * artifact.facts["bytes_before"]
    assert AutoTokenizer.from_pretrained(staging).chat_template
    plain = AutoModelForCausalLM.from_pretrained(staging)
    with torch.inference_mode():
        expected = plain(input_ids=torch.tensor(IDS[:1])).logits[0].float()
    [found] = engine.load(make_source(staging), "cpu").logits(IDS[:1])
    torch.testing.assert_close(torch.tensor(found), expected, atol=2e-2, rtol=1e-2)  # float16, padded or not
    assert check(parity_of(source, artifact, staging), artifact.tolerance) == []


@needs_gptqmodel
def test_fewer_bits_move_the_result_further(trained, tmp_path):
    """8, 4, 3 and 2 bits are further and further from the source, and each is within its own tolerance."""
    source = make_source(trained())
    distances = []
    for bits in (8, 4, 3, 2):
        folder = tmp_path / str(bits)
        folder.mkdir()
        artifact = quantized(source, folder, bits=bits)
        parity = parity_of(source, artifact, folder)
        assert check(parity, artifact.tolerance) == []
        distances.append(parity.kl)
    assert distances == sorted(distances)
    assert distances[0] < 1e-3 < distances[-1]


@needs_gptqmodel
def test_same_rows_make_the_same_bytes(trained, tmp_path):
    """Quantizing is deterministic, and another seed calibrates on other rows."""
    tensors = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        job = make_job(make_source(trained()), config(rows=1, bits=2), tmp_path / name, data=TEXT, seed=seed)
        apply(job)
        tensors.append((tmp_path / name / "model.safetensors").read_bytes())
    assert tensors[0] == tensors[1] != tensors[2]


@needs_gptqmodel
def test_awq_leaves_nothing_but_the_result(trained, tmp_path, monkeypatch, capfd):
    """Awq makes the same files again, without paths; it prints nothing, and the current folder and the source stay."""
    source = make_source(trained(**WIDE))
    before = {path: path.read_bytes() for path in source.path.iterdir()}
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        quantized(source, tmp_path / name, scheme="awq")
        made.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert made[0] == made[1]
    assert made[0].keys() == {path.name for path in before}
    assert not any(str(place).encode() in content for place in (tmp_path, source.path) for content in made[0].values())
    assert not list((tmp_path / "here").iterdir())
    assert {path: path.read_bytes() for path in source.path.iterdir()} == before
    assert capfd.readouterr().out == ""
    settings = json.loads(made[0]["config.json"])["quantization_config"]
    assert settings == {
        "quant_method": "awq",
        "version": "gemm",
        "bits": 4,
        "group_size": 64,
        "zero_point": True,
        "modules_to_not_convert": ["lm_head"],
    }


@needs_gptqmodel
def test_families_that_awq_does_not_know_are_refused(model_folder, staging):
    """A failure of gptqmodel, which ends the process that it runs in, is an error with its message."""
    with pytest.raises(InfeasiblePlan, match="awq cannot quantize this model: KeyError"):
        quantized(make_source(model_folder("phi3", **WIDE)), staging, scheme="awq")


@needs_gptqmodel
def test_configuration_has_no_training_data_in_it(trained, staging):
    """What was calibrated on does not leave with the model; the format is the one that all readers know."""
    quantized(make_source(trained()), staging)
    settings = json.loads((staging / "config.json").read_text())["quantization_config"]
    assert settings["dataset"] is None
    assert (settings["quant_method"], settings["checkpoint_format"], settings["bits"]) == ("gptq", "gptq", 4)
    assert settings["group_size"] == 64  # the largest that fits
    assert not (staging / "quantize_config.json").exists()


@needs_gptqmodel
def test_other_weights_keep_their_precision(model_folder, tmp_path, staging):
    """What is not quantized keeps a bfloat16 checkpoint's dtype."""
    AutoModelForCausalLM.from_pretrained(model_folder()).to(torch.bfloat16).save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(model_folder()).save_pretrained(tmp_path / "base")
    quantized(make_source(tmp_path / "base"), staging)
    assert load_file(staging / "model.safetensors")["lm_head.weight"].dtype == torch.bfloat16


@needs_gptqmodel
@pytest.mark.parametrize("architecture", ["mistral", "gemma3_text", "phi3"])
def test_other_families(architecture, model_folder, staging):
    """Families with windows, with several kinds of attention and with joined layers stay within the tolerance."""
    source = make_source(model_folder(architecture))
    artifact = quantized(source, staging, bits=8)  # the models are untrained: 4 bits would reorder their even guesses
    assert check(parity_of(source, artifact, staging), artifact.tolerance) == []


@needs_gptqmodel
def test_experts_that_are_left_out_are_said(model_folder, staging):
    """Of a Mixtral only the attention is quantized, and the user is told what is not."""
    said = Listener()
    artifact = apply(make_job(make_source(model_folder("mixtral")), config(), staging, data=TEXT, progress=said))
    assert any(line.startswith("warning: only 11% of the linear weights are quantized") for line in said.lines)
    assert artifact.facts["quantized"]["left"].keys() >= {"model.layers.*.mlp.experts.gate_up_proj"}


def test_widths_that_do_not_fit_are_refused(model_folder, tmp_path):
    """A group size that does not divide the inputs, and layers that do not fit a scheme, are refused before work."""
    with pytest.raises(InfeasiblePlan, match=r"has 64 inputs, which is not a multiple of the group size 128"):
        check_model(model_folder(), config(group_size=128))
    odd = AutoConfig.from_pretrained(model_folder())
    odd.intermediate_size = 100
    odd.save_pretrained(tmp_path)
    with pytest.raises(InfeasiblePlan, match=r"64 inputs and 100 outputs; gptq needs multiples of 32 inputs"):
        check_model(tmp_path, config())
    with pytest.raises(InfeasiblePlan, match=r"layer \S+k_proj has 64 inputs and 32 outputs; awq needs .* 64 outputs"):
        check_model(model_folder(), config(scheme="awq"))
    with pytest.raises(InfeasiblePlan, match="awq can quantize nothing in GPT2LMHeadModel"):
        check_model(model_folder("gpt2"), config(scheme="awq"))
    with pytest.raises(
        InfeasiblePlan, match="awq cannot quantize MixtralForCausalLM: transformers cannot load experts"
    ):
        check_model(model_folder("mixtral", **WIDE), config(scheme="awq"))
    check_model(model_folder(**WIDE), config(scheme="awq"))


@needs_gptqmodel
def test_results_that_transformers_cannot_load_are_refused(model_folder, staging):
    """A tied GPT-2, which transformers cannot load in this format, is refused before it is published."""
    with pytest.raises(InfeasiblePlan, match="with gptq weights, the model cannot be loaded"):
        quantized(make_source(model_folder("gpt2", True)), staging)


@needs_gptqmodel
def test_data_is_needed(trained, staging):
    """Without text in the lineage, the error says which schemes need none."""
    with pytest.raises(InfeasiblePlan, match="scheme gptq needs text to calibrate on") as caught:
        apply(make_job(make_source(trained()), config(), staging))
    assert "int8 and nf4 need no data" in caught.value.hint


@pytest.mark.parametrize("scheme", ["gptq", "awq"])
def test_missing_package_is_named(scheme, monkeypatch):
    """Without gptqmodel, the error names the extra as soon as the settings are read; other schemes do not need it."""
    host = PluginHost()
    step = host.get(StepSpec, "quantize")
    monkeypatch.setattr(type(GPTQMODEL), "is_installed", property(lambda self: self.distribution != "gptqmodel"))
    host.configure(step, {"scheme": "int8"}, where="here")
    with pytest.raises(MissingExtra, match=r"quantize with these settings needs gptqmodel.*\n.*ftreg\[gptq\]"):
        host.configure(step, {"scheme": scheme}, where="here")
