"""What the tests of serving engines share: checkpoints with distinct answers, and reference answers."""

from __future__ import annotations

import pytest

PROMPTS = [[5, 9, 17, 33, 65, 129, 255, 60, 61, 62], [40], [300, 2, 7, 7, 11, 12], list(range(100, 140)), [8, 8, 8]]
STEPS = 12


@pytest.fixture(scope="session")
def sharp(model_folder, tmp_path_factory):
    """A function ``(architecture, tied) -> folder`` of a tiny checkpoint whose answers depend on the whole prompt."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made = {}

    def get(architecture="llama", tied=False):
        if (architecture, tied) not in made:
            folder = tmp_path_factory.mktemp(f"sharp-{architecture}-{tied}")
            model = AutoModelForCausalLM.from_pretrained(model_folder(architecture, tied))
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.ndim == 2:
                        parameter.mul_(5)
            model.save_pretrained(folder)
            AutoTokenizer.from_pretrained(model_folder(architecture, tied)).save_pretrained(folder)
            made[architecture, tied] = folder
        return made[architecture, tied]

    return get


def answer(folder, prompt, steps=STEPS, adapter=None):
    """Return what transformers' own ``generate`` writes greedily, past any end token, with an adapter through PEFT."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, GenerationConfig

    model = AutoModelForCausalLM.from_pretrained(folder)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    config = GenerationConfig(do_sample=False, max_new_tokens=steps, pad_token_id=0)
    model.generation_config = config
    ids = torch.tensor([prompt])
    with torch.no_grad():
        output = model.eval().generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
    return output[0, len(prompt) :].tolist()


def write(batch, prompts, steps=STEPS):
    """Return the greedy answers to prompts that are read together, each for the model of its digest."""
    rows, logits = batch.add(prompts)
    written = {row: [int(found.argmax())] for row, found in zip(rows, logits, strict=True)}
    for _ in range(steps - 1):
        for row, found in batch.step({row: tokens[-1] for row, tokens in written.items()}).items():
            written[row].append(int(found.argmax()))
    return [written[row] for row in rows]
