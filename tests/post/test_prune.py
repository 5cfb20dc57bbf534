"""Step prune: as many zeros as configured, at the smallest weights, in linear layers only."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ftreg.core.errors import InfeasiblePlan, RecipeError
from ftreg.core.recipe import validate
from ftreg.evaluation import check
from ftreg.models.matrices import kind_of
from ftreg.plugins.post.config import PruneConfig
from ftreg.plugins.post.prune.step import apply
from tests.post.helpers import make_job, make_source, parity_of

LAYERS = {"llama": 14, "gpt2": 8}


def weights(folder):
    """The tensors of a checkpoint in one file."""
    return load_file(folder / "model.safetensors")


def pruned_names(before, after):
    """Names of the tensors that pruning changed."""
    return [name for name in before if not torch.equal(before[name], after[name])]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("sparsity", [0.1, 0.37, 0.5])
def test_layer_scope(architecture, sparsity, model_folder, staging):
    """Each linear layer loses its share of smallest weights, and nothing else changes."""
    base = model_folder(architecture, True)
    artifact = apply(make_job(make_source(base), PruneConfig(sparsity=sparsity), staging))
    before, after = weights(base), weights(staging)
    changed = pruned_names(before, after)
    assert len(changed) == LAYERS[architecture]
    assert not any("embed" in name or "norm" in name or "wte" in name or "bias" in name for name in changed)
    for name in changed:
        zero = after[name] == 0
        assert int(zero.sum()) == round(sparsity * zero.numel())
        assert before[name][zero].abs().max() <= before[name][~zero].abs().min()
        assert torch.equal(before[name][~zero], after[name][~zero])
    assert artifact.facts["sparsity"] == pytest.approx(sparsity, abs=1e-3)
    assert artifact.facts["sparsity_by_kind"].keys() == {kind_of(name) for name in changed}
    total = sum(before[name].numel() for name in changed)
    assert artifact.facts["pruned"] == {"weights": total, "of": total, "left": {}}
    AutoModelForCausalLM.from_pretrained(staging)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_global_scope(dtype, model_folder, tmp_path, staging):
    """The smallest weights of all layers together are pruned, exactly as many as configured, ties included."""
    base = tmp_path / "base"
    shutil.copytree(model_folder(), base)
    tensors = {name: tensor.to(dtype) for name, tensor in weights(base).items()}
    for layer in (0, 1):
        tensors[f"model.layers.{layer}.mlp.up_proj.weight"] *= 3  # matrices of larger weights keep more of them
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    artifact = apply(make_job(make_source(base), PruneConfig(sparsity=0.4, scope="global"), staging))
    after = weights(staging)
    names = pruned_names(tensors, after)
    magnitudes = torch.cat([tensors[name].float().abs().flatten() for name in names])
    zeros = torch.cat([(after[name] == 0).flatten() for name in names])
    assert int(zeros.sum()) == round(0.4 * len(magnitudes))
    assert magnitudes[zeros].max() <= magnitudes[~zeros].min()
    by_kind = artifact.facts["sparsity_by_kind"]
    assert by_kind["model.layers.*.mlp.up_proj.weight"] < 0.2 < by_kind["model.layers.*.mlp.gate_proj.weight"]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_pattern(architecture, model_folder, staging):
    """2:4 leaves two of each four weights along the inputs, whichever way the matrix is stored."""
    apply(make_job(make_source(model_folder(architecture)), PruneConfig(sparsity=0.5, pattern="2:4"), staging))
    tensors = weights(staging)
    name = "transformer.h.0.mlp.c_fc.weight" if architecture == "gpt2" else "model.layers.0.mlp.up_proj.weight"
    matrix = tensors[name].T if architecture == "gpt2" else tensors[name]
    assert ((matrix.reshape(-1, 4) != 0).sum(dim=1) == 2).all()


FAMILIES = ["falcon", "mixtral", "gpt_oss", "mamba"]


@pytest.mark.parametrize("architecture", FAMILIES)
@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_families(architecture, pattern, model_folder, staging):
    """Layers of a model's own class and each expert's matrix are pruned like any other, routers are not."""
    base = model_folder(architecture)
    artifact = apply(make_job(make_source(base), PruneConfig(sparsity=0.5, pattern=pattern), staging))
    before, after = (AutoModelForCausalLM.from_pretrained(folder) for folder in (base, staging))
    changed = pruned_names(dict(before.named_parameters()), dict(after.named_parameters()))
    for name in changed:
        weight = after.get_parameter(name)
        stacked = weight if weight.dim() == 3 else weight[None]
        for matrix in stacked:  # one for each expert
            assert int((matrix == 0).sum()) == matrix.numel() // 2
            if pattern == "2:4":
                rows = matrix.T if architecture == "gpt_oss" and len(stacked) > 1 else matrix  # stored as (in, out)
                assert ((rows.reshape(-1, 4) != 0).sum(dim=1) == 2).all()
    counted = artifact.facts["pruned"]
    assert counted["weights"] == sum(after.get_parameter(name).numel() for name in changed)
    routers = {"mixtral": "model.layers.*.block_sparse_moe.gate.weight", "gpt_oss": "model.layers.*.mlp.router.weight"}
    assert counted["left"] == ({routers[architecture]: 2 * 4 * 64} if architecture in routers else {})
    assert counted["of"] == counted["weights"] + sum(counted["left"].values())


def test_pattern_needs_half():
    """The pattern fixes the sparsity; configuring another one is an error."""
    with pytest.raises(RecipeError, match=r"2:4 has sparsity 0\.5"):
        validate(PruneConfig, {"pattern": "2:4", "sparsity": 0.3}, where="prune")


def test_certificate_tells_good_from_broken(trained, tmp_path):
    """On a trained model, moderate pruning is within the tolerance and extreme pruning is not."""
    source = make_source(trained("llama"))
    for sparsity, sound in ((0.3, True), (0.95, False)):
        folder = tmp_path / str(sparsity)
        folder.mkdir()
        artifact = apply(make_job(source, PruneConfig(sparsity=sparsity), folder))
        assert (check(parity_of(source, artifact, folder), artifact.tolerance) == []) is sound


def test_quantized_checkpoint_is_refused(model_folder, tmp_path, staging):
    """Quantized weights, which have no magnitudes to compare, are refused."""
    base = tmp_path / "base"
    shutil.copytree(model_folder(), base)
    text = (base / "config.json").read_text()
    (base / "config.json").write_text(text.replace("{", '{"quantization_config": {"load_in_8bit": true},', 1))
    with pytest.raises(InfeasiblePlan, match="prune needs weights in full precision"):
        apply(make_job(make_source(base), PruneConfig(), staging))
