"""Scheme ``gptq``, with optimum and gptqmodel (Frantar et al., 2022, https://arxiv.org/abs/2210.17323).

Weights are rounded so that the outputs of their layer on calibration text change least. The result is in the
first version of the format, which transformers reads.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ftreg.compat.gptqmodel import quantize_with_gptq
from ftreg.core.types import StepJob
from ftreg.models.loading import load_pretrained
from ftreg.models.matrices import coverage, matrices
from ftreg.models.quiet import quiet
from ftreg.plugins.post.calibration import calibration_rows
from ftreg.plugins.post.config import QuantizeConfig
from ftreg.plugins.post.quantize.calibrated import Calibrated, choose_group_size
from ftreg.plugins.post.quantize.result import Quantized

_GPTQ = Calibrated("gptq", (nn.Linear, Conv1D), inputs=32, outputs=32)

check, check_result = _GPTQ.check, _GPTQ.check_result


def quantize(job: StepJob, config: QuantizeConfig, dtype: torch.dtype) -> Quantized:
    """Quantize ``job.source`` in float32, and write it into ``job.staging``, the other weights in ``dtype``.

    Raises:
        InfeasiblePlan: The lineage has no text to calibrate on, or the libraries cannot quantize this family.
        InputError: The checkpoint cannot be loaded.
    """
    rows = calibration_rows(job, config, needed_by="scheme gptq", instead="Schemes int8 and nf4 need no data.")
    model = load_pretrained(job.source.path, device="cpu", dtype=torch.float32)
    known = matrices(model)
    group_size = choose_group_size(config, _GPTQ.widths(model).values())
    bits = config.bits or 4
    with quiet():
        names, settings = quantize_with_gptq(model, rows, bits=bits, group_size=group_size, progress=job.progress)
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[0] not in names:
            parameter.data = parameter.data.to(dtype)
    model.config.dtype = dtype
    with quiet():
        model.save_pretrained(job.staging)
    return Quantized(settings, bits, coverage(known, {f"{name}.weight" for name in names}), config.requires())
