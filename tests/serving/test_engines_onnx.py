"""Serving ONNX exports: of either kind, a batch's rows are continued as the checkpoint continues them alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ftreg.core.errors import FtregError, InputError
from ftreg.plugins.engines import fused
from ftreg.plugins.engines.limits import before_end
from ftreg.plugins.engines.onnx import serve
from ftreg.plugins.engines.ragged import RaggedBatch
from ftreg.plugins.engines.slots import SlotBatch
from ftreg.plugins.engines.transformers_serving import serve as serve_torch
from ftreg.plugins.post.config import OnnxConfig
from ftreg.plugins.post.onnx.step import apply
from tests.post.helpers import make_job, make_source
from tests.serving.engines import PROMPTS, STEPS, answer, sharp, write

__all__ = ["sharp"]

RUNTIMES = [
    ("llama", "genai", SlotBatch),
    pytest.param("mistral", "genai", SlotBatch, marks=pytest.mark.slow),
    ("gpt2", "transformers", RaggedBatch),
    pytest.param("llama", "transformers", RaggedBatch, marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def exported(sharp, tmp_path_factory):
    """A function ``(architecture, runtime) -> folder`` of an ONNX export; do not write there."""
    made = {}

    def get(architecture, runtime):
        if (architecture, runtime) not in made:
            folder = tmp_path_factory.mktemp(f"{architecture}-{runtime}")
            apply(make_job(make_source(sharp(architecture)), OnnxConfig(runtime=runtime), folder))
            made[architecture, runtime] = folder
        return made[architecture, runtime]

    return get


@pytest.mark.parametrize(("architecture", "runtime", "kind"), RUNTIMES)
def test_rows_join_and_leave_without_effect_on_others(architecture, runtime, kind, sharp, exported):
    """Rows that join and leave at different times are continued as ``generate`` continues each alone."""
    (engine,) = serve([make_source(exported(architecture, runtime), "onnx", digest="b3:0a")], "cpu")
    batch = engine.batch()
    assert isinstance(batch, kind)
    assert engine.models["b3:0a"].context == 256
    assert engine.models["b3:0a"].ends == {1}
    expected = [answer(sharp(architecture), prompt) for prompt in PROMPTS]
    waiting, alive, finished = list(enumerate(PROMPTS)), {}, {}
    while waiting or alive:
        joining, waiting = waiting[:2], waiting[2:]
        if joining:
            rows, logits = batch.add([("b3:0a", prompt) for _, prompt in joining])
            alive |= {
                row: (each[0], [int(found.argmax())]) for row, each, found in zip(rows, joining, logits, strict=True)
            }
        for _ in range(3):
            for row, logits in batch.step({row: tokens[-1] for row, (_, tokens) in alive.items()}).items():
                alive[row][1].append(int(logits.argmax()))
        done = [row for row, (_, tokens) in alive.items() if len(tokens) >= STEPS - alive[row][0]]
        batch.remove(done)
        finished |= dict(alive.pop(row) for row in done)
    for index, tokens in finished.items():
        assert tokens[:STEPS] == expected[index][: len(tokens)]
    assert finished.keys() == set(range(len(PROMPTS)))


@pytest.mark.parametrize(("architecture", "runtime", "kind"), RUNTIMES)
def test_logits_are_the_checkpoints(architecture, runtime, kind, sharp, exported):
    """Prompts of different lengths get the logits that the checkpoint gives them, as float32."""
    logits = []
    for load, folder in ((serve, exported(architecture, runtime)), (serve_torch, sharp(architecture))):
        (engine,) = load([make_source(folder, "onnx" if load is serve else "checkpoint", digest="b3:0a")], "cpu")
        logits.append(engine.batch().add([("b3:0a", prompt) for prompt in PROMPTS])[1])
    assert logits[0].dtype == np.float32
    assert np.abs(logits[0] - logits[1]).max() < 1e-4 * np.abs(logits[1]).max()


def test_a_cache_takes_memory_as_it_needs_it(exported, tmp_path):
    """A batch does not allocate a cache for the model's whole context."""
    folder = tmp_path / "model"
    shutil.copytree(exported("llama", "genai"), folder)
    config = json.loads((folder / "genai_config.json").read_text())
    config["model"]["context_length"] = 1 << 18
    (folder / "genai_config.json").write_text(json.dumps(config))
    (engine,) = serve([make_source(folder, "onnx", digest="b3:0a")], "cpu")
    batch = engine.batch()
    before = resident()
    batch.add([("b3:0a", [5, 6, 7])] * 4)
    assert resident() - before < 100e6  # four whole caches would be 512 MiB


def test_long_prompts_are_read_in_parts(exported, sharp, monkeypatch):
    """A prompt that is read in several passes is continued like one that is read in a single pass."""
    monkeypatch.setattr(fused, "_MOST", 16)
    (engine,) = serve([make_source(exported("llama", "genai"), "onnx", digest="b3:0a")], "cpu")
    prompts = [PROMPTS[3], PROMPTS[0], PROMPTS[3][:17]]
    assert write(engine.batch(), [("b3:0a", prompt) for prompt in prompts]) == [
        answer(sharp("llama"), prompt) for prompt in prompts
    ]
    in_parts = engine.logits(prompts, last=20)
    monkeypatch.undo()
    (engine,) = serve([make_source(exported("llama", "genai"), "onnx", digest="b3:0a")], "cpu")
    for ours, whole, prompt in zip(in_parts, engine.logits(prompts), prompts, strict=True):
        assert ours.shape[0] == min(20, len(prompt))
        assert np.abs(ours - whole[-20:]).max() < 1e-4 * np.abs(whole).max()


def test_rows_of_very_different_length(exported, sharp):
    """Short rows beside one that nearly fills the context, through growing buffers, get what each gets alone."""
    prompts = [[7], list(range(5, 235)), [9, 8]]
    (engine,) = serve([make_source(exported("llama", "genai"), "onnx", digest="b3:0a")], "cpu")
    expected = [answer(sharp("llama"), prompt, steps=20) for prompt in prompts]
    assert write(engine.batch(), [("b3:0a", prompt) for prompt in prompts], steps=20) == expected
    assert engine.generate(prompts, max_new_tokens=20) == [before_end(tokens, [1]) for tokens in expected]


@pytest.mark.parametrize(("architecture", "runtime"), [("llama", "genai"), ("gpt2", "transformers")])
def test_what_does_not_fit_in_the_context(architecture, runtime, exported):
    """A row beyond the context, and a prompt that leaves no room for an answer, are errors that say so."""
    (engine,) = serve([make_source(exported(architecture, runtime), "onnx", digest="b3:0a")], "cpu")
    with pytest.raises(InputError, match="257 tokens do not fit in a context of 256"):
        engine.logits([[5], [5] * 257])
    with pytest.raises(InputError, match="leaves no room for an answer"):
        engine.generate([[5] * 256], max_new_tokens=4)


def test_exports_are_engines_of_their_own(exported, tmp_path):
    """Each export has its own engine; if one cannot be loaded, the error says why."""
    exports = {"b3:0a": exported("llama", "genai"), "b3:0b": exported("gpt2", "transformers")}
    sources = [make_source(folder, "onnx", digest=digest) for digest, folder in exports.items()]
    assert [list(engine.models) for engine in serve(sources, "cpu")] == [["b3:0a"], ["b3:0b"]]
    with pytest.raises(FtregError, match=r"has no model\.onnx"):
        serve([sources[0], make_source(tmp_path, "onnx")], "cpu")


def resident():
    """Return the resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
