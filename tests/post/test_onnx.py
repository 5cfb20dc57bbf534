"""Step onnx: graphs that ONNX Runtime runs as the checkpoint computes, with their cache, from real files."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from ftreg.core.errors import FtregError, InfeasiblePlan
from ftreg.core.types import Example
from ftreg.evaluation import check, make_probe
from ftreg.models.borders import find_borders
from ftreg.models.files import read_json
from ftreg.plugins.engines import onnx as engine
from ftreg.plugins.engines import transformers as torch_engine
from ftreg.plugins.post.config import OnnxConfig
from ftreg.plugins.post.onnx import apply
from tests.evaluation.helpers import compare_all
from tests.post.helpers import EXAMPLES, IDS, make_job, make_source, parity_of
from tests.tiny import WINDOW


def prompts(folder):
    """Prompts of different lengths that a trained model answers."""
    from transformers import AutoTokenizer

    from ftreg.data import Encoder

    encoder = Encoder(AutoTokenizer.from_pretrained(folder), max_length=128)
    return [encoder.prompt(example)[0] for example in EXAMPLES]


@pytest.mark.parametrize(
    ("architecture", "tied", "settings", "runtime"),
    [
        ("llama", False, {}, "genai"),
        ("gpt2", True, {}, "transformers"),
        ("qwen3", True, {"precision": "int4"}, "genai"),
        pytest.param("qwen2", True, {}, "genai", marks=pytest.mark.slow),
        pytest.param("gpt2", False, {"precision": "fp16"}, "transformers", marks=pytest.mark.slow),
        pytest.param("llama", True, {"runtime": "transformers"}, "transformers", marks=pytest.mark.slow),
    ],
    ids=["llama", "gpt2-tied", "qwen3-tied-int4", "qwen2-tied", "gpt2-fp16", "llama-tied-traced"],
)
def test_export(architecture, tied, settings, runtime, trained, staging, capfd):
    """The export is within its tolerance, answers prompts of any length as the checkpoint does, and is quiet."""
    source = make_source(trained(architecture, tied))
    capfd.readouterr()
    artifact = apply(make_job(source, OnnxConfig(**settings), staging))
    assert capfd.readouterr() == ("", "")
    assert artifact.facts["runtime"] == runtime
    assert artifact.facts["opsets"]["ai.onnx"] >= 18
    parity = parity_of(source, artifact, staging)
    assert check(parity, artifact.tolerance) == []
    assert not any(path.is_symlink() or path.is_dir() for path in staging.iterdir())
    assert all(path.stat().st_nlink == 1 for path in staging.iterdir())
    graph = (staging / "model.onnx").read_bytes()
    assert not any(str(place).encode() in graph for place in (staging, sys.prefix, Path(__file__).parent.parent))

    loaded, original = engine.load(make_source(staging, "onnx"), "cpu"), torch_engine.load(source, "cpu")
    for batch in (prompts(source.path), prompts(source.path)[:1]):
        assert loaded.generate(batch, max_new_tokens=40) == original.generate(batch, max_new_tokens=40)
    if artifact.facts["precision"] == "fp32":
        for ours, theirs in zip(loaded.logits(IDS), original.logits(IDS), strict=True):
            assert np.abs(ours - theirs).max() < 1e-4

    session = onnxruntime.InferenceSession(staging / "model.onnx", providers=["CPUExecutionProvider"])
    assert "attention_mask" in [value.name for value in session.get_inputs()]


@pytest.mark.parametrize(
    "architecture",
    [
        "mistral",
        "gemma3_text",
        pytest.param("gemma2", marks=pytest.mark.slow),
        pytest.param("phi3", marks=pytest.mark.slow),
    ],
)
def test_a_window_holds_beyond_its_length(architecture, trained, staging):
    """A model with a window of attention is exported with it: texts and answers beyond it are the checkpoint's."""
    source = make_source(trained(architecture))
    artifact = apply(make_job(source, OnnxConfig(), staging))
    assert artifact.facts["runtime"] == "transformers"
    original = torch_engine.load(source, "cpu")
    loaded = engine.load(make_source(staging, "onnx"), "cpu")
    probe = make_probe(original.tokenizer, EXAMPLES, borders=find_borders(read_json(source.path / "config.json")))
    parity, beyond = compare_all(original, loaded, probe)
    assert [(each.what, each.border) for each in beyond] == [("window", WINDOW), ("context", 256)]
    assert check(parity, artifact.tolerance, beyond) == []
    assert parity.greedy_prefix == 1.0
    long = [list(range(2, 2 + WINDOW - 4)), list(range(2, 2 + 3 * WINDOW))]
    assert loaded.generate(long, max_new_tokens=40) == original.generate(long, max_new_tokens=40)


def test_the_probe_finds_a_window_that_was_ignored(trained, tmp_path):
    """Without its window a model agrees on short text, and is far off at the end of the text beyond the window."""
    folder = tmp_path / "model"
    shutil.copytree(trained("mistral"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "sliding_window": None}))
    original, ignoring = (torch_engine.load(make_source(each), "cpu") for each in (trained("mistral"), folder))
    probe = make_probe(original.tokenizer, [Example(text="Billing.")], borders=find_borders(config))
    parity, beyond = compare_all(original, ignoring, probe)
    assert parity.kl < 1e-6
    assert beyond[0].kl > 1e-3


def test_int4_without_the_window_is_refused(trained, staging):
    """The builder leaves windows out, so int4 of a model with windows is refused with that reason."""
    with pytest.raises(InfeasiblePlan, match="leaves out the model's attention windows"):
        apply(make_job(make_source(trained("mistral")), OnnxConfig(precision="int4"), staging))


def test_impossible_combinations(trained, model_folder, staging):
    """int4 for a family that the builder does not know, and the builder's fp16, are refused with an alternative."""
    job = make_job(make_source(model_folder("gpt2")), OnnxConfig(precision="int4"), staging)
    with pytest.raises(InfeasiblePlan, match="does not know GPT2LMHeadModel"):
        apply(job)
    job = make_job(make_source(model_folder("llama")), OnnxConfig(precision="fp16", runtime="genai"), staging)
    with pytest.raises(InfeasiblePlan, match="GPUs only"):
        apply(job)
    job = make_job(make_source(model_folder("llama")), OnnxConfig(precision="int4", runtime="transformers"), staging)
    with pytest.raises(InfeasiblePlan, match="builder only"):
        apply(job)


def test_folder_that_is_no_export(model_folder, tmp_path):
    """A folder without a graph, and a graph that cannot be loaded, are errors that say so."""
    with pytest.raises(FtregError, match=r"has no model\.onnx"):
        engine.load(make_source(model_folder(), "onnx"), "cpu")
    (tmp_path / "model.onnx").write_bytes(b"nonsense")
    (tmp_path / "tokenizer.json").write_text((model_folder() / "tokenizer.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text((model_folder() / "tokenizer_config.json").read_text())
    with pytest.raises(FtregError, match="the ONNX model cannot be loaded"):
        engine.load(make_source(tmp_path, "onnx"), "cpu")
