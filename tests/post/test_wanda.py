"""Criterion wanda: the paper's scores, layer after layer, in every kind of layer, on the data of the lineage."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from ftreg.core.errors import FtregError, InfeasiblePlan
from ftreg.core.types import NullProgress, Splits
from ftreg.models.checkpoint import Checkpoint
from ftreg.models.matrices import matrices
from ftreg.plugins.post.calibration import calibration_rows
from ftreg.plugins.post.config import PruneConfig
from ftreg.plugins.post.prune import step
from ftreg.plugins.post.prune.inputs import InputNorms
from ftreg.plugins.post.prune.step import apply
from ftreg.plugins.post.prune.wanda import prune_model
from tests.post.helpers import EXAMPLES, Listener, make_job, make_source

DATA = Splits(train=EXAMPLES)
TEXT = torch.randint(320, (3, 24), generator=torch.Generator().manual_seed(2))


def wanda(**settings):
    """A configuration with little text."""
    return PruneConfig(**{"criterion": "wanda", "rows": 2, "length": 32, **settings})


@torch.no_grad()
def reference(folder, text, sparsity):
    """The paper's algorithm, word for word: after each layer the whole model is run again to observe the next one."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    layers = {
        name: module for name, module in model.base_model.named_modules() if isinstance(module, nn.Linear | Conv1D)
    }
    for number in range(model.config.num_hidden_layers):
        own = [module for name, module in layers.items() if f".{number}." in name]
        seen = {}

        def keep(module, args, seen=seen):
            seen[module] = args[0].flatten(0, -2)

        hooks = [module.register_forward_pre_hook(keep) for module in own]
        model(input_ids=text)
        for hook in hooks:
            hook.remove()
        for module in own:
            weight = module.weight.data.T if isinstance(module, Conv1D) else module.weight.data
            scores = weight.abs() * seen[module].square().sum(dim=0).sqrt()
            for row, score in zip(weight, scores, strict=True):
                row[score.argsort()[: round(sparsity * len(row))]] = 0
    return model


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_equals_the_papers_algorithm(architecture, trained):
    """One pass over the text prunes the weights that the straightforward algorithm prunes, whichever way stored."""
    model = AutoModelForCausalLM.from_pretrained(trained(architecture, True), dtype=torch.float32)
    pruned = prune_model(model, TEXT, wanda(sparsity=0.4), NullProgress())
    expected = reference(trained(architecture, True), TEXT, 0.4)
    assert pruned.keys() == matrices(model).keys()
    for name, parameter in expected.named_parameters():
        assert torch.equal(model.get_parameter(name), parameter), name


@pytest.mark.parametrize("pattern", ["unstructured", "1:4"])
@pytest.mark.parametrize("architecture", ["falcon", "mixtral", "gpt_oss", "mamba"])
def test_families(architecture, pattern, model_folder, staging):
    """Layers of a model's own class and stacks of experts are pruned; what no input is seen of is left and named."""
    base = model_folder(architecture)
    share = {"unstructured": 0.5, "1:4": 0.75}[pattern]
    artifact = apply(make_job(make_source(base), wanda(sparsity=share, pattern=pattern), staging, data=DATA))
    before, after = Checkpoint(base), Checkpoint(staging)
    assert before.tensors == after.tensors
    assert before.config == after.config
    assert artifact.facts["sparsity"] == pytest.approx(share, abs=1e-3)
    assert set(artifact.facts["sparsity_by_kind"].values()) == {artifact.facts["sparsity"]}
    left = {
        "mamba": "backbone.layers.*.mixer.dt_proj.weight",
        "mixtral": "model.layers.*.mlp.gate.weight",
        "gpt_oss": "model.layers.*.mlp.router.weight",
    }
    assert list(artifact.facts["pruned"]["left"]) == ([left[architecture]] if architecture in left else [])
    AutoModelForCausalLM.from_pretrained(staging)


def test_each_expert_is_pruned_by_its_own_tokens(model_folder):
    """The inputs of an expert are those of the tokens that are routed to it, and no others."""
    model = AutoModelForCausalLM.from_pretrained(model_folder("mixtral"), dtype=torch.float32)
    model.set_experts_implementation("eager")
    experts = model.get_submodule("model.layers.0.mlp.experts")
    routed = {}
    hook = experts.register_forward_pre_hook(lambda _, args: routed.update(states=args[0], experts=args[1]))
    with torch.no_grad(), InputNorms({"up": experts.gate_up_proj.data, "down": experts.down_proj.data}) as norms:
        model(input_ids=TEXT)
    hook.remove()
    for expert in range(4):
        states = routed["states"][(routed["experts"] == expert).any(dim=-1)]
        assert torch.allclose(norms.seen["up"].squares[expert], states.square().sum(dim=0), rtol=1e-5)
    assert norms.seen["down"].squares.shape == (4, 128)
    assert not norms.seen["up"].transposed


def test_products_are_seen_whichever_way_they_are_written():
    """Each way to multiply with a matrix gives the same sums, and the way it is stored; other products are not seen."""
    inputs, weight = torch.randn(2, 5, 8), torch.randn(6, 8)
    turned, stack = weight.T.contiguous(), torch.randn(3, 8, 6)
    for stored, multiply, transposed in (
        (weight, lambda: nn.functional.linear(inputs, weight), False),
        (weight, lambda: inputs @ weight.T, False),
        (turned, lambda: inputs @ turned, True),
        (turned, lambda: torch.addmm(torch.zeros(6), inputs.view(-1, 8), turned), True),
    ):
        with InputNorms({"w": stored}) as norms:
            multiply()
            inputs.mT @ inputs
        assert list(norms.seen) == ["w"]
        assert norms.seen["w"].transposed is transposed
        assert torch.allclose(norms.seen["w"].squares[0], inputs.square().sum(dim=(0, 1)))
    each = torch.randn(3, 5, 8)
    with InputNorms({"stack": stack}) as norms:
        torch.bmm(each, stack)
    assert torch.allclose(norms.seen["stack"].squares, each.square().sum(dim=1))


