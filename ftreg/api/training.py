"""Planning and training: from a recipe to versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftreg.api.opening import opened
from ftreg.core.host import PluginHost
from ftreg.core.manifest import Json
from ftreg.core.recipe import Recipe, apply_settings, parse_recipe, read_recipe
from ftreg.core.types import Progress, Version
from ftreg.pipeline.plan import Plan, make_plan
from ftreg.pipeline.preview import preview as preview_plan
from ftreg.pipeline.recipes import run_plan
from ftreg.pipeline.scratch import create_base_version
from ftreg.pipeline.training import train as train_plan
from ftreg.registry import Registry

RecipeLike = Path | str | Mapping[str, Any]
"""A recipe: the path of a YAML file, or a mapping of the same keys."""

_FINAL = "final_validation_"  # what stands before the names of the last evaluation's figures


@dataclass(frozen=True)
class TrainingFigures:
    """How a training run went.

    Attributes:
        steps: Optimizer steps.
        loss: Mean training loss over the last tenth of the steps, in nats per token.
        validation_loss: The last validation loss; None if nothing was held out.
        best_validation_loss: The lowest validation loss; None likewise.
        best_step: The step of the lowest validation loss; None likewise.
        plot: The picture of the loss curves; None if matplotlib is not installed.
        validation_parts: The parts of the last validation loss, if the objective has several, such as ``divergence``.
    """

    steps: int
    loss: float
    validation_loss: float | None
    best_validation_loss: float | None
    best_step: int | None
    plot: Path | None
    validation_parts: Mapping[str, float] = field(default_factory=dict)


def load_recipe(
    recipe: RecipeLike, settings: Mapping[str, Any] | None = None, *, host: PluginHost | None = None
) -> Recipe:
    """Read a recipe from a file or a mapping, put ``settings`` in, and validate it.

    Args:
        recipe: A file or a mapping. Paths in a file are relative to the file.
        settings: Values by dotted key, such as ``{"lora.rank": 32}``; they replace those of the recipe.
        host: The plugins, whose settings are suggested for an unknown key; None for ftreg's own keys only.

    Raises:
        RecipeError: The recipe does not validate.
    """
    model_of = host.settings_model if host is not None else None
    if isinstance(recipe, Mapping):
        return parse_recipe(apply_settings(_with_data_section(recipe), settings or {}), model_of=model_of)
    path = Path(recipe)
    raw = _relative_to(_with_data_section(read_recipe(path)), path.parent)
    return parse_recipe(apply_settings(raw, settings or {}), where=str(path), model_of=model_of)


def plan(
    recipe: RecipeLike,
    *,
    settings: Mapping[str, Any] | None = None,
    registry: Registry | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Check that ``recipe`` is feasible as a whole, its steps included, and return what would be run.

    Raises:
        InputError: A key, value, method or step cannot be used, or a package is missing.
        InfeasiblePlan: A step cannot work on what comes before it.
    """
    with opened(registry, progress) as context:
        where = "recipe" if isinstance(recipe, Mapping) else str(recipe)
        return make_plan(context.host, load_recipe(recipe, settings, host=context.host), where=where)


def preview(
    recipe: RecipeLike,
    *,
    settings: Mapping[str, Any] | None = None,
    registry: Registry | None = None,
    progress: Progress | None = None,
) -> dict[str, Json]:
    """Check everything that running ``recipe`` would check before its work, and return what would be done."""
    with opened(registry, progress) as context:
        return preview_plan(context, plan(recipe, settings=settings, registry=context.registry))


def init(
    name: str,
    data: str | Path,
    *,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    registry: Registry | None = None,
    progress: Progress | None = None,
    **sizes: Any,
) -> Version:
    """Create an untrained base model called ``name`` with a tokenizer that is trained on ``data``.

    ``sizes``, such as ``layers=4``, and ``settings`` are its configuration.
    """
    with opened(registry, progress) as context:
        return create_base_version(context, name, Path(data), apply_settings(sizes, settings or {}), seed=seed)


def train(
    recipe: RecipeLike,
    *,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    registry: Registry | None = None,
    progress: Progress | None = None,
) -> Version:
    """Train as ``recipe`` says, without its ``then`` steps, and register the result.

    Args:
        recipe: A file or a mapping.
        settings: Values by dotted key, which replace those of the recipe.
        resume: Resume from the last checkpoint of the same run, which was interrupted.
        registry: Where to read and publish; by default the default registry.
        progress: Where to report progress.
    """
    with opened(registry, progress) as context:
        checked = plan(recipe, settings=settings, registry=context.registry)
        return train_plan(context, checked, resume=resume)


def run(
    recipe: RecipeLike,
    *,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    accept: bool = False,
    registry: Registry | None = None,
    progress: Progress | None = None,
) -> list[Version]:
    """Train as ``recipe`` says, then apply its ``then`` steps; what was done before with the same inputs is reused.

    ``accept`` publishes results that are further from their source than allowed; the rest is as for ``train``.
    """
    with opened(registry, progress) as context:
        checked = plan(recipe, settings=settings, registry=context.registry)
        return run_plan(context, checked, resume=resume, accept=accept)


def training_figures(ref: str, *, registry: Registry | None = None) -> TrainingFigures | None:
    """Return how the training run that made ``ref`` went; None if a training run did not make it."""
    with opened(registry, None) as context:
        version = context.registry.get(ref)
        if version.manifest.producer.type != "method":
            return None
        runs = [record for record in context.registry.evidence(ref) if record.type == "run"]
        # The same run under another name left evidence on the same digest.
        runs = [record for record in runs if record.ref == version.ref] or runs
    if not runs or "final_training_loss" not in runs[-1].body:
        return None
    body = runs[-1].body
    return TrainingFigures(
        steps=body["steps"],
        loss=body["final_training_loss"],
        validation_loss=body.get("final_validation_loss"),
        best_validation_loss=body.get("best_validation_loss"),
        best_step=body.get("best_validation_step"),
        plot=runs[-1].files.get("loss.png"),
        validation_parts={
            key.removeprefix(_FINAL): body[key]
            for key in body
            if key.startswith(_FINAL) and key != "final_validation_loss"
        },
    )


def _with_data_section(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe with ``data: faq.jsonl`` written as ``data: {path: faq.jsonl}``, so that settings can go in."""
    data = raw.get("data")
    return {**raw, "data": {"path": data}} if isinstance(data, str) else dict(raw)


def _relative_to(raw: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the recipe with the paths in it relative to the current folder."""
    raw = dict(raw)
    data = raw.get("data")
    if isinstance(data, dict):
        data = dict(data)
        if isinstance(data.get("path"), str) and Path(folder, data["path"]).exists():
            data["path"] = str(folder / data["path"])
        if isinstance(data.get("template"), str) and data["template"] != "auto":
            data["template"] = str(folder / data["template"])
        raw["data"] = data
    if "base" in raw:
        raw["base"] = _model_relative_to(raw["base"], folder)
    objective = raw.get("objective")
    if isinstance(objective, dict):
        raw["objective"] = {name: _teacher_relative_to(settings, folder) for name, settings in objective.items()}
    return raw


def _teacher_relative_to(settings: Any, folder: Path) -> Any:
    if not isinstance(settings, dict) or "teacher" not in settings:
        return settings
    return {**settings, "teacher": _model_relative_to(settings["teacher"], folder)}


def _model_relative_to(model: Any, folder: Path) -> Any:
    """Return what names a model; the folder that it names if it starts with a dot."""
    return str((folder / model).absolute()) if isinstance(model, str) and model.startswith(".") else model
