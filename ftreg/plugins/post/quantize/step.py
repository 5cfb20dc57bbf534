"""Step ``quantize``: stores the weights of linear layers in fewer bits.

Embeddings, norms and the output head keep their precision.
"""

from __future__ import annotations

from pathlib import Path

import torch

from ftreg.core.types import CHECKPOINT, Artifact, StepJob
from ftreg.models.checkpoint import Checkpoint
from ftreg.models.facts import describe
from ftreg.models.files import clean_config, read_json, write_json
from ftreg.models.tokenizer import copy_tokenizer
from ftreg.plugins.post.config import QuantizeConfig
from ftreg.plugins.post.quantize import awq, bits_and_bytes, gptq
from ftreg.plugins.post.tolerance import BITS

_CALIBRATED = {"awq": awq, "gptq": gptq}


def check(folder: Path, config: QuantizeConfig) -> None:
    """Raise ``InfeasiblePlan`` if nothing of the model in ``folder`` can be quantized in the configured way."""
    _CALIBRATED.get(config.scheme, bits_and_bytes).check(folder, config)


def apply(job: StepJob) -> Artifact:
    """Quantize ``job.source``, and save it so that ``AutoModelForCausalLM.from_pretrained`` loads it.

    Raises:
        InfeasiblePlan: The weights are quantized already, the result cannot be computed, or there is no text to
            calibrate on.
        InputError: The checkpoint cannot be loaded, or a layer does not fit the scheme.
    """
    assert isinstance(job.config, QuantizeConfig)
    source = Checkpoint(job.source.path)
    source.require_full_precision("quantize")
    scheme = _CALIBRATED.get(job.config.scheme, bits_and_bytes)
    made = scheme.quantize(job, job.config, _dtype(job.config, source.dtype))
    config = clean_config(read_json(job.staging / "config.json"))
    write_json(job.staging / "config.json", {**config, "quantization_config": dict(made.settings)})
    if scheme is not bits_and_bytes:
        scheme.check_result(job.staging)
    copy_tokenizer(job.staging, job.source.path)
    made.covered.warn(job.progress, "quantized")
    facts = {
        **describe(job.staging),
        "scheme": job.config.scheme,
        "bits": made.bits,
        "quantized": made.covered.facts(),
        "bytes_before": source.size,
        "bytes_after": Checkpoint(job.staging).size,
    }
    return Artifact(kind=CHECKPOINT, facts=facts, requires=made.requires, tolerance=BITS[made.bits])


def _dtype(config: QuantizeConfig, stored: torch.dtype) -> torch.dtype:
    """Return the dtype of the weights that are not quantized."""
    if config.dtype != "auto":
        found: torch.dtype = getattr(torch, config.dtype)
        return found
    return torch.bfloat16 if config.scheme == "nf4" or stored == torch.bfloat16 else torch.float16