def test_experts_without_tokens_are_pruned_by_magnitude_and_said(model_folder):
    """An expert that no token is routed to keeps its largest weights, and the user is told how many there are."""
    model = AutoModelForCausalLM.from_pretrained(model_folder("mixtral"), dtype=torch.float32)
    said = Listener()
    prune_model(model, torch.tensor([[7]]), wanda(sparsity=0.5), said)
    [warning] = said.lines
    assert "no token of the calibration text was routed to 8 experts' matrices" in warning  # 2 layers, 2 of 4, up, down
    before = AutoModelForCausalLM.from_pretrained(model_folder("mixtral"), dtype=torch.float32)
    name = "model.layers.0.mlp.experts.down_proj"
    ours, theirs = before.get_parameter(name), model.get_parameter(name)
    by_magnitude = 0
    for old, new in zip(ours, theirs, strict=True):
        by_magnitude += all(
            row[zero].abs().max() <= row[~zero].abs().min() for row, zero in zip(old, new == 0, strict=True)
        )
    assert by_magnitude == 2


def test_text_depends_on_the_seed_alone(trained):
    """The rows are of one length, the same for a seed, and others for another; validation data serves as well."""
    source = make_source(trained())
    rows = [
        calibration_rows(make_job(source, None, None, data=data, seed=seed), wanda(), needed_by="x", instead="")
        for data, seed in ((DATA, 0), (DATA, 0), (DATA, 1), (Splits(train=(), validation=EXAMPLES), 0))
    ]
    assert {row.shape for row in rows} == {(2, 32)}
    assert torch.equal(rows[0], rows[1])
    assert torch.equal(rows[0], rows[3])
    assert not torch.equal(rows[0], rows[2])


def test_little_text_makes_fewer_rows(trained):
    """Data that does not fill the rows makes fewer, which is said, and less than one row makes a shorter one."""
    said = Listener()
    job = make_job(make_source(trained()), None, None, data=DATA, progress=said)
    assert calibration_rows(job, wanda(rows=500), needed_by="x", instead="").shape[0] < 20
    assert "of 500 calibration rows of 32 tokens" in said.lines[0]
    [row] = calibration_rows(job, wanda(length=10_000), needed_by="x", instead="")
    assert 32 < len(row) <= 256  # the context


def test_without_data_it_says_where_data_comes_from(trained, staging):
    """A lineage without data is an error that names what to do."""
    with pytest.raises(InfeasiblePlan, match="no training or validation data in the lineage") as raised:
        apply(make_job(make_source(trained()), wanda(), staging))
    assert "Criterion magnitude needs none" in str(raised.value)
    assert not list(staging.iterdir())


def test_the_same_job_makes_the_same_bytes(trained, tmp_path):
    """Calibration, scores and files depend on nothing but the job; another seed is another text, and another result."""
    made = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        config = wanda(sparsity=0.5, rows=1, length=16)
        apply(make_job(make_source(trained()), config, tmp_path / name, data=DATA, seed=seed))
        made.append((tmp_path / name / "model.safetensors").read_bytes())
    assert made[0] == made[1]
    assert made[0] != made[2]


@pytest.mark.parametrize("fault", ["dense", "pattern"])
def test_a_result_that_is_not_as_configured_is_refused(fault, trained, staging, monkeypatch):
    """If weights were written without the zeros, or without the pattern, the step fails."""

    def ruin(job, source, config):
        outcome = honest(job, source, config if fault == "dense" else wanda(sparsity=0.5))
        if fault == "dense":
            model = AutoModelForCausalLM.from_pretrained(source.folder)
            model.save_pretrained(job.staging)
        return outcome

    honest = step.prune_by_wanda
    monkeypatch.setattr(step, "prune_by_wanda", ruin)
    config = wanda(sparsity=0.5) if fault == "dense" else wanda(pattern="2:4")
    message = "weights were written as zeros" if fault == "dense" else "without the pattern 2:4"
    with pytest.raises(FtregError, match=message):
        apply(make_job(make_source(trained()), config, staging, data=DATA))


@torch.no_grad()
def test_the_scale_of_an_input_does_not_matter(trained):
    """Scaling inputs up and their weights down changes no output, and nothing of what is pruned: magnitudes would."""
    model = AutoModelForCausalLM.from_pretrained(trained(), dtype=torch.float32)
    scaled = AutoModelForCausalLM.from_pretrained(trained(), dtype=torch.float32)
    scales = 2.0 ** torch.randint(-4, 5, (64,), generator=torch.Generator().manual_seed(0))  # exact in float32
    for layer in scaled.model.layers:
        layer.input_layernorm.weight *= scales
        for name in ("q_proj", "k_proj", "v_proj"):
            layer.self_attn.get_submodule(name).weight /= scales
    zeros = []
    for each in (model, scaled):
        prune_model(each, TEXT, wanda(sparsity=0.5), NullProgress())
        zeros.append({name: each.get_parameter(name) == 0 for name in matrices(each)})
    assert all(torch.equal(zero, zeros[1][name]) for name, zero in zeros[0].items())
