"""Recorded work: opens what made a version, from its manifest alone, so that it can be done again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import TypeVar

from ftreg.context import Context
from ftreg.core.errors import FtregError, InputError, UnknownName
from ftreg.core.manifest import Json, Parent
from ftreg.core.recipe import ObjectiveConfig, TrainConfig, validate
from ftreg.core.specs import MethodSpec, StepSpec
from ftreg.core.types import Source, Version
from ftreg.data import read_dataset
from ftreg.pipeline.runs import Task, environment_of, step_config, training_config, work_of
from ftreg.pipeline.scratch import REQUIRES, open_creation
from ftreg.pipeline.steps import StepRun, data_of, open_inputs, step_parents
from ftreg.pipeline.training import Training

SpecT = TypeVar("SpecT", MethodSpec, StepSpec)


def open_recorded(context: Context, version: Version) -> Task:
    """Open the work that made ``version``: its inputs by digest, its configuration and its seed, with today's packages.

    Raises:
        InputError: It was imported, or its plugin is not installed, or does not know the recorded configuration.
        FtregError: What it was made from is missing or damaged.
    """
    match version.manifest.producer.type:
        case "method":
            return _training(context, version)
        case "step":
            return _step(context, version)
        case "init":
            return _creation(context, version)
        case "import":
            raise InputError(
                f"{version.ref} was imported, so there is nothing to run again: {_origin(context, version)}",
                hint="Name a version that was trained, or made by a step.",
            )
        case other:
            name = version.manifest.producer.name
            raise InputError(f"{version.ref} was made by {other} {name}, which ftreg cannot run")


@dataclass(frozen=True)
class Installed:
    """What would do the work of a version now.

    Attributes:
        distribution: The distribution of the plugin.
        version: Its version.
        environment: The versions of the packages that the work depends on, as in a manifest.
    """

    distribution: str
    version: str
    environment: Mapping[str, str | None]


def find_installed(context: Context, version: Version) -> Installed | None:
    """Return what would do the work of ``version`` now; None if it was imported, or nothing here can do it."""
    producer = version.manifest.producer
    if producer.type == "init":
        return Installed("ftreg", metadata.version("ftreg"), environment_of(REQUIRES))
    kinds: Mapping[str, type[MethodSpec] | type[StepSpec]] = {"method": MethodSpec, "step": StepSpec}
    try:
        spec = context.host.get(kinds[producer.type], producer.name)
        config = context.host.configure(spec, producer.config[spec.name], where=f"configuration of {version.ref}")
    except (KeyError, FtregError):
        return None
    plugin = context.host.provider(spec)
    return Installed(plugin.distribution, plugin.version, environment_of(context.host.requirements(spec, config)))


def _training(context: Context, version: Version) -> Training:
    manifest = version.manifest
    recorded = manifest.producer.config
    spec = _find(context, MethodSpec, version)
    base, dataset = _parent(context, version, "base"), _parent(context, version, "dataset")
    where = f"configuration of {version.ref}"
    config = context.host.configure(spec, recorded[spec.name], where=f"{where}: {spec.name}")
    train = validate(TrainConfig, recorded["train"], where=f"{where}: train")
    template = _template(context, version)
    objective, models = _objective(context, version)
    full = training_config(spec, config, train, template, objective)
    return Training(
        work=work_of(context.host, spec, config, full, manifest.parents),
        spec=spec,
        name=version.name,
        base=base.path,
        data=read_dataset(dataset.path),
        config=config,
        train=train,
        template=template,
        objective=objective,
        models=models,
    )


def _objective(context: Context, version: Version) -> tuple[ObjectiveConfig | None, dict[str, Source]]:
    """Return what the training of a version minimized, None for the loss on the labels, and the models it needs."""
    recorded = version.manifest.producer.config.get("objective")
    if recorded is None:
        return None, {}
    teacher = _parent(context, version, "teacher")
    settings = {"distillation": {**recorded["distillation"], "teacher": teacher.digest}}
    where = f"configuration of {version.ref}: objective"
    return validate(ObjectiveConfig, settings, where=where), {"teacher": teacher}


def template_file(version: Version) -> str | None:
    """Return the path, in the version, of the chat template that its training was given; None for ``auto``.

    Raises:
        InputError: None of its files is that template.
    """
    recorded = version.manifest.producer.config.get("template", "auto")
    if version.manifest.producer.type != "method" or recorded == "auto":
        return None
    wanted = str(recorded).removeprefix("b3:")
    for entry in version.manifest.files:
        if entry.blake3 == wanted:
            return entry.path
    hint = "Its method did not save the template as it was given."
    raise InputError(f"the chat template that {version.ref} was trained with is not among its files", hint=hint)


def _template(context: Context, version: Version) -> str | None:
    path = template_file(version)
    return None if path is None else context.registry.read_file(version.digest, path).decode()


def _step(context: Context, version: Version) -> StepRun:
    manifest = version.manifest
    recorded: Mapping[str, Json] = manifest.producer.config
    spec = _find(context, StepSpec, version)
    inputs = [(parent, parent.weight) for parent in manifest.parents if parent.weight is not None]
    for parent, _ in inputs:
        _open(context, version, parent)
    opened = open_inputs(context, spec, [(parent.digest, weight) for parent, weight in inputs])
    config = context.host.configure(spec, recorded[spec.name], where=f"configuration of {version.ref}: {spec.name}")
    seed = recorded["seed"]
    work = work_of(context.host, spec, config, step_config(spec, config, seed), step_parents(opened))
    return StepRun(work, spec, opened, config, seed, data_of(context, opened[0].source))


def _creation(context: Context, version: Version) -> Task:
    from ftreg.training import BaseConfig

    recorded = dict(version.manifest.producer.config)
    seed = recorded.pop("seed")
    dataset = _parent(context, version, "dataset")
    config = validate(BaseConfig, recorded, where=f"configuration of {version.ref}")
    return open_creation(config, seed, dataset.digest, read_dataset(dataset.path))


def _find(context: Context, kind: type[SpecT], version: Version) -> SpecT:
    """Return the method or step that made a version; raise ``InputError`` if its plugin or a package is missing."""
    producer = version.manifest.producer
    try:
        spec = context.host.get(kind, producer.name)
    except UnknownName as error:
        package = f"{producer.distribution} {producer.version}".rstrip()
        raise InputError(
            f"{version.ref} was made by {producer.type} {producer.name} of plugin {producer.plugin} ({package}), "
            "which is not loaded",
            hint=f"Install {package}, or switch the plugin on; `registry.host.plugins` says which are loaded.",
        ) from error
    context.host.require(spec)
    return spec


def _parent(context: Context, version: Version, role: str) -> Source:
    """Open the parent of a version in ``role``."""
    for parent in version.manifest.parents:
        if parent.role == role:
            return _open(context, version, parent)
    raise InputError(f"{version.ref} does not say which {role} it was made from")


def _open(context: Context, version: Version, parent: Parent) -> Source:
    """Open an input of a version; an error says whose input it is."""
    try:
        return context.registry.source(parent.digest)
    except FtregError as error:
        error.message = f"the {parent.role} of {version.ref} cannot be used: {error.message}"
        raise


def _origin(context: Context, version: Version) -> str:
    """Say where an imported version came from, as far as its evidence says so."""
    records = [record.body for record in context.registry.evidence(version.digest) if record.type == "import"]
    if not records:
        return "nothing is recorded of its origin"
    return "it came from " + ", ".join(f"{key} {value}" for key, value in records[0].items())
