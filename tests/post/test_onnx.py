"""Step onnx: graphs that ONNX Runtime runs as the checkpoint computes, with their cache, from real files."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
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
from ftreg.plugins.post.onnx.quantizing import coverage, quantize_graph
from ftreg.plugins.post.onnx.step import apply
from ftreg.plugins.post.tolerance import EIGHT_BITS, FOUR_BITS
from tests.evaluation.helpers import compare_all
from tests.post.helpers import EXAMPLES, IDS, make_job, make_source, parity_of
from tests.tiny import WINDOW, make_model


def prompts(folder):
    """Prompts of different lengths that a trained model answers."""
    from transformers import AutoTokenizer

    from ftreg.data import Encoder

    encoder = Encoder(AutoTokenizer.from_pretrained(folder), max_length=128)
    return [encoder.prompt(example)[0] for example in EXAMPLES]


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """A function ``(architecture, tied, **settings) -> (artifact, folder)`` of an export, made once; do not write."""
    made = {}

    def get(architecture, tied, **settings):
        key = (architecture, tied, *sorted(settings.items()))
        if key not in made:
            source = make_source(trained(architecture, tied))
            folder = tmp_path_factory.mktemp("export")
            made[key] = apply(make_job(source, OnnxConfig(**settings), folder)), folder
        return made[key]

    return get


@pytest.mark.parametrize(
    ("architecture", "tied", "settings", "runtime"),
    [
        ("llama", False, {}, "genai"),
        ("gpt2", True, {}, "transformers"),
        ("qwen3", True, {"precision": "int4"}, "genai"),
        pytest.param("qwen2", True, {}, "genai", marks=pytest.mark.slow),
        pytest.param("gpt2", False, {"precision": "fp16"}, "transformers", marks=pytest.mark.slow),
        pytest.param("llama", True, {"runtime": "transformers"}, "transformers", marks=pytest.mark.slow),
        ("llama", True, {"precision": "int8"}, "genai"),
        pytest.param("llama", False, {"precision": "int4", "quantizer": "rtn"}, "genai", marks=pytest.mark.slow),
        pytest.param("gpt2", True, {"precision": "int4"}, "transformers", marks=pytest.mark.slow),
        pytest.param("llama", False, {"precision": "fp16", "provider": "cuda"}, "genai", marks=pytest.mark.slow),
    ],
    ids=[
        "llama",
        "gpt2-tied",
        "qwen3-tied-int4",
        "qwen2-tied",
        "gpt2-fp16",
        "llama-tied-traced",
        "llama-tied-int8",
        "llama-int4-rtn",
        "gpt2-tied-int4",
        "llama-fp16-cuda",
    ],
)
def test_export(architecture, tied, settings, runtime, trained, exported, capfd):
    """The export is within its tolerance, answers prompts of any length as the checkpoint does, and is quiet."""
    source = make_source(trained(architecture, tied))
    capfd.readouterr()
    artifact, staging = exported(architecture, tied, **settings)
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
    ("architecture", "settings", "runtime"),
    [
        ("mistral", {"precision": "int4", "provider": "cuda"}, "genai"),
        ("gemma3_text", {}, "transformers"),
        pytest.param("mistral", {}, "genai", marks=pytest.mark.slow),
        pytest.param(
            "mistral", {"precision": "int8", "runtime": "transformers"}, "transformers", marks=pytest.mark.slow
        ),
        pytest.param("gemma2", {}, "genai", marks=pytest.mark.slow),
        pytest.param("gemma2", {"precision": "int4"}, "genai", marks=pytest.mark.slow),
        # It has attention sinks and experts too.
        pytest.param("gpt_oss", {}, "transformers", marks=pytest.mark.slow),
        # Its rotary settings contradict each other, which the builder does not stand: it is traced instead.
        pytest.param("phi3", {}, "transformers", marks=pytest.mark.slow),
    ],
)
def test_a_window_holds_beyond_its_length(architecture, settings, runtime, trained, exported):
    """A model with a window of attention is exported with it: texts and answers beyond it are the checkpoint's."""
    source = make_source(trained(architecture))
    artifact, staging = exported(architecture, False, **settings)
    assert artifact.facts["runtime"] == runtime
    original, loaded = torch_engine.load(source, "cpu"), engine.load(make_source(staging, "onnx"), "cpu")
    parity, beyond = parity_beyond(source.path, original, loaded)
    assert [(each.what, each.border) for each in beyond] == [("window", WINDOW), ("context", 256)]
    assert check(parity, artifact.tolerance, beyond) == []
    if artifact.facts["precision"] == "fp32":
        assert parity.greedy_prefix == 1.0
        long = [list(range(2, 2 + WINDOW - 4)), list(range(2, 2 + 3 * WINDOW))]
        assert loaded.generate(long, max_new_tokens=40) == original.generate(long, max_new_tokens=40)


