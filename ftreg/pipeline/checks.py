"""Checks: finds out before any work whether a plan can be carried out here; ``--dry-run`` makes the same checks."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ftreg.context import Context
from ftreg.core.capabilities import ALL_WEIGHTS
from ftreg.core.errors import DiskFull, InfeasiblePlan, MissingExtra
from ftreg.core.manifest import Parent
from ftreg.core.recipe import ObjectiveConfig
from ftreg.core.specs import EngineSpec
from ftreg.core.types import ADAPTER, CHECKPOINT, ONNX, RunInfo, Splits
from ftreg.data import Encoder, read_template
from ftreg.models.architectures import check_causal
from ftreg.models.facts import describe
from ftreg.models.files import weight_bytes
from ftreg.pipeline.inputs import KnownModel, objective_key
from ftreg.pipeline.plan import Plan, with_article
from ftreg.pipeline.runs import step_config, training_config, training_parents
from ftreg.pipeline.steps import open_inputs

_SAMPLE = 64  # examples that are encoded, to check the tokenizer and its template
_WHOLE_MODELS = (CHECKPOINT, ONNX)
_OPTIMIZER_STATES = {"adamw": 2, "sgd": 0, "adafactor": 0}  # values of the size of the weights that are kept with them


@dataclass(frozen=True)
class Inputs:
    """What is known of a training's inputs before its work.

    Attributes:
        base: The base.
        models: The models of the objective, by role.
        dataset_digest: The dataset's digest.
        data: The examples, split.
    """

    base: KnownModel
    models: Mapping[str, KnownModel]
    dataset_digest: str
    data: Splits


def check_before_work(context: Context, plan: Plan, inputs: Inputs, *, dry_run: bool = False) -> None:
    """Raise if the plan cannot be carried out on this machine, with this base and this data.

    Args:
        context: Where the plan would run.
        plan: A plan that ``make_plan`` has checked.
        inputs: What the training would work on.
        dry_run: Change nothing in the registry, not even its record of gates.

    Raises:
        InfeasiblePlan: The method or a step does not work on this kind of base or model, a step cannot combine the
            versions given, or a teacher does not fit the base.
        InputError: The base is not a causal language model, or the device, the precision or the base's tokenizer
            cannot be used.
        DataError: The data is empty, or the chat template refuses it.
        MissingExtra: The engine that would certify a step's result, or what a teacher needs, is not installed.
        DiskFull: The results would not fit on the disk.
        FtregError: A gate of the registry refuses, or is not loaded.
    """
    check_kind(plan, inputs.base.kind)
    _check_gates(context, plan, inputs, dry_run=dry_run)
    for step in plan.steps:
        for engine in context.host.specs(EngineSpec):
            if step.spec.produces in engine.kinds:
                context.host.require(engine)
                break
    base = inputs.base.folder
    if base is not None and inputs.base.kind == CHECKPOINT:
        _check_model(context, plan, base)
    if importlib.util.find_spec("torch") is not None:  # a method that does not train with torch checks for itself
        _check_training(plan, base, inputs.data)
    if plan.recipe.objective is not None:
        _check_objective(plan.recipe.objective, inputs)
    size, checkpoints = inputs.base.new, 0
    if base is not None:
        size, checkpoints = weight_bytes(base), _checkpoints(plan, base)
    new = inputs.base.new + sum(model.new for model in inputs.models.values())
    _check_disk(context, plan, size=size, new=new, checkpoints=checkpoints)


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


def _check_gates(context: Context, plan: Plan, inputs: Inputs, *, dry_run: bool) -> None:
    """Open the further inputs of the steps, and ask the gates about the training and about each step."""
    registry, recipe, method = context.registry, plan.recipe, plan.method
    registry.check_gates("ftreg_check_version")
    models = {role: model.digest for role, model in inputs.models.items()}
    parents = training_parents(inputs.base.digest, models, inputs.dataset_digest)
    template = read_template(recipe.data.template)
    config = training_config(method, plan.method_config, recipe.train, template, recipe.objective)
    runs = [RunInfo(method.what, method.name, recipe.name, parents, config, recipe.tags)]
    for step, name in zip(plan.steps, plan.names[1:], strict=True):
        spec, config = step.spec, step_config(step.spec, step.config, recipe.train.seed)
        others = open_inputs(context, spec, step.others)
        known = tuple(Parent(spec.combines or each.role, each.source.digest, each.weight) for each in others)
        runs.append(RunInfo(spec.what, spec.name, name, known, config))
    for run in runs:
        registry.check_run(run, dry_run=dry_run)


def _check_model(context: Context, plan: Plan, base: Path) -> None:
    """Check that the method can train on the base, and that each step on a checkpoint can work on the same model."""
    check_causal(base)
    context.host.check_model(plan.method, base, plan.method_config, where="base")
    for step in plan.steps:
        if CHECKPOINT in step.spec.accepts:
            context.host.check_model(step.spec, base, step.config, where=f"then: {step.spec.name}")


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


def _check_objective(objective: ObjectiveConfig, inputs: Inputs) -> None:
    """Check that the models of an objective can be loaded beside the base, and fit it; sizes are not judged."""
    from ftreg.training.checks import check_teacher

    for role, model in inputs.models.items():
        where = objective_key(objective, role)
        if model.kind not in (CHECKPOINT, ADAPTER):
            raise InfeasiblePlan(
                f"a {role} is a checkpoint or an adapter; {model.name} is {with_article(model.kind)}", where=where
            )
        for requirement in model.requires:
            if not requirement.is_installed:
                raise MissingExtra(model.name, requirement.distribution, requirement.install)
        if model.folders and inputs.base.folder is not None:
            check_teacher(model.folders, inputs.base.folder, where=where)


def _checkpoints(plan: Plan, base: Path) -> int:
    """Return the bytes of a training's checkpoints: the newest, and the next one while it is written.

    Only those of a method that trains all weights are counted: how many weights another one trains is not known before
    it has loaded the base, and they are few.
    """
    if ALL_WEIGHTS not in plan.method.trains:
        return 0
    weights: int = 4 * describe(base)["parameters"]
    return 2 * weights * (1 + _OPTIMIZER_STATES[plan.recipe.train.optimizer])


def _check_disk(context: Context, plan: Plan, *, size: int, new: int, checkpoints: int) -> None:
    """Raise ``DiskFull`` if imports, checkpoints and the whole models that the plan makes would not fit on the disk.

    The steps work when the checkpoints are gone, so only the larger of both counts.
    """
    kinds = [step.spec.produces for step in plan.steps]
    result, further = (size * sum(kind in _WHOLE_MODELS for kind in each) for each in ([plan.method.produces], kinds))
    needed = new + result + max(checkpoints, further)
    free = shutil.disk_usage(context.registry.home).free
    if free < needed:
        raise DiskFull(
            f"the disk has {free / 1e9:.1f} GB free, and this needs about {needed / 1e9:.1f} GB",
            where=str(context.registry.home),
            hint="Choose another registry with `home`, or free space; `registry.gc(dry_run=True)` says what can go.",
        )
