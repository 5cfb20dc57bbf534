"""Steps: transforms a version, certifies the result against it, and publishes the result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftreg.context import Context
from ftreg.core.errors import InfeasiblePlan
from ftreg.core.manifest import Manifest, Parent
from ftreg.core.specs import StepSpec
from ftreg.core.types import ADAPTER, Artifact, RunInfo, Source, Splits, StepJob, Version
from ftreg.data import read_dataset
from ftreg.pipeline.certificate import certify
from ftreg.pipeline.inputs import dataset_of
from ftreg.pipeline.plan import Product, obstacle
from ftreg.pipeline.runs import environment, full_config, observed, producer_of
from ftreg.registry import Draft, Staging, production_key


def apply_step(
    context: Context,
    spec: StepSpec,
    ref: str,
    config: Any,
    *,
    others: Sequence[tuple[str, float]] = (),
    name: str | None = None,
    accept: bool = False,
    reuse: bool = False,
    seed: int = 0,
) -> Version:
    """Apply the step ``spec`` to the version ``ref`` and publish the result.

    Args:
        context: Where to work.
        spec: The step.
        ref: What to transform.
        config: The step's validated configuration.
        others: Further versions to combine with it, with their weights.
        name: Name of the result; the source's name and the step's suffix by default.
        accept: Publish the result even if it is further from its source than allowed; the certificate says so.
        reuse: Return the version that the same step on the same inputs made before, if there is one.
        seed: Seed of everything random.

    Raises:
        InfeasiblePlan: The step cannot work on this version.
        CertificateFailed: The result is too far from its source; nothing was published.
    """
    source = context.registry.source(ref)
    version = context.registry.get(ref)
    _check_possible(spec, source)
    further = [(context.registry.source(other), weight) for other, weight in others]
    recorded = {spec.name: full_config(config), "seed": seed, "accept": accept}
    if further:
        recorded["combined"] = [{"digest": other.digest, "weight": weight} for other, weight in further]
    producer = producer_of(context.host, spec, recorded)
    parents = _parents(source, [other for other, _ in further])
    packages = environment(spec)
    key = production_key(producer, parents, packages)
    target = name or f"{version.name}-{spec.suffix or spec.name}"
    if reuse and (known := context.registry.find_produced(key, name=target)) is not None:
        context.progress.say(f"{known.ref} is the same step on the same input; reused")
        return known

    dataset = dataset_of(context, source)
    data = read_dataset(context.registry.source(dataset.digest).path) if dataset else Splits(train=())
    run = RunInfo("step", spec.name, target, {"source": source.digest}, recorded)
    with observed(context, run) as published, context.registry.staging() as staging:
        job = StepJob(
            source=source,
            config=config,
            staging=staging.files,
            report=staging.report,
            others=further,
            data=data,
            seed=seed,
            progress=context.progress,
        )
        artifact: Artifact = context.host.load(spec)(job)
        facts = {**artifact.facts, "capabilities": sorted(spec.capabilities)}
        evidence = [("run", dict(artifact.measured))]
        if artifact.tolerance is not None:
            manifest = Manifest(artifact.kind, artifact.task, (), parents, producer, packages, facts)
            result = _unpublished(context, target, staging, manifest)
            reference = source if artifact.reference == "source" else source.parent(artifact.reference)
            evidence.append(("certificate", dict(certify(context, reference, result, artifact, data, accept=accept))))
        draft = Draft(
            folder=staging.files,
            report=staging.report,
            kind=artifact.kind,
            task=artifact.task,
            parents=parents,
            producer=producer,
            environment=packages,
            facts=facts,
            evidence=evidence,
        )
        made = context.registry.publish(target, draft)
        published.append(made)
    return made


def _check_possible(spec: StepSpec, source: Source) -> None:
    """Raise ``InfeasiblePlan`` where the step cannot work on ``source``, by the record of what made it."""
    producer = source.manifest.producer
    capabilities = frozenset(source.manifest.facts.get("capabilities", ()))
    product = Product(producer.type, producer.name, source.kind, capabilities)
    reason = obstacle(spec, product)
    if reason is not None:
        raise InfeasiblePlan(reason, where=source.ref, hint=f"See: ftreg models show {source.ref}")


def _parents(source: Source, others: Sequence[Source]) -> tuple[Parent, ...]:
    """The edges from a step's result: an adapter counts with its base."""
    if source.kind != ADAPTER:
        return (Parent("source", source.digest), *(Parent("source", other.digest) for other in others))
    adapters = [Parent("adapter", adapter.digest) for adapter in (source, *others)]
    base = source.manifest.parent("base")
    return (*adapters, Parent("base", base)) if base else tuple(adapters)


def _unpublished(context: Context, name: str, staging: Staging, manifest: Manifest) -> Source:
    """What a step has just made, opened where it was made."""
    path: Path = staging.files
    return Source(name, "", path, manifest, lambda digest: context.registry.source(digest))
