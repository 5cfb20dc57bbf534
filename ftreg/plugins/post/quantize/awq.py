"""Scheme ``awq``, with gptqmodel (Lin et al., 2023, https://arxiv.org/abs/2306.00978).

Weights that are multiplied with the largest inputs on calibration text are scaled up before rounding, and those inputs
down, so that these weights lose least. The result is in AutoAWQ's format (``gemm``), which transformers reads.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from ftreg.compat.awq import ENVIRONMENT
from ftreg.core.errors import InfeasiblePlan
from ftreg.core.types import StepJob
from ftreg.models.checkpoint import Checkpoint, copy_config
from ftreg.models.files import write_json
from ftreg.models.matrices import coverage, matrices
from ftreg.models.skeleton import load_skeleton
from ftreg.plugins.post.calibration import calibration_rows
from ftreg.plugins.post.config import QuantizeConfig
from ftreg.plugins.post.own_process import run_module
from ftreg.plugins.post.quantize.calibrated import Calibrated, choose_group_size
from ftreg.plugins.post.quantize.result import Quantized

_AWQ = Calibrated("awq", (nn.Linear,), inputs=32, outputs=64)

check_result = _AWQ.check_result


def check(folder: Path, config: QuantizeConfig) -> None:
    """Raise ``InfeasiblePlan`` if a layer of the model in ``folder`` does not fit, or it has stacks of experts."""
    _AWQ.check(folder, config)
    model = load_skeleton(folder)
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    stacks = [name for name, matrix in matrices(model).items() if matrix.layer and name not in linear]
    if stacks:
        raise InfeasiblePlan(
            f"awq cannot quantize {type(model).__name__}: transformers cannot load experts such as {stacks[0]} from it",
            where=str(folder),
            hint="Use scheme gptq, which leaves experts as they are, or int8.",
        )


def quantize(job: StepJob, config: QuantizeConfig, dtype: torch.dtype) -> Quantized:
    """Quantize ``job.source`` in ``dtype``, in a process of its own, and write the result into ``job.staging``.

    Raises:
        InfeasiblePlan: The lineage has no text to calibrate on, or the libraries cannot quantize this family.
    """
    rows = calibration_rows(job, config, needed_by="scheme awq", instead="Schemes int8 and nf4 need no data.")
    model = load_skeleton(job.source.path)
    group_size = choose_group_size(config, _AWQ.widths(model).values())
    name_of_dtype = str(dtype).removeprefix("torch.")
    work = {"dtype": name_of_dtype, "group_size": group_size, "rows": rows.tolist()}
    job.progress.begin("quantizing to awq", None)
    _write_weights(job.source.path, job.staging, work)
    job.progress.end()
    copy_config(job.staging, Checkpoint(job.source.path), dtype=name_of_dtype)
    stored = Checkpoint(job.staging).tensors
    names = {name.removesuffix(".qweight") for name in stored if name.endswith(".qweight")}
    linear = (name for name, module in model.named_modules() if isinstance(module, nn.Linear))
    settings = {
        "quant_method": "awq",
        "version": "gemm",
        "bits": 4,
        "group_size": group_size,
        "zero_point": True,
        "modules_to_not_convert": [name for name in linear if name not in names],
    }
    return Quantized(settings, 4, coverage(matrices(model), {f"{name}.weight" for name in names}), config.requires())


def _write_weights(source: Path, staging: Path, work: dict[str, object]) -> None:
    """Let gptqmodel quantize ``source``, and keep nothing but the weights that it writes, in ``staging``."""
    with TemporaryDirectory(dir=staging) as name:
        folder, target = Path(name), Path(name) / "result"
        write_json(folder / "job.json", {"source": str(source.resolve()), "target": str(target), **work})
        failure = run_module("ftreg.compat.awq", str(folder / "job.json"), folder=folder, **ENVIRONMENT)
        if failure is not None:
            raise InfeasiblePlan(f"awq cannot quantize this model: {failure}", hint="Use scheme gptq or int8.")
        for path in [*target.glob("*.safetensors"), *target.glob("*.safetensors.index.json")]:
            path.rename(staging / path.name)
