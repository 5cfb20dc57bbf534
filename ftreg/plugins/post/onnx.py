"""Step ``onnx``: exports a checkpoint to one ONNX graph with a KV cache.

The model builder of onnxruntime-genai writes the families that it knows, with fused attention; the result loads in
onnxruntime-genai and in plain ONNX Runtime. Other families are traced by transformers' exporter, as a graph that
continues a cache by any number of tokens; with an empty cache, that is the prefill.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import onnx
import onnxruntime
import torch

from ftreg.compat.transformers import export_decoder
from ftreg.core.errors import FtregError, InfeasiblePlan
from ftreg.core.manifest import Json
from ftreg.core.requirements import Requirement
from ftreg.core.types import ONNX, Artifact, StepJob, Tolerance
from ftreg.models.borders import has_windows
from ftreg.models.checkpoint import Checkpoint
from ftreg.models.files import clean_config, read_json, write_json
from ftreg.models.loading import load_pretrained
from ftreg.models.quiet import loading, quiet
from ftreg.models.tokenizer import copy_tokenizer
from ftreg.plugins.post.config import OnnxConfig
from ftreg.plugins.post.tolerance import FOUR_BITS, equal_within

# What onnxruntime-genai 0.18 builds from a text-only checkpoint.
_BUILDER_FAMILIES = frozenset(
    f"{family}ForCausalLM"
    for family in (
        "Ernie4_5", "Gemma", "Gemma2", "Gemma3", "GptOss", "Granite", "HunYuanDenseV1", "InternLM2", "Lfm2", "Llama",
        "Mistral", "Nemotron", "Olmo", "Phi", "Phi3", "Qwen2", "Qwen3", "SmolLM3",
    )
)  # fmt: skip


def apply(job: StepJob) -> Artifact:
    """Export ``job.source``.

    Raises:
        InfeasiblePlan: The checkpoint is quantized, or its family cannot be exported in this precision.
        InputError: Its files are damaged.
        FtregError: The export fails, or ONNX Runtime cannot load it.
    """
    assert isinstance(job.config, OnnxConfig)
    source = Checkpoint(job.source.path)
    source.require_full_precision("onnx")
    architecture = next(iter(source.config.get("architectures") or []), "unknown")
    runtime = _runtime(job.config, architecture, has_windows(source.config))
    job.progress.begin("exporting to ONNX", None)
    if runtime == "genai":
        _build(job.source.path, job.staging, job.config.precision)
    else:
        _trace(job.source.path, job.staging, torch.float16 if job.config.precision == "fp16" else torch.float32)
    copy_tokenizer(job.staging, job.source.path)
    job.progress.end()
    facts = {"architecture": architecture, "precision": job.config.precision, "runtime": runtime, **_check(job.staging)}
    requires = (Requirement("onnxruntime-genai", "ftreg[onnx]"),) if runtime == "genai" else ()
    return Artifact(kind=ONNX, facts=facts, requires=requires, tolerance=_tolerance(job.config, source.dtype))


def _runtime(config: OnnxConfig, architecture: str, windowed: bool) -> str:
    """Choose what writes the graph; raise ``InfeasiblePlan`` if neither can."""
    obstacle = None
    if architecture not in _BUILDER_FAMILIES:
        obstacle = f"does not know {architecture}"
    elif windowed:
        obstacle = "leaves out the model's attention windows"
    # The builder's fp16 graphs need kernels that ONNX Runtime has on GPUs only: on a CPU they load, and fail when run.
    if config.runtime == "genai" and (obstacle or config.precision == "fp16"):
        reason = obstacle or "writes fp16 for GPUs only"
        raise InfeasiblePlan(f"onnxruntime-genai's builder {reason}", where="onnx", hint="Use runtime transformers.")
    runtime = config.runtime
    if runtime == "auto":
        runtime = "transformers" if obstacle or config.precision == "fp16" else "genai"
    if runtime == "transformers" and config.precision == "int4":
        builder = "int4 is written by onnxruntime-genai's builder"
        reason = f"{builder}, which {obstacle}" if obstacle else f"{builder} only"
        raise InfeasiblePlan(reason, where="onnx", hint="Use precision fp32 or fp16.")
    return runtime


def _tolerance(config: OnnxConfig, stored: torch.dtype) -> Tolerance:
    """Return how far the export may be from the checkpoint."""
    if config.precision == "int4":
        return FOUR_BITS
    return equal_within(stored, torch.float16 if config.precision == "fp16" else torch.float32)


def _build(folder: Path, target: Path, precision: str) -> None:
    """Run onnxruntime-genai's model builder in its own process: it prints, and its modules have generic names."""
    cache = target / "cache"
    command = [
        sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(folder), "-o", str(target),
        "-p", precision, "-e", "cpu", "-c", str(cache), "--extra_options", "hf_token=false",
    ]  # fmt: skip
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    shutil.rmtree(cache, ignore_errors=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        raise FtregError(
            f"onnxruntime-genai's builder failed: {lines[-1]}", where=str(folder), hint="Try runtime=transformers."
        )


def _trace(folder: Path, target: Path, dtype: torch.dtype) -> None:
    """Trace the model with transformers' exporter and save the graph."""
    model = load_pretrained(folder, device="cpu", dtype=dtype).eval()
    try:
        with quiet(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            export_decoder(model).save_pretrained(target)
            model.generation_config.save_pretrained(target)
    except (RuntimeError, ValueError, NotImplementedError, torch.onnx.errors.OnnxExporterError) as error:
        raise FtregError(
            f"transformers' exporter cannot trace {type(model).__name__}: {' '.join(str(error).split())[:300]}",
            where=str(folder),
        ) from error
    write_json(target / "config.json", clean_config(read_json(target / "config.json")))


def _check(folder: Path) -> dict[str, Json]:
    """Load the graph in ONNX Runtime; return its opsets and the versions of the tools as facts."""
    path = folder / "model.onnx"
    with loading("the exported graph", path):
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        graph = onnx.load(path, load_external_data=False)
    tools = ("onnx", "onnxruntime", "onnxruntime-genai", "onnxscript", "torch", "transformers")
    return {
        "opsets": {each.domain or "ai.onnx": each.version for each in graph.opset_import},
        "tools": {name: metadata.version(name) for name in tools},
    }
