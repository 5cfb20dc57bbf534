"""The transformers engine: batches equal single rows, answers end where they should, broken files are named."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from peft import LoraConfig, PrefixTuningConfig
from safetensors.torch import load_file, save_file

from ftreg.core.errors import FtregError
from ftreg.plugins.engines.transformers import load
from tests.post.helpers import IDS, make_source, plain_logits


@pytest.mark.parametrize(
    ("architecture", "tied"), [("llama", False), ("gpt2", True), ("qwen2", True), ("qwen3", False)]
)
def test_padding_changes_nothing(architecture, tied, trained):
    """Rows of different lengths get the logits and answers that each gets alone, and that plain transformers gives."""
    engine = load(make_source(trained(architecture, tied)), "cpu")
    together = engine.logits(IDS)
    assert np.abs(together[0] - plain_logits(trained(architecture, tied))).max() < 1e-5
    for row, logits in zip(IDS, together, strict=True):
        assert logits.shape == (len(row), 320)
        assert np.abs(engine.logits([row])[0] - logits).max() < 1e-5
    for some, logits in zip(engine.logits(IDS, last=4), together, strict=True):
        assert some.shape == (min(4, len(logits)), 320)
        assert np.abs(some - logits[-4:]).max() < 1e-5
    answers = engine.generate(IDS, max_new_tokens=12)
    assert [engine.generate([row], max_new_tokens=12)[0] for row in IDS] == answers


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
        PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    ],
    ids=["lora", "prefix"],
)
def test_adapters_answer_in_batches_as_alone(config, trained, adapter):
    """Adapters, trained prefixes too, are loaded over their base and give each row what it gets alone."""
    source = adapter(trained(), config)
    engine = load(source, "cpu")
    together = engine.logits(IDS)
    assert np.abs(together[0] - plain_logits(trained(), source.path)).max() < 1e-5
    assert np.abs(together[0] - plain_logits(trained())).max() > 1e-3
    for row, logits in zip(IDS, together, strict=True):
        assert np.abs(engine.logits([row])[0] - logits).max() < 1e-5
    assert np.abs(engine.logits(IDS, last=2)[0] - together[0][-2:]).max() < 1e-5
    answers = engine.generate(IDS, max_new_tokens=8)
    assert [engine.generate([row], max_new_tokens=8)[0] for row in IDS] == answers


def test_answer_stops_at_every_end_token(trained, tmp_path):
    """Every end token of the generation settings ends an answer, and is not part of it."""
    free = load(make_source(trained()), "cpu").generate(IDS, max_new_tokens=12)
    stop = free[0][3]
    folder = tmp_path / "model"
    shutil.copytree(trained(), folder)
    settings = json.loads((folder / "generation_config.json").read_text())
    settings |= {"eos_token_id": [1, stop], "repetition_penalty": 5.0, "do_sample": True}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    stopped = load(make_source(folder), "cpu").generate(IDS, max_new_tokens=12)
    assert stopped == [row[: row.index(stop)] if stop in row else row for row in free]


def test_context_is_kept(trained):
    """Answers end at the end of the context; input that does not fit in it is reported as such."""
    engine = load(make_source(trained("gpt2", True)), "cpu")
    assert engine.tokenizer.model_max_length == 256
    assert len(engine.generate([[7] * 250], max_new_tokens=50)[0]) <= 6
    for call in (lambda: engine.logits([[7] * 257]), lambda: engine.generate([[7] * 256], max_new_tokens=5)):
        with pytest.raises(FtregError, match="context of 256"):
            call()


@pytest.mark.parametrize("damage", ["weight", "weights", "config", "tokenizer", "shape"])
def test_broken_checkpoint(damage, model_folder, tmp_path):
    """A checkpoint that lacks files or weights is refused; transformers would fill in random weights."""
    folder = tmp_path / "model"
    shutil.copytree(model_folder(), folder)
    tensors = load_file(folder / "model.safetensors")
    if damage == "weight":
        del tensors["model.norm.weight"]
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    elif damage == "shape":
        tensors["model.norm.weight"] = tensors["model.norm.weight"][:32].clone()
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    elif damage == "weights":
        (folder / "model.safetensors").write_bytes(b"1234")
    elif damage == "config":
        (folder / "config.json").write_text('{"model_type": "no-such-model"}')
    else:
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer_config.json").unlink()
    with pytest.raises(FtregError) as caught:
        load(make_source(folder), "cpu")
    assert str(folder) in str(caught.value)
