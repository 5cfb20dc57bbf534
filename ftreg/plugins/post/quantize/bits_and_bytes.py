"""Schemes ``int8`` and ``nf4``, with bitsandbytes.

LLM.int8() (Dettmers et al., 2022, https://arxiv.org/abs/2208.07339) and 4-bit NormalFloat (Dettmers et al., 2023,
https://arxiv.org/abs/2305.14314). Both round each weight on its own and need no data.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import BitsAndBytesConfig

from ftreg.core.types import StepJob
from ftreg.models.loading import check_computes, load_pretrained
from ftreg.models.quantization import (
    BITSANDBYTES,
    check_quantizable,
    check_storable,
    check_widths,
    four_bits,
    quantized_weights,
)
from ftreg.models.quiet import quiet
from ftreg.plugins.post.config import QuantizeConfig
from ftreg.plugins.post.quantize.result import Quantized


def check(folder: Path, config: QuantizeConfig) -> None:
    """Raise ``InfeasiblePlan`` if nothing of the model in ``folder`` can be quantized, or the result not be loaded."""
    for check_model in (check_quantizable, check_storable):
        check_model(folder, _settings(config, torch.float32), hint="Keep the weights as they are.")


def quantize(job: StepJob, config: QuantizeConfig, dtype: torch.dtype) -> Quantized:
    """Quantize ``job.source``, and write it into ``job.staging``, the other weights in ``dtype``.

    Raises:
        InfeasiblePlan: bitsandbytes cannot compute the result.
        InputError: The checkpoint cannot be loaded, or a layer does not fit the scheme.
    """
    folder = job.source.path
    settings = _settings(config, dtype)
    if config.scheme == "nf4" and not torch.cuda.is_available():
        check_widths(folder, settings, hint="Use scheme int8.")
    job.progress.begin(f"quantizing to {config.scheme}", None)
    model = load_pretrained(folder, device="cpu", dtype=dtype, quantization_config=settings)
    check_computes(model, f"With {config.scheme} weights")
    job.progress.end()
    with quiet():
        model.save_pretrained(job.staging)
    bits = 8 if config.scheme == "int8" else 4
    return Quantized(settings.to_dict(), bits, quantized_weights(model), (BITSANDBYTES,))


def _settings(config: QuantizeConfig, dtype: torch.dtype) -> BitsAndBytesConfig:
    """Return the scheme in transformers' terms."""
    if config.scheme == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(**four_bits("nf4", double_quant=config.double_quant, dtype=dtype))
