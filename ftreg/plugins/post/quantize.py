"""Step ``quantize``: stores the weights of linear layers in 8 or 4 bits, with bitsandbytes.

LLM.int8() (Dettmers et al., 2022, https://arxiv.org/abs/2208.07339) and 4-bit NormalFloat (Dettmers et al., 2023,
https://arxiv.org/abs/2305.14314). Embeddings, norms and the output head keep their precision.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import BitsAndBytesConfig

from ftreg.core.types import CHECKPOINT, Artifact, StepJob
from ftreg.models.checkpoint import Checkpoint
from ftreg.models.facts import describe
from ftreg.models.files import clean_config, read_json, write_json
from ftreg.models.loading import check_computes, load_pretrained
from ftreg.models.quantization import BITSANDBYTES, check_quantizable, check_widths, four_bits, quantized_weights
from ftreg.models.quiet import quiet
from ftreg.models.tokenizer import copy_tokenizer
from ftreg.plugins.post.config import QuantizeConfig
from ftreg.plugins.post.tolerance import EIGHT_BITS, FOUR_BITS


def check(folder: Path, config: QuantizeConfig) -> None:
    """Raise ``InfeasiblePlan`` if bitsandbytes can quantize nothing of the model in ``folder``."""
    check_quantizable(folder, _settings(config, torch.float32), hint="Keep the weights as they are.")


def apply(job: StepJob) -> Artifact:
    """Quantize ``job.source``, and save it so that ``AutoModelForCausalLM.from_pretrained`` loads it.

    Raises:
        InfeasiblePlan: The weights are quantized already, or bitsandbytes cannot compute the result.
        InputError: The checkpoint cannot be loaded, or a layer does not fit the scheme.
    """
    assert isinstance(job.config, QuantizeConfig)
    folder = job.source.path
    source = Checkpoint(folder)
    source.require_full_precision("quantize")
    dtype = _dtype(job.config, source.dtype)
    settings = _settings(job.config, dtype)
    if job.config.scheme == "nf4" and not torch.cuda.is_available():
        check_widths(folder, settings, hint="Use scheme int8.")
    job.progress.begin(f"quantizing to {job.config.scheme}", None)
    model = load_pretrained(folder, device="cpu", dtype=dtype, quantization_config=settings)
    check_computes(model, f"With {job.config.scheme} weights")
    quantized = quantized_weights(model)
    with quiet():
        model.save_pretrained(job.staging)
    write_json(job.staging / "config.json", clean_config(read_json(job.staging / "config.json")))
    copy_tokenizer(job.staging, folder)
    job.progress.end()
    quantized.warn(job.progress, "quantized")
    facts = {
        **describe(job.staging),
        "scheme": job.config.scheme,
        "quantized": quantized.facts(),
        "bytes_before": source.size,
        "bytes_after": Checkpoint(job.staging).size,
    }
    return Artifact(
        kind=CHECKPOINT,
        facts=facts,
        requires=(BITSANDBYTES,),
        tolerance=EIGHT_BITS if job.config.scheme == "int8" else FOUR_BITS,
    )


def _dtype(config: QuantizeConfig, stored: torch.dtype) -> torch.dtype:
    """Return the dtype of the weights that are not quantized."""
    if config.dtype != "auto":
        found: torch.dtype = getattr(torch, config.dtype)
        return found
    return torch.bfloat16 if config.scheme == "nf4" or stored == torch.bfloat16 else torch.float16


def _settings(config: QuantizeConfig, dtype: torch.dtype) -> BitsAndBytesConfig:
    """Return the scheme in transformers' terms."""
    if config.scheme == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(**four_bits("nf4", double_quant=config.double_quant, dtype=dtype))
