"""Training: runs a method on a base and a dataset, and publishes the result."""

from __future__ import annotations

from contextlib import ExitStack

from ftreg.context import Context
from ftreg.core.types import Splits, TrainJob, Version
from ftreg.data import read_template
from ftreg.pipeline.checks import Inputs, check_before_work, check_kind
from ftreg.pipeline.inputs import OpenedInput, open_base, open_data
from ftreg.pipeline.plan import Plan
from ftreg.pipeline.results import run_plugin
from ftreg.pipeline.resuming import run_folder
from ftreg.pipeline.runs import observed, training_config, training_parents, work_of


def train(context: Context, plan: Plan, *, resume: bool = False, reuse: bool = False) -> Version:
    """Train as ``plan`` says and publish the result.

    Args:
        context: Where to work.
        plan: A recipe that was checked by ``make_plan``.
        resume: Continue from the newest checkpoint of the same run, which must exist.
        reuse: Return the version that the same run made before, if there is one.

    Raises:
        InputError: The base or the data does not exist, or there is nothing to resume.
        FtregError: The training failed; nothing was published.
    """
    with ExitStack() as stack:
        base = open_base(context, stack, plan.recipe.base)
        check_kind(plan, base.manifest.kind)
        dataset, splits = open_data(context, stack, plan.recipe.data)
        check_before_work(context, plan, Inputs(base.manifest.kind, base.path, base.digest, dataset.digest, splits))
        return _train(context, plan, base, dataset, splits, resume=resume, reuse=reuse)


def _train(
    context: Context, plan: Plan, base: OpenedInput, dataset: OpenedInput, splits: Splits, *, resume: bool, reuse: bool
) -> Version:
    """Train on opened inputs; publish them and the result."""
    recipe, method = plan.recipe, plan.method
    work = work_of(context.host, method, training_config(plan), training_parents(base.digest, dataset.digest))
    if reuse and (known := context.registry.find_produced(work.cache_key, name=recipe.name)) is not None:
        context.progress.say(f"{known.ref} was trained by the same run before; reused")
        return known

    folder = context.registry.home / "runs" / work.cache_key
    with (
        run_folder(folder, recipe.name, resume=resume, progress=context.progress) as scratch,
        observed(context, work.run(recipe.name, recipe.tags)) as published,
        context.registry.staging() as staging,
    ):
        job = TrainJob(
            name=recipe.name,
            base=base.path,
            data=splits,
            config=plan.method_config,
            train=recipe.train,
            staging=staging.files,
            report=staging.report,
            scratch=scratch,
            template=read_template(recipe.data.template),
            resume=resume,
            progress=context.progress,
        )
        artifact = run_plugin(context.host, method, job)
        draft = work.draft(artifact, staging)
        base.publish(context)
        dataset.publish(context)
        version = context.registry.publish(recipe.name, draft, tags=recipe.tags)
        published.append(version)
    return version
