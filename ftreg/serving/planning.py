"""Planning: turns a deployment specification into a deployment whose versions exist, are intact, and can be served."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from blake3 import blake3
from pydantic import Field

from ftreg.context import Context
from ftreg.core.errors import InputError, RecipeError
from ftreg.core.manifest import canonical_json
from ftreg.core.names import check_name
from ftreg.core.recipe import Config, validate
from ftreg.core.specs import EngineSpec
from ftreg.core.text import read_text
from ftreg.core.types import DATASET, Source
from ftreg.pipeline.engines import find_engine, require_runtime
from ftreg.serving import weights
from ftreg.serving.deployment import Deployment, Limits, Variant


class DeploymentSpec(Config):
    """The specification of a deployment, from a deployment.yaml, flags, or both.

    Weights are relative to one another and need not add up to anything.
    """

    name: str = Field(description="the model name that clients use, and the package's name")
    variants: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        default_factory=dict, description="weights by reference; the first is the control, the others are challengers"
    )
    shadows: tuple[str, ...] = Field(
        (), description="shadow versions: they run on every request, and their answers are discarded"
    )
    experiment: str | None = Field(None, description="name of the experiment; by default the deployment's name")
    salt: str | None = Field(
        None,
        pattern=r"^[^\x00]*$",
        description="another salt assigns all users anew; by default it follows from the versions",
    )
    key_header: str = Field("X-User-ID", pattern=r"^[A-Za-z0-9-]+$", description="header that names the user")
    alias: str = Field("champion", description="alias in the registry that promotion and rollback move")
    engine: str | None = Field(
        None, description="engine to run the versions with; by default the first that can serve them"
    )
    gpus: int = Field(0, ge=0, description="number of GPUs that the package asks for")
    limits: Limits = Limits()


def read_spec(path: Path) -> dict[str, Any]:
    """Read a deployment.yaml; raise ``RecipeError`` if it cannot be read or is not a YAML mapping."""
    try:
        raw = yaml.safe_load(read_text(path, RecipeError))
    except yaml.YAMLError as error:
        raise RecipeError(f"is not YAML: {' '.join(str(error).split())}", where=str(path)) from None
    if not isinstance(raw, dict):
        raise RecipeError(
            "is not a mapping", where=str(path), hint="Start it with a name, such as `name: support-bot`."
        )
    return raw


def plan(context: Context, raw: Mapping[str, Any], *, where: str = "deployment") -> tuple[Deployment, list[Source]]:
    """Check a specification and resolve its references to digests.

    Args:
        context: The registry and its plugins.
        raw: The specification; see ``DeploymentSpec``.
        where: Where it comes from, for messages.

    Returns:
        The deployment, and its versions in the same order, opened.

    Raises:
        RecipeError: A key or value of the specification is invalid.
        UnknownName: A version or the engine does not exist.
        InputError: A version cannot be served, or is named twice.
        CorruptRegistry: A version is damaged.
    """
    spec = validate(DeploymentSpec, raw, where=where)
    check_name(spec.name, where=f"{where}.name")
    if not spec.variants:
        raise InputError(
            "no variant is given",
            where=where,
            hint="Give versions with their weights in `variants`.",
        )
    for ref in (*spec.variants, *spec.shadows):
        context.registry.check_deployment(ref, spec.name)
    variants = [_variant(context, ref, weight, spec.engine) for ref, weight in spec.variants.items()]
    shadows = [_variant(context, ref, 0.0, spec.engine) for ref in spec.shadows]
    deployed = [*variants, *shadows]
    _refuse_twice([variant.ref for variant, _ in deployed], where)
    _check_bytes([source for _, source in deployed])
    salt = spec.salt
    if salt is None:
        salt = blake3(canonical_json([variant.digest for variant, _ in variants])).hexdigest()[:16]
    raw_deployment = {
        "name": spec.name,
        "experiment": spec.experiment or spec.name,
        "salt": salt,
        "variants": tuple(variant for variant, _ in variants),
        "shadows": tuple(variant for variant, _ in shadows),
        "key_header": spec.key_header,
        "alias": spec.alias,
        "gpus": spec.gpus,
        "limits": spec.limits,
    }
    return validate(Deployment, raw_deployment, where=where), [source for _, source in deployed]


def _variant(context: Context, ref: str, weight: float, engine: str | None) -> tuple[Variant, Source]:
    """Resolve one version, and find an installed engine that serves it."""
    version = context.registry.get(ref)
    if version.kind == DATASET:
        raise InputError(f"{version.ref} is a dataset, not a model", hint="See `registry.list()`")
    source = context.registry.source(version.digest)
    spec = _engine(context, source, engine)
    return Variant(
        ref=version.ref, digest=version.digest, weight=weight, engine=spec.name, serve=spec.serve or ""
    ), source


def _engine(context: Context, source: Source, name: str | None) -> EngineSpec:
    """Return the installed engine that serves ``source``; raise ``InputError`` if there is none."""
    if name is not None:
        spec = find_engine(context.host, source.kind, name)
        if spec.serve is None:
            raise InputError(f"engine {name} can evaluate, but not serve", where="engine")
    else:
        found = [
            spec for spec in context.host.specs(EngineSpec) if source.kind in spec.kinds and spec.serve is not None
        ]
        if not found:
            raise InputError(
                f"no engine can serve {source.ref}, which is of kind {source.kind}", hint="See `registry.host.plugins`"
            )
        spec = found[0]
    context.host.require(spec)
    require_runtime(source)
    return spec


def _check_bytes(sources: Iterable[Source]) -> None:
    """Hash everything that would be packaged, each version once; raise ``CorruptRegistry`` if a file was changed."""
    for needed in {needed.digest: needed for source in sources for needed in weights.needed(source)}.values():
        weights.check_files(needed.path, needed.manifest)


def _refuse_twice(refs: list[str], where: str) -> None:
    """Raise ``InputError`` if a version is named twice, perhaps by different references."""
    for ref in refs:
        if refs.count(ref) > 1:
            raise InputError(f"{ref} is named twice", where=where, hint="Name it once, as a variant or as a shadow.")
