"""Step ``onnx``: exports a checkpoint to one ONNX graph with a KV cache.

Families that the model builder of onnxruntime-genai knows are written by it, with fused attention; the folder then
loads in onnxruntime-genai and in plain ONNX Runtime. Others are traced by transformers' exporter, as the graph that
continues a cache by any number of tokens, which with an empty cache is the prefill too.
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
from transformers import AutoModelForCausalLM, GenerationConfig

from ftreg.core.errors import FtregError, InfeasiblePlan
from ftreg.core.manifest import Json
from ftreg.core.requirements import Requirement
from ftreg.core.types import ONNX, Artifact, StepJob, Tolerance
from ftreg.plugins.engines.loading import loading
from ftreg.plugins.post.checkpoint import Checkpoint, clean_config, copy_tokenizer, read_object, write_json
from ftreg.plugins.post.config import OnnxConfig
from ftreg.plugins.post.tolerance import FOUR_BITS, equal_within
from ftreg.training import quiet

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
        InfeasiblePlan: The checkpoint is quantized, or the precision is not to be had for its family.
        FtregError: The export fails, or ONNX Runtime cannot load it.
    """
    assert isinstance(job.config, OnnxConfig)
    source = Checkpoint(job.source.path)
    source.require_full_precision("onnx")
    architecture = next(iter(source.config.get("architectures") or []), "unknown")
    runtime = _runtime(job.config, architecture)
    job.progress.begin("exporting to ONNX", None)
    if runtime == "genai":
        _build(job.source.path, job.staging, job.config.precision)
    else:
        _trace(job.source.path, job.staging, half=job.config.precision == "fp16")
    copy_tokenizer(job.staging, job.source.path)
    job.progress.end()
    facts = {"architecture": architecture, "precision": job.config.precision, "runtime": runtime, **_check(job.staging)}
    requires = (Requirement("onnxruntime-genai", "ftreg[onnx]"),) if runtime == "genai" else ()
    return Artifact(kind=ONNX, facts=facts, requires=requires, tolerance=_tolerance(job.config, source.dtype))


def _runtime(config: OnnxConfig, architecture: str) -> str:
    """Who writes the graph; raise ``InfeasiblePlan`` where neither can."""
    known = architecture in _BUILDER_FAMILIES
    # The builder's fp16 graphs need kernels that ONNX Runtime has on GPUs only: here they load, and fail when run.
    if config.runtime == "genai" and (not known or config.precision == "fp16"):
        reason = f"does not know {architecture}" if not known else "writes fp16 for GPUs only"
        raise InfeasiblePlan(f"onnxruntime-genai's builder {reason}", where="onnx", hint="Use runtime transformers.")
    runtime = config.runtime
    if runtime == "auto":
        runtime = "genai" if known and config.precision != "fp16" else "transformers"
    if runtime == "transformers" and config.precision == "int4":
        raise InfeasiblePlan(
            f"int4 is written by onnxruntime-genai's builder, which does not know {architecture}"
            if not known
            else "int4 is written by onnxruntime-genai's builder only",
            where="onnx",
            hint="Use precision fp32 or fp16.",
        )
    return runtime


def _tolerance(config: OnnxConfig, stored: torch.dtype) -> Tolerance:
    if config.precision == "int4":
        return FOUR_BITS
    return equal_within(stored, torch.float16 if config.precision == "fp16" else torch.float32)


def _build(folder: Path, target: Path, precision: str) -> None:
    """Run onnxruntime-genai's model builder, in a process of its own: it prints, and its modules have common names."""
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


def _trace(folder: Path, target: Path, *, half: bool) -> None:
    """Trace the model with transformers' exporter and save the graph."""
    from transformers.exporters import OnnxConfig as ExportConfig
    from transformers.exporters import OnnxExporter
    from transformers.exporters.utils import decompose_prefill_decode

    with loading("the model", folder):
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float16 if half else torch.float32, local_files_only=True, use_safetensors=True
        ).eval()
    # A sample mask of ones only would drop the mask from the graph; so the first row is padded.
    ids = torch.tensor([[0, 0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6, 7]]) % model.config.vocab_size
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]])
    greedy = GenerationConfig(do_sample=False, pad_token_id=0, eos_token_id=model.generation_config.eos_token_id)
    try:
        with quiet(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            stages = decompose_prefill_decode(
                model, {"input_ids": ids, "attention_mask": mask}, generation_config=greedy, multi_token_decode=True
            )
            exported = OnnxExporter().export(*stages["decode"], ExportConfig(dynamic=True))
            for node in exported.program.graph.all_nodes():
                node.metadata_props.clear()  # stack traces, with the paths of this machine
            exported.save_pretrained(target)
            model.generation_config.save_pretrained(target)
    except (RuntimeError, ValueError, NotImplementedError, torch.onnx.errors.OnnxExporterError) as error:
        raise FtregError(
            f"transformers' exporter cannot trace {type(model).__name__}: {' '.join(str(error).split())[:300]}",
            where=str(folder),
        ) from error
    write_json(target / "config.json", clean_config(read_object(target / "config.json")))


def _check(folder: Path) -> dict[str, Json]:
    """Load the graph with its weights in ONNX Runtime; return its opsets and the versions of what wrote it."""
    path = folder / "model.onnx"
    with loading("the exported graph", path):
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        graph = onnx.load(path, load_external_data=False)
    tools = ("onnx", "onnxruntime", "onnxruntime-genai", "onnxscript", "torch", "transformers")
    return {
        "opsets": {each.domain or "ai.onnx": each.version for each in graph.opset_import},
        "tools": {name: metadata.version(name) for name in tools},
    }
