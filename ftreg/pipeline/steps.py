"""Steps: applies a step to versions, certifies the result against the first, and publishes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel

from ftreg.context import Context
from ftreg.core.capabilities import MERGEABLE
from ftreg.core.errors import InfeasiblePlan
from ftreg.core.manifest import Manifest, Parent
from ftreg.core.specs import StepSpec
from ftreg.core.types import ADAPTER, CHECKPOINT, Artifact, Input, Source, Splits, StepJob, Version
from ftreg.data import read_dataset
from ftreg.pipeline.certificate import certify
from ftreg.pipeline.inputs import dataset_of
from ftreg.pipeline.plan import Product, check_combines, obstacle, result_name
from ftreg.pipeline.results import run_plugin
from ftreg.pipeline.runs import Work, observed, step_config, work_of
from ftreg.registry import Staging


@dataclass(frozen=True)
class StepRun:
    """A run of a step whose inputs are open.

    Attributes:
        work: What is recorded about it.
        spec: The step.
        inputs: The versions to work on, in order.
        config: The step's configuration.
        seed: Seed of everything random.
        data: The dataset in the lineage of the first input; empty if there is none.
    """

    work: Work
    spec: StepSpec
    inputs: tuple[Input, ...]
    config: BaseModel
    seed: int
    data: Splits

    def run(self, context: Context, staging: Staging) -> Artifact:
        """Apply the step, write the result into ``staging.files``, and describe it."""
        job = StepJob(
            inputs=self.inputs,
            config=self.config,
            staging=staging.files,
            report=staging.report,
            data=self.data,
            seed=self.seed,
            progress=context.progress,
        )
        return run_plugin(context.host, self.spec, job)


def apply_step(
    context: Context,
    spec: StepSpec,
    inputs: Sequence[tuple[str, float]],
    config: BaseModel,
    *,
    name: str | None = None,
    accept: bool = False,
    reuse: bool = False,
    seed: int = 0,
) -> Version:
    """Apply the step ``spec`` to versions and publish the result.

    Args:
        context: Where to work.
        spec: The step.
        inputs: References with their weights: what to transform, then what to combine with it.
        config: The step's validated configuration.
        name: Name of the result; by default the first input's name and the step's suffix.
        accept: Publish the result even if it is outside the tolerance; the certificate says so.
        reuse: Return the version that the same step made from the same inputs before, if there is one.
        seed: Seed of everything random.

    Raises:
        InfeasiblePlan: The step cannot work on these versions.
        CertificateFailed: The result is too far from its source; nothing was published.
        PluginError: The step broke its contract; nothing was published.
    """
    check_combines(spec, inputs[0][1], len(inputs) - 1, where=spec.name)
    opened = open_inputs(context, spec, inputs)
    source = opened[0].source
    work = work_of(context.host, spec, config, step_config(spec, config, seed), step_parents(opened))
    target = name or result_name(context.registry.get(inputs[0][0]).name, spec)
    context.registry.check_gates("ftreg_check_version")
    context.registry.check_run(work.run(target))
    if source.kind == CHECKPOINT:
        context.host.check_model(spec, source.path, config, where=source.ref)
    if reuse:
        known = context.registry.find_produced(work.cache_key, name=target)
        if known is not None and (accept or not _was_accepted(context, known)):
            context.progress.say(f"{known.ref} was made by the same step from the same input; reused")
            return known

    step = StepRun(work, spec, opened, config, seed, data_of(context, source))
    with observed(context, work.run(target)) as published, context.registry.staging() as staging:
        artifact = step.run(context, staging)
        evidence = []
        if artifact.tolerance is not None:
            manifest = Manifest(
                artifact.kind, artifact.task, (), work.parents, work.producer, work.environment, facts=artifact.facts
            )
            result = Source(target, "", staging.files, manifest, context.registry.source)
            evidence.append(("certificate", certify(context, source, result, artifact, step.data, accept=accept)))
        made = context.registry.publish(target, work.draft(artifact, staging, *evidence))
        published.append(made)
    return made


def open_inputs(context: Context, spec: StepSpec, inputs: Sequence[tuple[str, float]]) -> tuple[Input, ...]:
    """Open the inputs of a step; raise ``InfeasiblePlan`` if the step cannot work on one of them."""
    opened: list[Input] = []
    for position, (ref, weight) in enumerate(inputs):
        source = context.registry.source(ref)
        _check_possible(spec, source)
        role = "adapter" if source.kind == ADAPTER else "source"
        opened.append(Input((spec.combines or role) if position else role, source, weight))
    return tuple(opened)


def data_of(context: Context, source: Source) -> Splits:
    """Return the dataset in the lineage of ``source``; empty if there is none."""
    dataset = dataset_of(context, source)
    return read_dataset(context.registry.source(dataset.digest).path) if dataset else Splits(train=())


def _check_possible(spec: StepSpec, source: Source) -> None:
    """Raise ``InfeasiblePlan`` if the step cannot work on ``source``, judged by its manifest."""
    manifest = source.manifest
    capabilities = frozenset(manifest.capabilities)
    made = Product(
        manifest.producer.type,
        manifest.producer.name,
        source.kind,
        capabilities,
        exists=True,
        precision=str(manifest.facts.get("scheme", "quantized")),
    )
    reason = obstacle(spec, made)
    if reason is None:
        return
    merge_first = source.kind == ADAPTER and CHECKPOINT in spec.accepts and MERGEABLE in capabilities
    merge = f"Merge it first: `ftreg.merge({source.ref!r})`; or add `merge=True` to do both."
    hint = merge if merge_first else f"See `registry.get({source.ref!r})`"
    raise InfeasiblePlan(reason, where=source.ref, hint=hint)


def step_parents(inputs: Sequence[Input]) -> tuple[Parent, ...]:
    """Return the parents of a step's result: its inputs in order, and the base of an adapter."""
    parents = [Parent(each.role, each.source.digest, each.weight) for each in inputs]
    first = inputs[0].source
    base = first.manifest.parent("base") if first.kind == ADAPTER else None
    return (*parents, Parent("base", base)) if base else tuple(parents)


def _was_accepted(context: Context, version: Version) -> bool:
    """Return True if a version was published although it is outside its tolerance."""
    certificates = [record for record in context.registry.evidence(version.digest) if record.type == "certificate"]
    return any(record.body["accepted"] for record in certificates)
