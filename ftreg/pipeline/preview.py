"""Preview: what a plan would do, with its inputs checked and nothing registered."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ftreg.context import Context
from ftreg.core.manifest import Json
from ftreg.pipeline.inputs import check_model_folder, is_path, is_uri, open_data
from ftreg.pipeline.plan import Plan
from ftreg.pipeline.runs import full_config


def preview(context: Context, plan: Plan) -> dict[str, Json]:
    """Describe ``plan`` as facts; raise as running it would for inputs that are not there."""
    recipe = plan.recipe
    names = [recipe.name]
    steps: list[str] = []
    for step in plan.steps:
        source = names[step.source + 1]
        names.append(step.name or f"{source}-{step.spec.suffix or step.spec.name}")
        steps.append(f"{step.spec.name}: {source} -> {names[-1]} ({step.spec.produces})")
    return {
        "name": recipe.name,
        "base": _base(context, recipe.base),
        "data": _rows(context, plan),
        "method": plan.method.name,
        plan.method.name: full_config(plan.method_config),
        "train": full_config(recipe.train),
        "then": steps,
    }


def _base(context: Context, base: str) -> str:
    if is_path(base):
        check_model_folder(Path(base).expanduser(), "base")
        return base
    if is_uri(base):
        return f"{base} (not fetched)"
    version = context.registry.get(base)
    return f"{version.ref} {version.digest[:15]}"


def _rows(context: Context, plan: Plan) -> dict[str, Any]:
    with ExitStack() as stack:
        dataset, splits = open_data(context, stack, plan.recipe.data)
    return {
        "path": plan.recipe.data.path,
        "digest": dataset.digest[:15],
        "train": len(splits.train),
        "validation": len(splits.validation),
        "test": len(splits.test),
    }
