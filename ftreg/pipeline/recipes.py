"""Recipes: trains, then applies the steps that follow; what was done before with the same inputs is reused."""

from __future__ import annotations

from ftreg.context import Context
from ftreg.core.types import Version
from ftreg.pipeline.plan import Plan
from ftreg.pipeline.steps import apply_step
from ftreg.pipeline.training import train


def run_plan(context: Context, plan: Plan, *, resume: bool = False, accept: bool = False) -> list[Version]:
    """Run the whole of ``plan`` and return the versions, the trained one first.

    Each version is durable as soon as it is made: a later failure loses nothing, and running again goes on from there.
    """
    versions = [train(context, plan, resume=resume, reuse=not resume)]
    for step in plan.steps:
        inputs = [(versions[step.source + 1].digest, step.weight), *step.others]
        seed = plan.recipe.train.seed
        versions.append(
            apply_step(context, step.spec, inputs, step.config, name=step.name, accept=accept, reuse=True, seed=seed)
        )
    return versions
