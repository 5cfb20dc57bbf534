"""Recipes: trains and applies the steps that follow; results of the same work on the same inputs are reused."""

from __future__ import annotations

from ftreg.context import Context
from ftreg.core.types import Version
from ftreg.pipeline.plan import Plan
from ftreg.pipeline.steps import apply_step
from ftreg.pipeline.training import train


def run_plan(context: Context, plan: Plan, *, resume: bool = False, accept: bool = False) -> list[Version]:
    """Run all of ``plan`` and return the versions, the trained one first.

    Each version is published as soon as it is made, so a later failure loses nothing, and the next run reuses it.
    """
    versions = [train(context, plan, resume=resume, reuse=not resume)]
    for step, name in zip(plan.steps, plan.names[1:], strict=True):
        inputs = [(versions[step.source + 1].digest, step.weight), *step.others]
        seed = plan.recipe.train.seed
        versions.append(
            apply_step(context, step.spec, inputs, step.config, name=name, accept=accept, reuse=True, seed=seed)
        )
    return versions
