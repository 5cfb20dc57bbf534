"""Planning: from what is asked for to a deployment whose versions exist, are whole, and can be served."""

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
from ftreg.core.types import DATASET, Source
from ftreg.pipeline.engines import find_engine, require_runtime
from ftreg.serving import weights
from ftreg.serving.deployment import Deployment, Limits, Variant


class Request(Config):
    """What ``ftreg deploy`` is asked for: a deployment.yaml, flags, or both.

    Weights are relative to one another and need not add up to anything.
    """

    name: str = Field(description="by which clients ask for a model, and the package's name")
    variants: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        default_factory=dict, description="weights by reference; the first is the control, the others challenge it"
    )
    shadows: tuple[str, ...] = Field((), description="versions that get every prompt too, and are never heard")
    experiment: str | None = Field(None, description="its name; by default the deployment's")
    salt: str | None = Field(None, description="another one deals the users anew; by default it follows the versions")
    key_header: str = Field("X-User-ID", pattern=r"^[A-Za-z0-9-]+$", description="header that names the user")
    alias: str = Field("champion", description="alias in the registry that the experiment decides about")
    engine: str | None = Field(None, description="engine to run the versions with; by default the first that can")
    gpus: int = Field(0, ge=0, description="GPUs that the package asks for")
    limits: Limits = Limits()


def read_request(path: Path) -> dict[str, Any]:
    """Read a deployment.yaml; raise ``RecipeError`` for a file that is none."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot be read: {error}", where=str(path)) from None
    except yaml.YAMLError as error:
        raise RecipeError(f"is no YAML: {' '.join(str(error).split())}", where=str(path)) from None
    if not isinstance(raw, dict):
        raise RecipeError("is no mapping", where=str(path), hint="It starts with `name: support-bot`.")
    return raw


def plan(context: Context, raw: Mapping[str, Any], *, where: str = "deployment") -> tuple[Deployment, list[Source]]:
    """Check a request and pin what it names; return the deployment and its versions, opened, in their order.

    Raises:
        RecipeError: A key or value of the request cannot be used.
        UnknownName: A version, or the engine, is not there.
        InputError: A version cannot be served, or is named twice.
        CorruptRegistry: A version is damaged.
    """
    request = validate(Request, raw, where=where)
    check_name(request.name, where=f"{where}.name")
    if not request.variants:
        raise InputError(
            "no variant is given",
            where=where,
            hint=f"ftreg deploy {request.name} --variant REF=WEIGHT --variant REF=WEIGHT",
        )
    for ref in (*request.variants, *request.shadows):
        context.registry.check_deployment(ref, request.name)
    variants = [_variant(context, ref, weight, request.engine) for ref, weight in request.variants.items()]
    shadows = [_variant(context, ref, 0.0, request.engine) for ref in request.shadows]
    deployed = [*variants, *shadows]
    _refuse_twice([variant.ref for variant, _ in deployed], where)
    _check_bytes([source for _, source in deployed])
    salt = request.salt
    if salt is None:
        salt = blake3(canonical_json([variant.digest for variant, _ in variants])).hexdigest()[:16]
    raw_deployment = {
        "name": request.name,
        "experiment": request.experiment or request.name,
        "salt": salt,
        "variants": tuple(variant for variant, _ in variants),
        "shadows": tuple(variant for variant, _ in shadows),
        "key_header": request.key_header,
        "alias": request.alias,
        "gpus": request.gpus,
        "limits": request.limits,
    }
    return validate(Deployment, raw_deployment, where=where), [source for _, source in deployed]


def _variant(context: Context, ref: str, weight: float, engine: str | None) -> tuple[Variant, Source]:
    """Pin one version: it exists, and an engine that is installed can serve it."""
    version = context.registry.get(ref)
    if version.kind == DATASET:
        raise InputError(f"{version.ref} is a dataset, not a model", hint="See: ftreg models list")
    source = context.registry.source(version.digest)
    spec = _engine(context, source, engine)
    return Variant(
        ref=version.ref, digest=version.digest, weight=weight, engine=spec.name, serve=spec.serve or ""
    ), source


def _engine(context: Context, source: Source, name: str | None) -> EngineSpec:
    """The engine that serves ``source``, installed; raise ``InputError`` where there is none."""
    if name is not None:
        spec = find_engine(context.host, source.kind, name)
        if spec.serve is None:
            raise InputError(f"engine {name} evaluates, but does not serve", where="engine")
    else:
        found = [
            spec for spec in context.host.specs(EngineSpec) if source.kind in spec.kinds and spec.serve is not None
        ]
        if not found:
            raise InputError(
                f"no engine can serve {source.ref}, which is of kind {source.kind}", hint="See: ftreg plugins list"
            )
        spec = found[0]
    context.host.require(spec)
    require_runtime(source)
    return spec


def _check_bytes(sources: Iterable[Source]) -> None:
    """Hash all that would be packaged, each version once; raise ``CorruptRegistry`` for what is not as it was."""
    for needed in {needed.digest: needed for source in sources for needed in weights.needed(source)}.values():
        weights.check_files(needed.path, needed.manifest)


def _refuse_twice(refs: list[str], where: str) -> None:
    """Raise ``InputError`` for a version that is there twice, perhaps under two names of it."""
    for ref in refs:
        if refs.count(ref) > 1:
            raise InputError(f"{ref} is there twice", where=where, hint="Name it once, as a variant or as a shadow.")
