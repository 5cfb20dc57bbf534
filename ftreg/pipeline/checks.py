"""Checks: what a run needs before any work; ``--dry-run`` makes the same ones."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from ftreg.context import Context
from ftreg.core.errors import DiskFull, InfeasiblePlan
from ftreg.core.specs import EngineSpec
from ftreg.core.types import ADAPTER, CHECKPOINT, ONNX, Splits
from ftreg.data import Encoder, read_template
from ftreg.pipeline.plan import Plan
from ftreg.pipeline.steps import open_inputs

_SAMPLE = 64  # examples that are encoded to see whether the tokenizer and its template can be used
_WHOLE_MODELS = (CHECKPOINT, ONNX)


def check_before_work(context: Context, plan: Plan, *, kind: str, base: Path | None, data: Splits, new: int) -> None:
    """Raise if the plan cannot be carried out on this machine, with this base and this data.

    Args:
        context: Where the plan would be run.
        plan: A plan that ``make_plan`` has checked.
        kind: The base's kind.
        base: The base's folder; None if it is not fetched yet.
        data: The examples, split.
        new: Bytes of what is to be imported.

    Raises:
        InfeasiblePlan: The method does not train on such a base, or a step cannot combine what it is to combine.
        InputError: The device, the precision or the base's tokenizer cannot be used.
        DataError: The data is empty, or the chat template refuses it.
        MissingExtra: An engine that certifies a step's result is not installed.
        DiskFull: The results would not fit on the disk.
        FtregError: A gate of the registry is not loaded.
    """
    context.registry.check_gates("ftreg_check_version")
    check_kind(plan, kind)
    for step in plan.steps:
        open_inputs(context, step.spec, step.others)
        for engine in context.host.specs(EngineSpec):
            if step.spec.produces in engine.kinds:
                context.host.require(engine)
                break
    if importlib.util.find_spec("torch") is not None:  # a method that trains without it checks for itself
        _check_training(plan, base, data)
    if base is not None:
        _check_disk(context, plan, size=_size(base), new=new)


def check_kind(plan: Plan, kind: str) -> None:
    """Raise ``InfeasiblePlan`` if the method does not train on a base of ``kind``."""
    if kind not in plan.method.accepts:
        raise InfeasiblePlan(
            f"method {plan.method.name} trains on {' or '.join(plan.method.accepts)}, and {plan.recipe.base} is {kind}",
            where="base",
            hint=f"Merge it first: ftreg merge {plan.recipe.base}" if kind == ADAPTER else "See: ftreg models list",
        )


def _check_training(plan: Plan, base: Path | None, data: Splits) -> None:
    """Check settings, and encode a few examples with the base's tokenizer."""
    from ftreg.models.tokenizer import load_tokenizer
    from ftreg.training import check_settings

    train = plan.recipe.train
    check_settings(train, data)
    template = read_template(plan.recipe.data.template)
    if base is not None:
        encoder = Encoder(load_tokenizer(base), max_length=train.max_length, template=template)
        encoder.encode_batch(data.train[:_SAMPLE])


def _check_disk(context: Context, plan: Plan, *, size: int, new: int) -> None:
    """Raise ``DiskFull`` if the registry's disk has no room for what is imported and for whole models that are made."""
    results = [plan.method.produces, *(step.spec.produces for step in plan.steps)]
    needed = new + size * sum(kind in _WHOLE_MODELS for kind in results)
    free = shutil.disk_usage(context.registry.home).free
    if free < needed:
        raise DiskFull(
            f"the disk has {free / 1e9:.1f} GB free, and this needs about {needed / 1e9:.1f} GB",
            where=str(context.registry.home),
            hint="Free some space (ftreg gc --dry-run says what the registry can free), or choose another with --home.",
        )


def _size(folder: Path) -> int:
    """Bytes of the weights in a folder."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
