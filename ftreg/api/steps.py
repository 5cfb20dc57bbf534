"""Steps: from a version to a new one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftreg.api.opening import opened
from ftreg.context import Context
from ftreg.core.errors import InputError
from ftreg.core.host import PluginHost
from ftreg.core.names import check_name
from ftreg.core.recipe import apply_settings
from ftreg.core.specs import StepSpec
from ftreg.core.types import ADAPTER, CHECKPOINT, Progress, Version
from ftreg.pipeline.exports import write_folder
from ftreg.pipeline.steps import apply_step
from ftreg.registry import Registry


def apply(
    step: str,
    ref: str,
    *,
    weight: float = 1.0,
    others: Mapping[str, float] | None = None,
    name: str | None = None,
    accept: bool = False,
    merge: bool = False,
    settings: Mapping[str, Any] | None = None,
    registry: Registry | None = None,
    progress: Progress | None = None,
    **config: Any,
) -> Version:
    """Apply the step called ``step`` to the version ``ref`` and register the result.

    Args:
        step: A built-in step or a plugin's.
        ref: What to transform.
        weight: Weight of ``ref`` among the inputs, for a step that combines versions.
        others: Further versions to combine with ``ref``, with their weights.
        name: Name of the result; by default the source's and the step's.
        accept: Publish the result even if it is further from its source than allowed; the certificate says so.
        merge: If ``ref`` is an adapter and the step works on checkpoints, merge it first.
        settings: The step's configuration by dotted key, for keys that are not Python names.
        registry: Where to read and publish; by default the default registry.
        progress: Where to report progress.
        **config: The step's configuration.

    Raises:
        InputError: The step, its configuration or the version does not exist or cannot be used.
        InfeasiblePlan: The step cannot work on this version.
        CertificateFailed: The result is too far from its source; nothing was published.
    """
    with opened(registry, progress) as context:
        spec = context.host.get(StepSpec, step, where="step")
        given = apply_settings(config, settings or {})
        if isinstance(section := given.pop(step, {}), Mapping):  # `--set prune.sparsity=0.2`, as in a recipe
            given |= section
        checked = context.host.configure(spec, given, where=step)
        if name is not None:
            check_name(name, where="name")
        if merge and ADAPTER not in spec.accepts:
            ref = _merged(context, ref)
        inputs = [(ref, weight), *(others or {}).items()]
        return apply_step(context, spec, inputs, checked, name=name, accept=accept)


def merge(ref: str, **options: Any) -> Version:
    """Merge an adapter into its base; options as for ``apply``."""
    return apply("merge", ref, **options)


def quantize(ref: str, **options: Any) -> Version:
    """Store a checkpoint's weights in fewer bits; options as for ``apply``, such as ``scheme="int8"``."""
    return apply("quantize", ref, **options)


def prune(ref: str, **options: Any) -> Version:
    """Set a checkpoint's least important weights to zero; options as for ``apply``, such as ``sparsity=0.5``."""
    return apply("prune", ref, **options)


def export(ref: str, format: str | None = None, *, to: str | Path | None = None, **options: Any) -> Version:  # noqa: A002
    """Export a checkpoint to ``format`` (``onnx`` by default), or copy a version's files to the new folder ``to``.

    With ``to`` alone, the files of ``ref`` are copied as they are; with both, the exported ones. The folder also gets
    the version's manifest (``ftreg.manifest``) and a model card (``README.md``) with what is on record: lineage,
    settings, data, evaluations, certificate, licence, hashes. Options are as for ``apply``.

    Raises:
        InputError: ``to`` exists already, or options of an export come without one.
        UnknownName: No step exports to ``format``.
    """
    if to is not None and Path(to).exists():
        raise InputError("exists already", where=f"to: {to}", hint="Name a folder that does not exist yet.")
    with opened(options.pop("registry", None), options.pop("progress", None)) as context:
        if format is not None and format not in (known := export_formats(context.host)):
            raise context.host.unknown("export format", format, known, where="format")
        if to is not None and format is None:
            _refuse_options(options)
            version = context.registry.get(_merged(context, ref) if options.get("merge") else ref)
        else:
            version = apply(format or "onnx", ref, registry=context.registry, progress=context.progress, **options)
        if to is not None:
            write_folder(context.registry, version, Path(to))
        return version


def export_formats(host: PluginHost) -> list[str]:
    """Return the formats that ``export`` can write: the steps that turn a checkpoint into files of another kind."""
    return [
        spec.name
        for spec in host.specs(StepSpec)
        if CHECKPOINT in spec.accepts and spec.produces not in (CHECKPOINT, ADAPTER)
    ]


def _refuse_options(options: Mapping[str, Any]) -> None:
    """Raise ``InputError`` for options of a step, where files are only copied."""
    for name, value in options.items():
        if value and name != "merge":
            raise InputError(
                "is for an export, and without a format the files are copied as they are",
                where=name,
                hint="Name the format with `format='onnx'`, or leave it out.",
            )


def _merged(context: Context, ref: str) -> str:
    """Return ``ref``, or the merged version if it is an adapter; a merge that was made before is reused."""
    if context.registry.source(ref).kind != ADAPTER:
        return ref
    merging = context.host.get(StepSpec, "merge")
    defaults = context.host.configure(merging, {}, where="merge")
    return apply_step(context, merging, [(ref, 1.0)], defaults, reuse=True).ref
