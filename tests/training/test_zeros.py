"""Method full with keep_zeros: exactly the zeros of a pruned base stay, whatever trains the others."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from ftreg.core.errors import FtregError, InputError
from ftreg.core.types import NullProgress
from ftreg.models.loading import load_pretrained
from ftreg.plugins.methods import full
from ftreg.plugins.methods.config import FullConfig
from ftreg.plugins.methods.zeros import zeros_kept
from ftreg.plugins.post.config import PruneConfig
from ftreg.plugins.post.prune.step import apply
from tests.post.helpers import make_job as make_step
from tests.post.helpers import make_source
from tests.training.jobs import make_job

NOT_PRUNED = ("embed", "wte", "wpe", "norm", "ln_", "bias", "moe.gate.weight")


@pytest.fixture(scope="module")
def sparse(model_folder, tmp_path_factory):
    """A function ``architecture -> folder`` of an untrained model that is pruned to 2:4; do not write there."""
    made = {}

    def get(architecture="llama"):
        if architecture not in made:
            made[architecture] = tmp_path_factory.mktemp(f"sparse-{architecture}")
            apply(
                make_step(make_source(model_folder(architecture, True)), PruneConfig(pattern="2:4"), made[architecture])
            )
        return made[architecture]

    return get


@pytest.mark.parametrize(
    ("architecture", "train"),
    [
        ("llama", {"optimizer": "adamw", "weight_decay": 0.1, "batching": "packed"}),
        ("llama", {"optimizer": "sgd", "gradient_accumulation": 2}),
        ("gpt2", {"optimizer": "adafactor", "gradient_checkpointing": True}),
        ("mixtral", {"optimizer": "adamw", "precision": "bf16"}),
    ],
)
def test_the_zeros_stay_and_all_else_is_trained(architecture, train, sparse, tmp_path):
    """With every optimizer the zeros of the base are those of the result, and every tensor is trained nevertheless."""
    base = sparse(architecture)
    job = make_job(tmp_path, base, FullConfig(keep_zeros=True), **train)
    artifact = full.train(job)
    before, after = load_file(base / "model.safetensors"), load_file(job.staging / "model.safetensors")
    for name, weight in before.items():
        if not any(other in name for other in NOT_PRUNED):
            assert torch.equal(weight == 0, after[name] == 0), name
            assert 0.5 <= float((after[name] == 0).float().mean()) < 0.51
        assert not torch.equal(weight, after[name]) or "bias" in name or "experts" in name
    assert artifact.facts["sparsity"] == pytest.approx(0.5, abs=1e-3)
    assert all(share >= 0.5 for share in artifact.facts["sparsity_by_kind"].values())


def test_without_it_zeros_are_trained(sparse, tmp_path):
    """Without the setting, zeros become something else: what keeps them is the setting."""
    job = make_job(tmp_path, sparse(), FullConfig())
    artifact = full.train(job)
    weight = load_file(job.staging / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    assert float((weight == 0).float().mean()) < 0.1
    assert "sparsity" not in artifact.facts


class Killer(NullProgress):
    """A progress that ends the run at its third step."""

    def update(self, done, **_):
        if done == 3:
            raise RuntimeError("killed")


def test_a_resumed_run_keeps_them(sparse, tmp_path):
    """A run that goes on from a checkpoint keeps the base's zeros, and ends in the bytes of the uninterrupted run."""
    settings = {"max_steps": 4, "save_every": 2}
    whole, killed = (
        make_job(tmp_path / name, sparse(), FullConfig(keep_zeros=True), **settings) for name in ("whole", "killed")
    )
    full.train(whole)
    with pytest.raises(RuntimeError, match="killed"):
        full.train(replace(killed, progress=Killer()))
    full.train(replace(killed, resume=True))
    written = [(job.staging / "model.safetensors").read_bytes() for job in (whole, killed)]
    assert written[0] == written[1]


@given(st.integers(0, 10_000), st.floats(0.1, 0.9), st.sampled_from(["AdamW", "SGD", "Adam", "RMSprop"]))
@settings(max_examples=20)
def test_no_optimizer_moves_a_zero(seed, share, optimizer):
    """Whatever the mask and the optimizer, zeros stay exactly zero over several steps, and others move."""
    random = torch.Generator().manual_seed(seed)
    layer = nn.Linear(8, 6)
    model = nn.Sequential(layer)
    model.get_output_embeddings = lambda: None
    mask = torch.rand(6, 8, generator=random) < share
    mask[0, 0], mask[0, 1] = True, False
    layer.weight.data.masked_fill_(mask, 0)
    before = layer.weight.detach().clone()
    decay = {"weight_decay": 0.1}
    step = getattr(torch.optim, optimizer)(model.parameters(), lr=0.1, **decay)
    with zeros_kept(model):
        for _ in range(3):
            step.zero_grad()
            model(torch.randn(4, 8, generator=random)).square().sum().backward()
            step.step()
    assert torch.equal(layer.weight == 0, mask)
    assert not torch.equal(layer.weight[~mask], before[~mask])


def test_gradients_that_are_not_finite_move_no_zero():
    """An overflow, which loss scaling undoes later, does not turn into a zero times infinity."""
    layer = nn.Linear(4, 2, bias=False)
    model = nn.Sequential(layer)
    model.get_output_embeddings = lambda: None
    layer.weight.data[0, 0] = 0
    with zeros_kept(model):
        (layer(torch.full((1, 4), torch.inf))).sum().backward()
    assert layer.weight.grad[0, 0] == 0
    assert layer.weight.grad[1, 1] == torch.inf


def test_a_base_without_zeros_is_refused(model_folder, tmp_path):
    """To keep zeros that are not there is a mistake: the base is probably another one than was meant."""
    with pytest.raises(InputError, match="no zeros to keep"):
        full.train(make_job(tmp_path, model_folder(), FullConfig(keep_zeros=True)))


def test_a_zero_that_was_changed_nevertheless_fails(sparse):
    """If something else than a gradient changes a zero, the training fails instead of publishing it."""
    model = load_pretrained(sparse(), device="cpu", dtype=torch.float32)
    weight = model.get_parameter("model.layers.0.mlp.up_proj.weight").data
    with pytest.raises(FtregError, match=r"changed zeros of model\.layers\.0\.mlp\.up_proj\.weight"), zeros_kept(model):
        weight[weight == 0] += 1e-3
