"""Training: runs a method on a base and a dataset, and publishes the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel

from ftreg.context import Context
from ftreg.core.recipe import ObjectiveConfig, TrainConfig
from ftreg.core.specs import MethodSpec
from ftreg.core.types import Artifact, Source, Splits, TrainJob, Version
from ftreg.data import read_template
from ftreg.pipeline.checks import Inputs, check_before_work, check_kind
from ftreg.pipeline.inputs import KnownModel, OpenedInput, open_base, open_data, open_models
from ftreg.pipeline.plan import Plan
from ftreg.pipeline.results import run_plugin
from ftreg.pipeline.resuming import run_folder
from ftreg.pipeline.runs import Work, observed, training_config, training_parents, work_of
from ftreg.registry import Staging


@dataclass(frozen=True)
class Training:
    """A training whose inputs are open.

    Attributes:
        work: What is recorded about it.
        spec: The method.
        name: The name of the result.
        base: The folder of the base.
        data: The examples, split.
        config: The method's configuration.
        train: The trainer's configuration.
        template: Jinja source of the chat template; None for the tokenizer's own.
        objective: What to minimize; None for the loss on the labels.
        models: The models of the objective, by role.
    """

    work: Work
    spec: MethodSpec
    name: str
    base: Path
    data: Splits
    config: BaseModel
    train: TrainConfig
    template: str | None = None
    objective: ObjectiveConfig | None = None
    models: Mapping[str, Source] = field(default_factory=dict)

    def run(self, context: Context, staging: Staging, *, scratch: Path | None = None, resume: bool = False) -> Artifact:
        """Train, write the result into ``staging.files``, and describe it.

        Args:
            context: Where to work.
            staging: Where to write.
            scratch: The folder for checkpoints; by default one that goes with ``staging``.
            resume: Continue from the newest checkpoint in ``scratch``.
        """
        if scratch is None:
            scratch = staging.folder / "scratch"
            scratch.mkdir()
        job = TrainJob(
            name=self.name,
            base=self.base,
            data=self.data,
            config=self.config,
            train=self.train,
            staging=staging.files,
            report=staging.report,
            scratch=scratch,
            template=self.template,
            objective=self.objective,
            models=self.models,
            resume=resume,
            progress=context.progress,
        )
        return run_plugin(context.host, self.spec, job)


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
        models = open_models(context, stack, plan.recipe.objective)
        dataset, splits = open_data(context, stack, plan.recipe.data)
        sources = {role: model.source(context) for role, model in models.items()}
        known = {role: KnownModel.of(source) for role, source in sources.items()}
        check_before_work(context, plan, Inputs(KnownModel.of(base.source(context)), known, dataset.digest, splits))
        training = _prepare(context, plan, base, sources, dataset, splits)
        return _train(context, plan, training, [base, *models.values(), dataset], resume=resume, reuse=reuse)


def _prepare(
    context: Context,
    plan: Plan,
    base: OpenedInput,
    models: Mapping[str, Source],
    dataset: OpenedInput,
    splits: Splits,
) -> Training:
    """Describe the training of ``plan`` on opened inputs."""
    recipe, method = plan.recipe, plan.method
    template = read_template(recipe.data.template)
    config = training_config(method, plan.method_config, recipe.train, template, recipe.objective)
    digests = {role: source.digest for role, source in models.items()}
    return Training(
        work=work_of(
            context.host,
            method,
            plan.method_config,
            config,
            training_parents(base.digest, digests, dataset.digest),
        ),
        spec=method,
        name=recipe.name,
        base=base.path,
        data=splits,
        config=plan.method_config,
        train=recipe.train,
        template=template,
        objective=recipe.objective,
        models=models,
    )


def _train(
    context: Context, plan: Plan, training: Training, inputs: Sequence[OpenedInput], *, resume: bool, reuse: bool
) -> Version:
    """Run a training; publish its inputs and its result."""
    recipe, work = plan.recipe, training.work
    if reuse and (known := context.registry.find_produced(work.cache_key, name=recipe.name)) is not None:
        context.progress.say(f"{known.ref} was trained by the same run before; reused")
        return known

    folder = context.registry.home / "runs" / work.cache_key
    with (
        run_folder(folder, recipe.name, resume=resume, progress=context.progress) as scratch,
        observed(context, work.run(recipe.name, recipe.tags)) as published,
        context.registry.staging() as staging,
    ):
        artifact = training.run(context, staging, scratch=scratch, resume=resume)
        draft = work.draft(artifact, staging)
        for each in inputs:
            each.publish(context)
        version = context.registry.publish(recipe.name, draft, tags=recipe.tags)
        published.append(version)
    return version
