"""What the tests of losses share: rows, models that wrap others, gradients."""

from __future__ import annotations

import peft
import torch
import transformers

from ftreg.data import IGNORED
from ftreg.training.batches import Collator, Row

COLLATOR = Collator(0)


def make_row(length: int, prompt: int, seed: int) -> Row:
    """A row of random tokens, labelled from position ``prompt`` on."""
    ids = torch.randint(5, 320, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return Row(ids, [IGNORED if index + 1 < prompt else token for index, token in enumerate(ids[1:])] + [IGNORED])


ROWS = [make_row(11, 4, 1), make_row(23, 9, 2), make_row(5, 1, 3), make_row(16, 15, 4)]


def load(folder, **config):
    """A checkpoint's model."""
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_pretrained(folder, **config).eval()


def with_lora(model):
    """The model with LoRA layers that change its output."""
    wrapped = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"))
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(0))
    return wrapped.eval()


def with_prefix(model):
    """The model with a prefix."""
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    return peft.get_peft_model(model, config).eval()


def gradients(model, loss) -> dict[str, torch.Tensor]:
    """The gradients of ``loss`` by the names of the weights."""
    model.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
