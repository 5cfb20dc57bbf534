"""Scheme ``gptq``, with optimum and gptqmodel (Frantar et al., 2022, https://arxiv.org/abs/2210.17323).

Weights are rounded so that the outputs of their layer on calibration text change least. The result is in the
first version of the format, which transformers reads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ftreg.compat.gptqmodel import GPTQMODEL, OPTIMUM, quantize_with_gptq
from ftreg.core.errors import InfeasiblePlan, InputError, MissingExtra
from ftreg.core.types import StepJob
from ftreg.models.blocks import find_blocks
from ftreg.models.loading import check_computes, load_pretrained
from ftreg.models.matrices import coverage, matrices
from ftreg.models.quiet import quiet
from ftreg.models.skeleton import load_skeleton
from ftreg.plugins.post.calibration import calibration_rows
from ftreg.plugins.post.config import QuantizeConfig
from ftreg.plugins.post.quantize.result import Quantized

_REQUIRES = (OPTIMUM, GPTQMODEL)
_WIDTH_MULTIPLE = 32
"""Weights are packed into integers of 32 bits, along both dimensions of a matrix."""
_GROUP_SIZES = (128, 64, 32)


def check(folder: Path, config: QuantizeConfig) -> None:
    """Raise ``InfeasiblePlan`` if the layers of the model in ``folder`` do not fit the scheme.

    Raises:
        InfeasiblePlan: A layer has a width that cannot be packed, or there are no layers.
        MissingExtra: optimum or gptqmodel is not installed.
    """
    for requirement in _REQUIRES:
        if not requirement.is_installed:
            raise MissingExtra("scheme gptq", requirement.distribution, requirement.install)
    model = load_skeleton(folder)
    widths = _layers(model)
    if not widths:
        raise InfeasiblePlan(
            f"gptq can quantize nothing in {type(model).__name__}: its decoder layers have no linear layers",
            where=str(folder),
            hint="Keep the weights as they are.",
        )
    for name, (inputs, outputs) in widths.items():
        if inputs % _WIDTH_MULTIPLE or outputs % _WIDTH_MULTIPLE:
            raise InfeasiblePlan(
                f"layer {name} has {inputs} inputs and {outputs} outputs; gptq needs multiples of {_WIDTH_MULTIPLE}",
                where=str(folder),
                hint="Use scheme int8.",
            )
        if config.group_size is not None and config.group_size > 0 and inputs % config.group_size:
            raise InfeasiblePlan(
                f"layer {name} has {inputs} inputs, which is not a multiple of the group size {config.group_size}",
                where="quantize.group_size",
                hint="Leave it out for the largest that fits.",
            )


def quantize(job: StepJob, config: QuantizeConfig, dtype: torch.dtype) -> Quantized:
    """Quantize ``job.source`` in float32, and store the weights that are not quantized in ``dtype``.

    Raises:
        InfeasiblePlan: The lineage has no text to calibrate on, or the libraries cannot quantize this family.
        InputError: The checkpoint cannot be loaded.
    """
    rows = calibration_rows(job, config, needed_by="scheme gptq", instead="Schemes int8 and nf4 need no data.")
    model = load_pretrained(job.source.path, device="cpu", dtype=torch.float32)
    known = matrices(model)
    widths = [inputs for inputs, _ in _layers(model).values()]
    fits = [size for size in _GROUP_SIZES if not any(width % size for width in widths)]
    bits = config.bits or 4
    with quiet():
        names, settings = quantize_with_gptq(
            model, rows, bits=bits, group_size=config.group_size or fits[0], progress=job.progress
        )
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[0] not in names:
            parameter.data = parameter.data.to(dtype)
    model.config.dtype = dtype
    check_computes(model, "With gptq weights")
    return Quantized(model, settings, bits, coverage(known, {f"{name}.weight" for name in names}), _REQUIRES)


def check_loads(folder: Path) -> None:
    """Raise ``InfeasiblePlan`` if transformers cannot load the result in ``folder``: tied GPT-2 models, say."""
    try:
        load_pretrained(folder, device="cpu", dtype="auto")
    except InputError as error:
        raise InfeasiblePlan(f"with gptq weights, {error.message}", hint="Use scheme int8.") from error


def _layers(model: Any) -> dict[str, tuple[int, int]]:
    """Return the inputs and outputs of each linear layer in the decoder layers of a model, by name."""
    path, blocks = find_blocks(model)
    found: dict[str, tuple[int, int]] = {}
    for name, module in blocks.named_modules(prefix=path):
        if isinstance(module, nn.Linear):
            found[name] = (module.in_features, module.out_features)
        elif isinstance(module, Conv1D):
            found[name] = (module.weight.shape[0], module.weight.shape[1])
    return found
