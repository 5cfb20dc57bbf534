"""What step ``onnx`` does: chooses what writes the graph, writes it, quantizes its weights, and describes the result.

The model builder of onnxruntime-genai writes the families that it knows, with fused attention; the result loads in
onnxruntime-genai and in plain ONNX Runtime. Other families are traced by transformers' exporter, as a graph that
continues a cache by any number of tokens; with an empty cache, that is the prefill.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import onnx
import onnxruntime
import torch

from ftreg.core.errors import FtregError, InfeasiblePlan
from ftreg.core.manifest import Json
from ftreg.core.types import ONNX, Artifact, Progress, StepJob, Tolerance
from ftreg.models.borders import has_windows
from ftreg.models.checkpoint import Checkpoint
from ftreg.models.quiet import loading
from ftreg.models.skeleton import require_keys_and_values
from ftreg.models.tokenizer import copy_tokenizer
from ftreg.plugins.post.config import OnnxConfig
from ftreg.plugins.post.onnx import builder
from ftreg.plugins.post.onnx.quantizing import coverage, quantize_graph
from ftreg.plugins.post.onnx.tracing import trace
from ftreg.plugins.post.tolerance import EIGHT_BITS, FOUR_BITS, equal_within


def check(folder: Path, _config: OnnxConfig) -> None:
    """Raise ``InfeasiblePlan`` if the model in ``folder`` has no keys and values for the graph's cache."""
    require_keys_and_values(folder, needed_by="the export to ONNX")


def apply(job: StepJob) -> Artifact:
    """Export ``job.source``.

    Raises:
        InfeasiblePlan: The checkpoint is quantized, or its family cannot be exported in this precision.
        InputError: Its files are damaged.
        FtregError: The export fails, or ONNX Runtime cannot load it.
    """
    config = job.config
    assert isinstance(config, OnnxConfig)
    source = Checkpoint(job.source.path)
    source.require_full_precision("onnx")
    architecture = next(iter(source.config.get("architectures") or []), "unknown")
    windowed = has_windows(source.config)
    runtime = _runtime(config, architecture, windowed)
    job.progress.begin("exporting to ONNX", None)
    runtime = _write(job, config, runtime, windowed=windowed)
    copy_tokenizer(job.staging, job.source.path)
    job.progress.end()
    facts = {
        "architecture": architecture,
        "precision": config.precision,
        "runtime": runtime,
        "provider": config.provider if runtime == "genai" else "any",
        **_examine(job.staging / "model.onnx", config, job.progress),
    }
    return Artifact(kind=ONNX, facts=facts, tolerance=_tolerance(config, source.dtype))


def _runtime(config: OnnxConfig, architecture: str, windowed: bool) -> str:
    """Choose what writes the graph; raise ``InfeasiblePlan`` if what the configuration names cannot."""
    obstacle = builder.obstacle(architecture, config, windowed=windowed)
    if config.runtime == "auto":
        return "transformers" if obstacle else "genai"
    if config.runtime == "genai" and obstacle:
        reason = f"onnxruntime-genai's builder {obstacle}"
        raise InfeasiblePlan(reason, where="onnx", hint="Use runtime transformers.")
    return config.runtime


def _write(job: StepJob, config: OnnxConfig, runtime: str, *, windowed: bool) -> str:
    """Write the graph; return what wrote it: with runtime auto, a model that the builder fails on is traced."""
    if runtime == "genai":
        try:
            builder.build(job.source.path, job.staging, config, windowed=windowed)
        except FtregError as error:
            if config.runtime != "auto":
                raise
            job.progress.say(f"{error.message}; the model is traced instead")
        else:
            return runtime
    trace(job.source.path, job.staging, torch.float16 if config.precision == "fp16" else torch.float32)
    if config.bits:
        quantize_graph(job.staging / "model.onnx", config.bits, config.block_size, config.quantizer)
    return "transformers"


def _tolerance(config: OnnxConfig, stored: torch.dtype) -> Tolerance:
    """Return how far the export may be from the checkpoint."""
    if config.bits:
        return FOUR_BITS if config.bits == 4 else EIGHT_BITS
    return equal_within(stored, torch.float16 if config.precision == "fp16" else torch.float32)


def _examine(path: Path, config: OnnxConfig, progress: Progress) -> dict[str, Json]:
    """Load the graph in ONNX Runtime; return its opsets, what of it is quantized, and the tools' versions as facts.

    Raises:
        InputError: ONNX Runtime cannot load the graph.
        InfeasiblePlan: Weights were to be quantized, and none are.
    """
    with loading("the exported graph", path):
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        graph = onnx.load(path, load_external_data=False)
    tools = ("onnx", "onnxruntime", "onnxruntime-genai", "onnxscript", "torch", "transformers")
    facts: dict[str, Json] = {
        "opsets": {each.domain or "ai.onnx": each.version for each in graph.opset_import},
        "tools": {name: metadata.version(name) for name in tools},
    }
    if config.bits:
        found = coverage(graph)
        if not found.weights:
            raise InfeasiblePlan(f"nothing of this model can be stored as {config.precision}", where="onnx")
        found.warn(progress, "quantized")
        facts["quantized"] = found.facts()
    return facts
