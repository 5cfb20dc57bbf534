"""The public functions: what the command line does, in Python.

Each takes the registry to work in; None is the default one. Each raises ``ftreg.FtregError`` with a message that says
what is wrong, where, and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftreg.context import Context
from ftreg.core.recipe import Recipe, apply_settings, parse_recipe, read_recipe
from ftreg.core.specs import StepSpec
from ftreg.core.types import NullProgress, Progress, Version
from ftreg.pipeline.evaluations import evaluate_version, held_out
from ftreg.pipeline.plan import Plan, make_plan
from ftreg.pipeline.recipes import run_plan
from ftreg.pipeline.scratch import create_base_version
from ftreg.pipeline.steps import apply_step
from ftreg.pipeline.training import train as train_plan
from ftreg.registry import Registry

if TYPE_CHECKING:
    from ftreg.evaluation import Evaluation
    from ftreg.serving.package import Package

RecipeLike = Path | str | Mapping[str, Any]


def open_context(registry: Registry | None = None, progress: Progress | None = None) -> Context:
    """The context of ``registry``; of the default one where none is given."""
    return Context(registry or Registry(), progress or NullProgress())


def load_recipe(recipe: RecipeLike, settings: Mapping[str, str] | None = None) -> Recipe:
    """Read a recipe from a file or a mapping, put ``settings`` (``{"lora.rank": "32"}``) in, and validate it.

    Paths in a recipe file are relative to the file.
    """
    if isinstance(recipe, Mapping):
        return parse_recipe(apply_settings(dict(recipe), settings or {}))
    path = Path(recipe)
    raw = read_recipe(path)
    raw = _relative_to(raw, path.parent)
    return parse_recipe(apply_settings(raw, settings or {}), where=str(path))


def plan(recipe: RecipeLike, *, registry: Registry | None = None, **settings: Any) -> Plan:
    """Check that ``recipe`` is feasible as a whole, without running anything; return what would be run."""
    return make_plan(open_context(registry).host, load_recipe(recipe, _settings(settings)))


def init(
    name: str,
    data: str | Path,
    *,
    registry: Registry | None = None,
    progress: Progress | None = None,
    seed: int = 0,
    **settings: Any,
) -> Version:
    """Create an untrained base model with a tokenizer trained on ``data``; settings are sizes such as ``layers=4``."""
    return create_base_version(open_context(registry, progress), name, Path(data), settings, seed=seed)


def train(
    recipe: RecipeLike, *, registry: Registry | None = None, progress: Progress | None = None, resume: bool = False
) -> Version:
    """Train as ``recipe`` says, without its ``then`` steps, and register the result."""
    context = open_context(registry, progress)
    return train_plan(context, make_plan(context.host, load_recipe(recipe)), resume=resume)


def run(
    recipe: RecipeLike, *, registry: Registry | None = None, progress: Progress | None = None, accept: bool = False
) -> list[Version]:
    """Train as ``recipe`` says, then apply its ``then`` steps; what was done before is reused."""
    context = open_context(registry, progress)
    return run_plan(context, make_plan(context.host, load_recipe(recipe)), accept=accept)


def apply(
    step: str,
    ref: str,
    *,
    registry: Registry | None = None,
    progress: Progress | None = None,
    weight: float = 1.0,
    others: Mapping[str, float] | None = None,
    name: str | None = None,
    accept: bool = False,
    **config: Any,
) -> Version:
    """Apply the step called ``step`` to the version ``ref`` and register the result.

    Args:
        step: The step's name.
        ref: What to transform.
        registry: The registry to work in.
        progress: Where to report progress.
        weight: Weight of ``ref`` among the inputs.
        others: Further versions to combine with it, with their weights, for a step that combines versions.
        name: Name of the result.
        accept: Publish the result even if it is further from its source than allowed.
        **config: The step's settings.
    """
    context = open_context(registry, progress)
    spec = context.host.get(StepSpec, step)
    checked = context.host.configure(spec, config, where=step)
    return apply_step(context, spec, [(ref, weight), *(others or {}).items()], checked, name=name, accept=accept)


def merge(ref: str, **options: Any) -> Version:
    """Merge an adapter into its base; options as for ``apply``."""
    return apply("merge", ref, **options)


def quantize(ref: str, **options: Any) -> Version:
    """Store a checkpoint's weights in fewer bits; options as for ``apply``, such as ``scheme="int8"``."""
    return apply("quantize", ref, **options)


def prune(ref: str, **options: Any) -> Version:
    """Set a checkpoint's least important weights to zero; options as for ``apply``, such as ``sparsity=0.5``."""
    return apply("prune", ref, **options)


def export(ref: str, to_format: str = "onnx", **options: Any) -> Version:
    """Export a checkpoint to ``to_format``; options as for ``apply``."""
    return apply(to_format, ref, **options)


def deploy(
    name: str,
    variants: Mapping[str, float],
    *,
    registry: Registry | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Package:
    """Package versions, with their weights, as the Bento ``name``; settings are those of a deployment.yaml.

    ``bentoml serve NAME:latest`` serves it.
    """
    from ftreg.serving.package import build  # what it needs comes with an extra
    from ftreg.serving.planning import plan as plan_deployment

    context = open_context(registry, progress)
    deployment, sources = plan_deployment(context, {"name": name, "variants": dict(variants), **settings})
    return build(context, deployment, sources)


def evaluate(
    ref: str, data: str | Path | None = None, *, registry: Registry | None = None, progress: Progress | None = None
) -> Evaluation:
    """Measure ``ref`` on ``data``, by default the held-out part of the dataset it was trained on."""
    context = open_context(registry, progress)
    examples = held_out(context, [ref], data=None if data is None else str(data))
    return evaluate_version(context, ref, examples)


def _settings(settings: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in settings.items()}


def _relative_to(raw: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The recipe with the paths in it made relative to the current folder."""
    raw = dict(raw)
    data = raw.get("data")
    if isinstance(data, str):
        data = {"path": data}
    if isinstance(data, dict):
        data = dict(data)
        if isinstance(data.get("path"), str) and Path(folder, data["path"]).exists():
            data["path"] = str(folder / data["path"])
        if isinstance(data.get("template"), str) and data["template"] != "auto":
            data["template"] = str(folder / data["template"])
        raw["data"] = data
    base = raw.get("base")
    if isinstance(base, str) and base.startswith("."):
        raw["base"] = str((folder / base).absolute())
    return raw
