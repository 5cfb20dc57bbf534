"""The loss on labelled positions, and packing, against transformers' own loss."""

from __future__ import annotations

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from ftreg.core.errors import InputError
from ftreg.data import IGNORED
from ftreg.training.batches import join_rows, pack_rows
from ftreg.training.objectives.causal_lm import CausalLM
from tests.training.losses import COLLATOR, ROWS, gradients, load, make_row, with_lora, with_prefix

ARCHITECTURES = ["llama", "gpt2", "qwen2", "qwen3"]


def own_loss(model, rows) -> torch.Tensor:
    """Transformers' loss of each row by itself, summed over its labels; without padding, masks or selection."""
    total = torch.zeros(())
    for row in rows:
        ids = torch.tensor([row.input_ids])
        labels = torch.tensor([[IGNORED, *row.targets[:-1]]])
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels)
        total = total + output.loss * labels[:, 1:].ne(IGNORED).sum()
    return total


@pytest.mark.parametrize("wrap", [lambda model: model, with_lora, with_prefix], ids=["plain", "lora", "prefix"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_labelled_loss_is_the_models_own(model_folder, architecture, wrap):
    """The loss and its gradients are those of transformers, although the head computes labelled positions only."""
    model = wrap(load(model_folder(architecture, tied=architecture == "gpt2"), use_cache=False))
    objective = CausalLM(model)
    objective.check(ROWS, COLLATOR, packed=False)
    assert objective.facts() == {"logits": "labelled positions"}
    expected, found = own_loss(model, ROWS), objective.loss(model, COLLATOR(ROWS)).total
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    expected, found = gradients(model, expected), gradients(model, found)
    assert expected.keys() == found.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("architecture", "setting"), [("gemma2", {"final_logit_softcapping": 2.0}), ("granite", {"logits_scaling": 7.0})]
)
def test_capped_and_scaled_logits(architecture, setting):
    """A model's changes to its logits after the head apply to those of labelled positions too."""
    sizes = {
        "vocab_size": 320, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 32,
        "num_attention_heads": 2, "num_key_value_heads": 1, "pad_token_id": 0,
    }  # fmt: skip
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(architecture, **sizes, **setting, use_cache=False)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    objective = CausalLM(model)
    objective.check(ROWS, COLLATOR, packed=False)
    assert objective.facts() == {"logits": "labelled positions"}
    assert objective.loss(model, COLLATOR(ROWS)).total.item() == pytest.approx(own_loss(model, ROWS).item(), rel=1e-5)


class Standardizing(transformers.LlamaForCausalLM):
    """A model whose logits depend on those of the whole sequence."""

    def forward(self, *args, labels=None, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits - output.logits.mean(dim=-2, keepdim=True)
        if labels is not None:
            output.loss = self.loss_function(output.logits, labels, self.config.vocab_size)
        return output


def test_model_that_needs_all_logits_falls_back(model_folder):
    """A model that mixes the logits of positions is detected, and its loss is right nevertheless."""
    model = Standardizing.from_pretrained(model_folder(), use_cache=False).eval()
    objective = CausalLM(model)
    objective.check(ROWS, COLLATOR, packed=False)
    assert objective.facts() == {"logits": "all positions"}
    expected, found = own_loss(model, ROWS[:1]), objective.loss(model, COLLATOR(ROWS[:1])).total
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_loss_is_the_unpacked_loss(model_folder, architecture):
    """Packed rows, two to a batch with padding, give the loss and the gradients of the rows one by one."""
    model = load(model_folder(architecture), use_cache=False)
    objective = CausalLM(model)
    objective.check(ROWS, COLLATOR, packed=True)
    packed = pack_rows(ROWS, 32)
    assert len(packed) == 2
    expected, found = own_loss(model, ROWS), objective.loss(model, COLLATOR(packed)).total
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    expected, found = gradients(model, expected), gradients(model, found)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-4, rtol=1e-4)


def test_packing_is_refused_where_examples_would_mix(model_folder):
    """With a prefix, and in a model that ignores positions, packed examples attend to each other: an error says so."""
    model = with_prefix(load(model_folder(), use_cache=False))
    with pytest.raises(InputError, match="attend to each other"):
        CausalLM(model).check(ROWS, COLLATOR, packed=True)

    class Careless(transformers.LlamaForCausalLM):
        def forward(self, *args, position_ids=None, **kwargs):
            return super().forward(*args, **kwargs)

    model = Careless.from_pretrained(model_folder(), use_cache=False)
    with pytest.raises(InputError, match="attend to each other"):
        CausalLM(model).check(ROWS, COLLATOR, packed=True)


def test_check_leaves_the_model_as_it_was(model_folder):
    """The checks change neither the mode nor the random state, and leave no hook."""
    model = load(model_folder("gpt2"), use_cache=False).train()
    state = torch.get_rng_state()
    objective = CausalLM(model)
    objective.check(ROWS, COLLATOR, packed=True)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.get_output_embeddings()._forward_pre_hooks


def test_the_loss_calls_what_wraps_the_model(model_folder):
    """The loss runs the object that it is given, so that a wrapper can synchronize gradients, and is the same."""

    class Wrapper(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.module, self.calls = model, 0

        def forward(self, **inputs):
            self.calls += 1
            return self.module(**inputs)

    model = load(model_folder(), use_cache=False)
    objective = CausalLM(model)
    wrapper, batch = Wrapper(model), COLLATOR(ROWS)
    assert torch.equal(objective.loss(wrapper, batch).total, objective.loss(model, batch).total)
    assert wrapper.calls == 1


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(2, 12), st.integers(0, 14)), min_size=1, max_size=6))
def test_collated_batch_holds_the_rows(shapes):
    """A batch, packed or not, holds each row's tokens and each labelled target at its position, and counts tokens."""
    rows = [make_row(length, prompt, index) for index, (length, prompt) in enumerate(shapes)]
    for given_rows in (rows, [join_rows(rows)]):
        batch = COLLATOR(given_rows)
        flat = batch["input_ids"].flatten()
        pairs = [(flat[i].item(), t.item()) for i, t in zip(batch["labelled"], batch["targets"], strict=True)]
        expected = [
            pair for row in given_rows for pair in zip(row.input_ids, row.targets, strict=True) if pair[1] != IGNORED
        ]
        assert pairs == expected
        assert batch["tokens"] == sum(len(row.input_ids) for row in rows)