@pytest.mark.slow
def test_rows_on_both_sides_of_a_rope_switch(tmp_path):
    """LongRoPE rotates long texts otherwise: the export does too, also where short and long rows share a batch."""
    factors = {"short_factor": [1 + place / 100 for place in range(16)], "long_factor": [2.0] * 16}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 64, **factors}
    more = {"sliding_window": None, "rope_parameters": rope, "original_max_position_embeddings": 64}
    source = make_source(make_model(tmp_path / "model", "phi3", **more))
    (tmp_path / "export").mkdir()
    artifact = apply(make_job(source, OnnxConfig(), tmp_path / "export"))
    original, loaded = torch_engine.load(source, "cpu"), engine.load(make_source(tmp_path / "export", "onnx"), "cpu")
    parity, beyond = parity_beyond(source.path, original, loaded)
    assert [(each.what, each.border) for each in beyond] == [("rope", 64), ("context", 256)]
    assert check(parity, artifact.tolerance, beyond) == []
    rows = [list(range(2, 22)), list(range(2, 102))]
    alone = [original.generate([row], max_new_tokens=8)[0] for row in rows]
    assert loaded.generate(rows, max_new_tokens=8) == alone


def parity_beyond(folder, original, loaded):
    """Compare two engines on ``EXAMPLES`` and beyond the borders that the configuration in ``folder`` names."""
    borders = find_borders(read_json(folder / "config.json"))
    return compare_all(original, loaded, make_probe(original.tokenizer, EXAMPLES, borders=borders))


def test_an_int4_graph_that_ignores_its_window_is_refused(trained, exported, tmp_path):
    """The wide tolerance of int4 still finds a window that the graph ignores, on the text beyond it alone."""
    source = make_source(trained("mistral"))
    artifact, export = exported("mistral", False, precision="int4", provider="cuda")
    folder = tmp_path / "model"
    shutil.copytree(export, folder)
    graph = onnx.load(folder / "model.onnx", load_external_data=False)
    for node in graph.graph.node:
        for attribute in node.attribute:
            if attribute.name == "local_window_size":
                attribute.i = -1
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    original, loaded = torch_engine.load(source, "cpu"), engine.load(make_source(folder, "onnx"), "cpu")
    parity, beyond = parity_beyond(source.path, original, loaded)
    assert any("beyond the window" in failure for failure in check(parity, artifact.tolerance, beyond))


@pytest.mark.parametrize(
    ("bits", "quantizer", "tolerance"), [(8, "k_quant", EIGHT_BITS), (4, "k_quant", FOUR_BITS), (4, "rtn", FOUR_BITS)]
)
def test_a_traced_graph_is_quantized(bits, quantizer, tolerance, exported, trained, tmp_path, capfd):
    """All matrices of a traced graph are quantized, affine ones and the tied embedding too, which is stored once."""
    source = make_source(trained("gpt2", True))
    folder = tmp_path / "model"
    shutil.copytree(exported("gpt2", True)[1], folder)
    capfd.readouterr()
    quantize_graph(folder / "model.onnx", bits, 32, quantizer)
    assert capfd.readouterr() == ("", "")
    onnx.checker.check_model(str(folder / "model.onnx"))
    found = coverage(onnx.load(folder / "model.onnx", load_external_data=False))
    assert (found.weights, found.left) == (found.of, {})
    original, loaded = torch_engine.load(source, "cpu"), engine.load(make_source(folder, "onnx"), "cpu")
    parity, beyond = parity_beyond(source.path, original, loaded)
    assert check(parity, tolerance, beyond) == []
    # A weight takes its bits and a share of a scale (32 bits) and a zero point; positions and biases stay in 32 bits.
    others = 4 * (256 * 64 + 5_000)
    assert (folder / "model.onnx.data").stat().st_size < found.of * (bits + (32 + bits) / 32) / 8 + others


@pytest.mark.parametrize(
    ("architecture", "settings", "share"),
    [("gpt2", {}, 1.0), ("qwen3", {"precision": "int4"}, 0.3), ("llama", {"precision": "int8"}, 0.4)],
)
def test_weights_are_stored_once(architecture, settings, share, exported, trained):
    """The graph's one file of weights is no larger than the checkpoint's, with its tied embedding."""
    _, folder = exported(architecture, True, **settings)
    stored = (trained(architecture, True) / "model.safetensors").stat().st_size
    assert {path.name for path in folder.glob("model.onnx*")} == {"model.onnx", "model.onnx.data"}
    assert (folder / "model.onnx.data").stat().st_size <= share * stored


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


def test_impossible_combinations(model_folder, staging):
    """A family that the builder does not know, windows that it may drop, and its fp16 for CPUs are refused."""
    for architecture, settings, reason in (
        ("gpt2", {"precision": "int4"}, "does not know GPT2LMHeadModel"),
        ("gemma3_text", {}, "does not know Gemma3ForCausalLM"),
        ("llama", {"precision": "fp16"}, "fp16 for provider cuda only"),
    ):
        job = make_job(make_source(model_folder(architecture)), OnnxConfig(runtime="genai", **settings), staging)
        with pytest.raises(InfeasiblePlan, match=reason):
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
