"""Preview: describes what a plan would do, after checking its inputs, without registering anything."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ftreg.context import Context
from ftreg.core.manifest import Json
from ftreg.core.recipe import TrainConfig
from ftreg.core.types import CHECKPOINT, Splits
from ftreg.models.files import weight_bytes
from ftreg.pipeline.checks import Inputs, check_before_work
from ftreg.pipeline.inputs import check_model_folder, is_path, is_uri, open_data
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
    base = _base(context, recipe.base)
    with ExitStack() as stack:
        dataset, splits = open_data(context, stack, recipe.data)
        known = Inputs(base.kind, base.folder, base.digest, dataset.digest, splits, new=base.new)
        check_before_work(context, plan, known, dry_run=True)
    return {
        "name": recipe.name,
        "base": base.shown,
        "data": {
            "path": recipe.data.path,
            "digest": dataset.digest[:15],
            "train": len(splits.train),
            "validation": len(splits.validation),
            "test": len(splits.test),
        },
        "method": plan.method.name,
        plan.method.name: full_config(plan.method_config),
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


@dataclass(frozen=True)
class _Base:
    """What is known of a base without importing it.

    Attributes:
        shown: Its name for people.
        kind: What its files are.
        folder: The folder of its files; None if it is not fetched yet.
        digest: Its digest; None if it is not in the registry yet.
        new: Bytes that will be imported into the registry.
    """

    shown: str
    kind: str
    folder: Path | None
    digest: str | None = None
    new: int = 0


def _base(context: Context, base: str) -> _Base:
    """Look at a base without importing it; raise what opening it would raise."""
    if is_path(base):
        from ftreg.models.facts import describe

        folder = Path(base).expanduser()
        check_model_folder(folder, "base")
        describe(folder)
        return _Base(base, CHECKPOINT, folder, new=weight_bytes(folder))
    if is_uri(base):
        found = context.host.find_base(base)
        if found is None:
            return _Base(f"{base} (not looked at)", CHECKPOINT, None)
        if found.folder is None:
            return _Base(f"{base} (not fetched: {found.size / 1e9:.2g} GB)", CHECKPOINT, None, new=found.size)
        check_model_folder(found.folder, "base")
        return _Base(f"{base} (fetched)", CHECKPOINT, found.folder, new=weight_bytes(found.folder))
    source = context.registry.source(base)
    return _Base(f"{source.ref} {source.digest[:15]}", source.kind, source.path, source.digest)
