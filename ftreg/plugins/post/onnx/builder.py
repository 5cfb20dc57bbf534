"""The model builder of onnxruntime-genai: which models it exports correctly, and how it is called."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import AutoConfig

from ftreg.core.errors import FtregError
from ftreg.models.files import read_json, write_json
from ftreg.models.quiet import loading
from ftreg.plugins.post.config import OnnxConfig
from ftreg.plugins.post.onnx.quantizing import share_embedding
from ftreg.plugins.post.own_process import run_module

# What onnxruntime-genai 0.18 builds from a text-only checkpoint. It cannot read the rotary settings of Gemma 3.
_FAMILIES = (
    "Ernie4_5", "Gemma", "Gemma2", "GptOss", "Granite", "HunYuanDenseV1", "InternLM2", "Lfm2", "Llama", "Mistral",
    "Nemotron", "Olmo", "Phi", "Phi3", "Qwen2", "Qwen3", "SmolLM3",
)  # fmt: skip
# Those whose windows of attention were found to hold beyond the window's length.
_WINDOWED = ("Gemma2", "Mistral", "Phi3", "Qwen2", "Qwen3")

# What it calls the weight of the embedding, and how the name of the head begins.
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "/lm_head/"


def obstacle(architecture: str, config: OnnxConfig, *, windowed: bool) -> str | None:
    """Say why the builder cannot export a model of ``architecture`` in this way; None if it can."""
    family = architecture.removesuffix("ForCausalLM")
    if family not in _FAMILIES or family == architecture:
        return f"does not know {architecture}"
    if windowed and family not in _WINDOWED:
        return f"is not known to keep the attention windows of {architecture}"
    if config.precision == "fp16" and config.provider == "cpu":
        # Its fp16 graphs for CPUs load, and fail when they run.
        return "writes fp16 for provider cuda only"
    return None


def build(folder: Path, target: Path, config: OnnxConfig, *, windowed: bool) -> None:
    """Run the builder in its own process: it prints, and its modules have generic names.

    Args:
        folder: The checkpoint.
        target: An empty folder for the graph and ``genai_config.json``; it is empty again if the builder fails.
        config: Precision, quantizer and provider.
        windowed: Whether a text can be longer than a window of the model's attention.

    Raises:
        FtregError: The builder fails.
    """
    options = ["hf_token=false"]
    if config.bits:
        options += [f"algo_config={config.quantizer}", f"block_size={config.block_size}"]
    if windowed:
        # A cache of the window's size is right in onnxruntime-genai's own loop only.
        options += ["windowed_kv_cache=false"]
    cache = target / "cache"
    with _explicit_windows(folder) if windowed else _as_is(folder) as source:
        failure = run_module(
            "onnxruntime_genai.models.builder", "-i", str(source), "-o", str(target), "-p", config.precision,
            "-e", config.provider, "-c", str(cache), "--extra_options", *options,
        )  # fmt: skip
    shutil.rmtree(cache, ignore_errors=True)
    if failure is not None:
        for path in target.iterdir():
            path.unlink()
        raise FtregError(
            f"onnxruntime-genai's builder failed: {failure}", where=str(folder), hint="Try runtime=transformers."
        )
    if config.bits == 8 and _configuration(folder).tie_word_embeddings:
        # Of tied weights, it stores the embedding in full precision beside a head in 8 bits.
        share_embedding(target / "model.onnx", _EMBEDDING, _HEAD, config.bits, config.block_size)


@contextmanager
def _as_is(folder: Path) -> Iterator[Path]:
    yield folder


@contextmanager
def _explicit_windows(folder: Path) -> Iterator[Path]:
    """Yield a folder of links to the checkpoint's files whose configuration names the kind of each layer.

    The builder gives windows to the layers of kind ``sliding_attention`` only. A configuration without kinds, such as
    Mistral's and Phi-3's, has a window in every layer.
    """
    known = _configuration(folder)
    kinds = getattr(known, "layer_types", None) or ["sliding_attention"] * known.num_hidden_layers
    with TemporaryDirectory() as name:
        linked = Path(name)
        for path in folder.iterdir():
            (linked / path.name).symlink_to(path.resolve())
        (linked / "config.json").unlink()
        write_json(linked / "config.json", {**read_json(folder / "config.json"), "layer_types": kinds})
        yield linked


def _configuration(folder: Path) -> Any:
    """Return a checkpoint's configuration with the defaults of its family."""
    with loading("the model's configuration", folder):
        return AutoConfig.from_pretrained(folder, local_files_only=True)
