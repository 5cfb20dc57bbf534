"""Checks: finds out before any work whether a plan can be carried out here; ``--dry-run`` makes the same checks."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from ftreg.context import Context
from ftreg.core.errors import DiskFull, InfeasiblePlan
from ftreg.core.specs import EngineSpec
from ftreg.core.types import ADAPTER, CHECKPOINT, ONNX, Splits
from ftreg.data import Encoder, read_template
from ftreg.pipeline.plan import Plan, with_article
from ftreg.pipeline.steps import open_inputs

_SAMPLE = 64  # examples that are encoded, to check the tokenizer and its template
_WHOLE_MODELS = (CHECKPOINT, ONNX)


def check_before_work(context: Context, plan: Plan, *, kind: str, base: Path | None, data: Splits, new: int) -> None:
    """Raise if the plan cannot be carried out on this machine, with this base and this data.

    Args:
        context: Where the plan would run.
        plan: A plan that ``make_plan`` has checked.
        kind: The base's kind.
        base: The base's folder; None if it is not fetched yet.
        data: The examples, split.
        new: Bytes that will be imported into the registry.

    Raises:
        InfeasiblePlan: The method does not train on this kind of base, or a step cannot combine the versions given.
        InputError: The device, the precision or the base's tokenizer cannot be used.
        DataError: The data is empty, or the chat template refuses it.
        MissingExtra: The engine that would certify a step's result is not installed.
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
    if importlib.util.find_spec("torch") is not None:  # a method that does not train with torch checks for itself
        _check_training(plan, base, data)
    if base is not None:
        _check_disk(context, plan, size=_size(base), new=new)


def check_kind(plan: Plan, kind: str) -> None:
    """Raise ``InfeasiblePlan`` if the method does not train on a base of ``kind``."""
    if kind not in plan.method.accepts:
        merge = f"Merge it first: `ftreg.merge({plan.recipe.base!r})`"
        raise InfeasiblePlan(
            f"method {plan.method.name} trains on {' or '.join(map(with_article, plan.method.accepts))}; "
            f"{plan.recipe.base} is {with_article(kind)}",
            where="base",
            hint=merge if kind == ADAPTER else "See `registry.list()`",
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
    """Raise ``DiskFull`` if the imports and the whole models that the plan makes would not fit on the disk."""
    results = [plan.method.produces, *(step.spec.produces for step in plan.steps)]
    needed = new + size * sum(kind in _WHOLE_MODELS for kind in results)
    free = shutil.disk_usage(context.registry.home).free
    if free < needed:
        raise DiskFull(
            f"the disk has {free / 1e9:.1f} GB free, and this needs about {needed / 1e9:.1f} GB",
            where=str(context.registry.home),
            hint="Choose another registry with `home`, or free space; `registry.gc(dry_run=True)` says what can go.",
        )


def _size(folder: Path) -> int:
    """Return the bytes of the weights in a folder."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
