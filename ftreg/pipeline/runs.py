"""Runs: what a version records about the run that made it, and the calls to observers."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from blake3 import blake3
from pydantic import BaseModel

from ftreg.context import Context
from ftreg.core.faults import fault_of
from ftreg.core.host import PluginHost
from ftreg.core.manifest import Json, Parent, Producer
from ftreg.core.recipe import ObjectiveConfig, TrainConfig
from ftreg.core.requirements import Requirement, installed_versions
from ftreg.core.specs import MethodSpec, StepSpec
from ftreg.core.types import Artifact, RunInfo, Splits, Version
from ftreg.pipeline.machine import describe_machine
from ftreg.registry import Draft, Staging, cache_key


@dataclass(frozen=True)
class Work:
    """What is recorded about a run before its result exists.

    Attributes:
        producer: The method or step, its plugin, and its full configuration.
        parents: What it works on.
        environment: Versions of Python and of the distributions that the producer requires; they may affect the result.
    """

    producer: Producer
    parents: tuple[Parent, ...]
    environment: Mapping[str, str | None]

    @property
    def cache_key(self) -> str:
        """The key that the same work on the same inputs has."""
        return cache_key(self.producer, self.parents, self.environment)

    def run(self, target: str, tags: Mapping[str, str] | None = None) -> RunInfo:
        """Describe the run that makes a version of ``target``, for gates and observers."""
        producer = self.producer
        return RunInfo(producer.type, producer.name, target, self.parents, producer.config, tags or {})

    def draft(self, artifact: Artifact, staging: Staging, *evidence: tuple[str, Mapping[str, Json]]) -> Draft:
        """Describe the version that the work has written into ``staging``, with evidence of its run."""
        return Draft(
            folder=staging.files,
            report=staging.report,
            kind=artifact.kind,
            task=artifact.task,
            parents=self.parents,
            producer=self.producer,
            environment=self.environment,
            requires=artifact.requires,
            capabilities=artifact.capabilities or (),
            facts=artifact.facts,
            evidence=[("run", {**artifact.measured, "machine": describe_machine()}), *evidence],
        )


class Task(Protocol):
    """A run whose inputs are open: what is recorded about it, and how it is done."""

    @property
    def work(self) -> Work:
        """What is recorded about it."""

    @property
    def data(self) -> Splits:
        """The dataset that it trains on, or that is in the lineage of its source; may be empty."""

    def run(self, context: Context, staging: Staging) -> Artifact:
        """Do the work, write the result into ``staging.files``, and describe it."""


def work_of(
    host: PluginHost,
    spec: MethodSpec | StepSpec,
    config: BaseModel,
    recorded: Mapping[str, Json],
    parents: tuple[Parent, ...],
) -> Work:
    """Describe the work of ``spec`` on ``parents``.

    Args:
        host: The plugins.
        spec: The method or step.
        config: Its own configuration.
        recorded: The full configuration.
        parents: What the result is made from.
    """
    plugin = host.provider(spec)
    producer = Producer(spec.what, spec.name, plugin.name, plugin.distribution, plugin.version, recorded)
    return Work(producer, parents, environment_of(host.requirements(spec, config)))


def environment_of(requires: Iterable[Requirement]) -> dict[str, str | None]:
    """Return the versions of Python and of the distributions ``requires``; None for one that is not installed."""
    return {"python": platform.python_version(), **installed_versions(requires)}


def training_config(
    spec: MethodSpec,
    config: BaseModel,
    train: TrainConfig,
    template: str | None,
    objective: ObjectiveConfig | None,
) -> dict[str, Json]:
    """Return the full configuration of a training.

    Args:
        spec: The method.
        config: Its configuration.
        train: The trainer's configuration.
        template: Source of the chat template.
        objective: What is minimized; None for the loss on the labels, which is not recorded.
    """
    return {
        spec.name: full_config(config),
        "train": full_config(train),
        # The template is stored as a file of the version; here its hash is enough to tell templates apart.
        "template": "auto" if template is None else f"b3:{blake3(template.encode()).hexdigest()}",
        **({"objective": {objective.name: objective.settings()}} if objective else {}),
    }


def training_parents(base: str | None, models: Mapping[str, str | None], dataset: str) -> tuple[Parent, ...]:
    """Return the parents of a training's result by their digests, without those that are not known.

    Args:
        base: The base.
        models: The models of the objective, by role.
        dataset: The dataset.
    """
    digests = {"base": base, **models, "dataset": dataset}
    return tuple(Parent(role, digest) for role, digest in digests.items() if digest is not None)


def step_config(spec: StepSpec, config: BaseModel, seed: int) -> dict[str, Json]:
    """Return the full configuration of a step."""
    return {spec.name: full_config(config), "seed": seed}


def full_config(config: BaseModel) -> dict[str, Json]:
    """Return a validated configuration as JSON, defaults included, so that the run can be repeated."""
    return config.model_dump(mode="json", by_alias=True)


@contextmanager
def observed(context: Context, run: RunInfo) -> Iterator[list[Version]]:
    """Tell observers that ``run`` starts and how it ends; the body appends the published version to the list.

    A fault of the machine, such as a full disk, is raised as an ftreg error that says what to do.
    """
    context.host.notify("ftreg_run_started", run=run)
    published: list[Version] = []
    try:
        yield published
    except BaseException as error:
        fault = fault_of(error, context.registry.home)
        context.host.notify("ftreg_run_failed", run=run, error=fault or error)
        if fault is not None:
            raise fault from error
        raise
    for version in published:
        context.host.notify("ftreg_run_finished", run=run, version=version)
