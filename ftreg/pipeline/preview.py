"""Preview: describes what a plan would do, after checking its inputs, without registering anything."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from ftreg.context import Context
from ftreg.core.errors import UnknownName
from ftreg.core.manifest import Json
from ftreg.core.recipe import ObjectiveConfig, TrainConfig
from ftreg.core.types import Splits
from ftreg.models.files import weight_bytes
from ftreg.pipeline.checks import Inputs, check_before_work
from ftreg.pipeline.inputs import KnownModel, check_model_folder, is_path, is_uri, objective_key, open_data
from ftreg.pipeline.plan import Plan
from ftreg.pipeline.runs import full_config


def preview(context: Context, plan: Plan) -> dict[str, Json]:
    """Describe ``plan`` after every check that a run makes before work; raise what the run would raise."""
    recipe = plan.recipe
    names = plan.names
    steps = [
        f"{step.spec.name}: {names[step.source + 1]} -> {name} ({step.spec.produces})"
        for step, name in zip(plan.steps, names[1:], strict=True)
    ]
    base = _look_at(context, recipe.base, "base")
    models = _look_at_models(context, recipe.objective)
    with ExitStack() as stack:
        dataset, splits = open_data(context, stack, recipe.data)
        check_before_work(context, plan, Inputs(base, models, dataset.digest, splits), dry_run=True)
    return {
        "name": recipe.name,
        "base": _shown(base),
        "data": {
            "path": recipe.data.path,
            "digest": dataset.digest[:15],
            "train": len(splits.train),
            "validation": len(splits.validation),
            "test": len(splits.test),
        },
        "method": plan.method.name,
        plan.method.name: full_config(plan.method_config),
        **_objective(recipe.objective, models),
        "train": full_config(recipe.train),
        **_schedule(recipe.train, splits),
        "then": steps,
    }


def _schedule(train: TrainConfig, data: Splits) -> dict[str, Json]:
    """Say when the training will evaluate, save and stop, its defaults included; they are ``Milestones``'."""
    patience = train.early_stopping_patience
    return {
        "evaluations": _every(train.eval_every or 0.1) if data.validation else "none, without validation examples",
        "checkpoints": _every(train.save_every) if train.save_every else "about every one to ten minutes",
        "early_stopping": f"after {patience} evaluations without a lower loss" if patience else "off",
    }


def _every(steps: float) -> str:
    return f"every {steps:.3g} steps" if steps >= 1 else f"every {steps * 100:.3g}% of the steps"


def _look_at_models(context: Context, objective: ObjectiveConfig | None) -> dict[str, KnownModel]:
    """Look at the models that an objective needs, without importing them."""
    if objective is None:
        return {}
    return {role: _look_at(context, ref, objective_key(objective, role)) for role, ref in objective.models.items()}


def _objective(objective: ObjectiveConfig | None, models: Mapping[str, KnownModel]) -> dict[str, Json]:
    """Describe the objective and its models; empty for the loss on the labels."""
    if objective is None:
        return {}
    shown = {role: _shown(model) for role, model in models.items()}
    return {"objective": objective.name, objective.name: objective.settings(), **shown}


def _shown(model: KnownModel) -> str:
    """Return a model's name and the beginning of its digest."""
    return model.name if model.digest is None else f"{model.name} {model.digest[:15]}"


def _look_at(context: Context, model: str, where: str) -> KnownModel:
    """Look at a base or a teacher without importing it; raise what opening it would raise."""
    if is_path(model):
        from ftreg.models.facts import describe

        folder = Path(model).expanduser()
        check_model_folder(folder, where)
        describe(folder)
        return KnownModel(model, folders=(folder,), new=weight_bytes(folder))
    if is_uri(model):
        found = context.host.find_base(model)
        if found is None:
            return KnownModel(f"{model} (not looked at)")
        if found.folder is None:
            return KnownModel(f"{model} (not fetched: {found.size / 1e9:.2g} GB)", new=found.size)
        check_model_folder(found.folder, where)
        return KnownModel(f"{model} (fetched)", folders=(found.folder,), new=weight_bytes(found.folder))
    try:
        return KnownModel.of(context.registry.source(model))
    except UnknownName as error:
        error.where = where
        raise
