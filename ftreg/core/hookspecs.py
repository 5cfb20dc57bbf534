"""Hooks: everything that a plugin can implement.

Mark an implementation with ``hookimpl`` and name its module in the entry-point group ``ftreg``::

    from ftreg.plugin import MethodSpec, hookimpl


    @hookimpl
    def ftreg_methods():
        return [MethodSpec(name="ia3", summary="...", impl="my_package.ia3:train", produces="adapter")]

Hooks that contribute take no argument and return specs. Gates return problems: any problem, or an exception, blocks; a
gate that has guarded a registry must be loaded from then on. Observers return nothing: an exception is logged and
ignored. The order in which plugins are called is not defined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pluggy

from ftreg.core.manifest import Json
from ftreg.core.specs import CommandSpec, EngineSpec, FormatSpec, MethodSpec, MetricSpec, StepSpec
from ftreg.core.types import Problem, RemoteBase, RunInfo, Version

hookspec = pluggy.HookspecMarker("ftreg")
hookimpl = pluggy.HookimplMarker("ftreg")


@hookspec
def ftreg_methods() -> Sequence[MethodSpec]:  # type: ignore[empty-body]
    """Contribute training methods.

    Called once, when plugins are loaded. Returns the methods' specs; nothing heavy may be imported here. Since 0.1.

    Example::

        return [MethodSpec(name="ia3", summary="IA3 adapters", impl="my_package.ia3:train", produces="adapter")]
    """


@hookspec
def ftreg_steps() -> Sequence[StepSpec]:  # type: ignore[empty-body]
    """Contribute post-processing steps.

    Called once, when plugins are loaded. Returns the steps' specs; nothing heavy may be imported here. Since 0.1.

    Example::

        return [StepSpec(name="half", summary="Cast to fp16", impl="my_package.half:apply", suffix="fp16")]
    """


@hookspec
def ftreg_engines() -> Sequence[EngineSpec]:  # type: ignore[empty-body]
    """Contribute inference engines, used to evaluate, to certify and to serve.

    Called once, when plugins are loaded. Returns the engines' specs; the first engine that can load an artifact's kind,
    ftreg's own before others and then by name, is its default. Since 0.1.

    Example::

        return [EngineSpec(name="gguf", summary="llama.cpp", impl="my_package.gguf:load", kinds=("gguf",))]
    """


@hookspec
def ftreg_formats() -> Sequence[FormatSpec]:  # type: ignore[empty-body]
    """Contribute dataset row formats.

    Called once, when plugins are loaded. Returns the formats' specs. A file's format is detected with each format's
    ``matches``; if several match, the user must name one. Since 0.1.

    Example::

        return [FormatSpec(name="qa", summary="question and answer", impl="my_package.qa:QA", columns=("q", "a"))]
    """


@hookspec
def ftreg_metrics() -> Sequence[MetricSpec]:  # type: ignore[empty-body]
    """Contribute metrics that score generated answers.

    Called once, when plugins are loaded. Returns the metrics' specs; ``ftreg eval`` computes those that are named with
    ``--metric``, and those with ``default=True`` always. Since 0.1.

    Example::

        return [MetricSpec(name="meteor", summary="METEOR", impl="my_package.meteor:score")]
    """


@hookspec
def ftreg_commands() -> Sequence[CommandSpec]:  # type: ignore[empty-body]
    """Contribute commands to the ``ftreg`` command line.

    Called once, when plugins are loaded. Returns the commands' specs; ``impl`` is imported when the command is run, and
    ``summary`` is what ``ftreg --help`` shows. Since 0.1.

    Example::

        return [CommandSpec(name="publish", summary="Upload a version", impl="my_package.publish:command")]
    """


@hookspec(firstresult=True)
def ftreg_resolve_base(uri: str) -> Path | None:
    """Fetch the base model that a URI names.

    Called when a base is neither a registry reference nor a local folder, with the ``uri`` as the user typed it.
    Returns the folder of a checkpoint that transformers can load, which is then imported into the registry, or None
    if the URI is not for this plugin. The first folder counts, so use a URI scheme of your own. Since 0.1.

    Example::

        if not uri.startswith("s3://"):
            return None
        return download(uri)
    """


@hookspec(firstresult=True)
def ftreg_find_base(uri: str) -> RemoteBase | None:
    """Look at the base model that a URI names without fetching it, for ``--dry-run``.

    Called with the ``uri`` as for ``ftreg_resolve_base``. Returns what is known of the base, or None if the URI is not
    for this plugin; raises ``InputError`` if it could not be fetched. A plugin that resolves a URI need not implement
    this: a dry run says that it did not look. Since 0.1.

    Example::

        if not uri.startswith("s3://"):
            return None
        return RemoteBase(size=size_of(uri))
    """


@hookspec
def ftreg_check_run(run: RunInfo) -> Sequence[Problem]:  # type: ignore[empty-body]
    """Refuse a training run or a step before its work, which a gate for versions could refuse only afterwards.

    Called with the ``run`` before any work, and by ``--dry-run``; for a recipe, once for the training and once for each
    step, before the training starts, and again for each step before its own work. Returns problems; any of them, or an
    exception, blocks the run. Since 0.1.

    Example::

        if run.type == "method" and "owner" not in run.tags:
            return [Problem("no owner", hint="Add to the recipe: tags: {owner: your team}")]
        return []
    """


@hookspec
def ftreg_check_version(version: Version) -> Sequence[Problem]:  # type: ignore[empty-body]
    """Refuse a version before it is published.

    Called with the ``version`` as it would be published; its ``number`` is 0, since it has none yet. Returns problems;
    any of them, or an exception, blocks the publication. Since 0.1.

    Example::

        if "license" not in version.tags:
            return [Problem("no licence tag", hint="Add a tag `license`, such as apache-2.0.")]
        return []
    """


@hookspec
def ftreg_check_promotion(version: Version, alias: str, evidence: Sequence[Mapping[str, Json]]) -> Sequence[Problem]:  # type: ignore[empty-body]
    """Refuse to move an alias to a version.

    Called before ``alias`` is set on ``version``, with all the ``evidence`` that the registry holds on its digest
    (records with ``type``, ``at`` and ``body``). Returns problems; any of them, or an exception, blocks the move.
    Since 0.1.

    Example::

        if alias == "champion" and not any(record["type"] == "evaluation" for record in evidence):
            return [Problem("never evaluated", hint=f"Run `ftreg.evaluate({version.ref!r})`")]
        return []
    """


@hookspec
def ftreg_check_deployment(  # type: ignore[empty-body]
    version: Version, deployment: str, evidence: Sequence[Mapping[str, Json]]
) -> Sequence[Problem]:
    """Refuse to deploy a version.

    Called for each version that ``ftreg deploy`` will package as ``deployment``, shadows included, with all the
    ``evidence`` that the registry holds on its digest. Returns problems; any of them, or an exception, blocks the
    deployment. Since 0.1.

    Example::

        if not any(record["type"] == "certificate" for record in evidence) and "merged" in version.name:
            return [Problem("has no certificate")]
        return []
    """


@hookspec
def ftreg_run_started(run: RunInfo) -> None:
    """Observe that a training run or a step is about to start.

    Called with the ``run``, after all checks and before any work. The result is ignored. Since 0.1.

    Example::

        logger.info("%s %s started", run.type, run.name)
    """


@hookspec
def ftreg_run_finished(run: RunInfo, version: Version) -> None:
    """Observe that a run has published its ``version``.

    Called once the version is durable. The result is ignored. Since 0.1.

    Example::

        notify(f"{run.name} made {version.ref}")
    """


@hookspec
def ftreg_run_failed(run: RunInfo, error: BaseException) -> None:
    """Observe that a run failed or was interrupted; nothing was published.

    Called with the ``error`` before it is raised to the caller. The result is ignored. Since 0.1.

    Example::

        notify(f"{run.name} failed: {error}")
    """


@hookspec
def ftreg_version_created(version: Version) -> None:
    """Observe that a version has been added to the registry.

    Called once the version is durable, for imports and datasets too. The result is ignored. Since 0.1.

    Example::

        index.add(version.digest, version.ref)
    """


@hookspec
def ftreg_alias_moved(name: str, alias: str, old: str | None, new: str | None) -> None:
    """Observe that ``alias`` of model ``name`` now points to another digest.

    Called once the move is durable, with the ``old`` and the ``new`` digest; None stands for no version. The result is
    ignored. Since 0.1.

    Example::

        audit.write(f"{name}@{alias}: {old} -> {new}")
    """
