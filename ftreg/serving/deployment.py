"""A deployment: which versions answer under one name, with what weights, within what limits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from blake3 import blake3
from pydantic import AfterValidator, Field, model_validator

from ftreg.core.errors import FtregError, UnknownName
from ftreg.core.manifest import canonical_json
from ftreg.core.names import check_name
from ftreg.core.recipe import Config

FILE, REQUIREMENTS = "deployment.json", "requirements.txt"
"""What a deployment's folder holds, beside its service, ftreg itself and perhaps its weights."""


RECORD = "experiment.db"
"""What its state folder holds, beside the administrator's token."""


class Limits(Config):
    """What one request, and all of them together, may take."""

    max_body_bytes: int = Field(1 << 20, gt=0, description="largest request body")
    max_prompt_tokens: int = Field(4096, gt=0, description="longest prompt; a model's context bounds it too")
    max_tokens: int = Field(1024, gt=0, description="most tokens that a request may ask for, for each answer")
    default_max_tokens: int = Field(256, gt=0, description="tokens of an answer where the request does not say")
    max_answers: int = Field(8, gt=0, description="most answers (n) of a request")
    batch: int = Field(16, gt=0, description="answers that are written at the same time, for each copy of weights")
    queue: int = Field(64, ge=0, description="answers that may wait for that; more are refused with 429")
    timeout: float = Field(
        120.0, gt=0, allow_inf_nan=False, description="seconds that a request may take, waiting included"
    )

    @model_validator(mode="after")
    def _answerable(self) -> Limits:
        if self.max_answers > self.batch + self.queue:
            raise ValueError("max_answers is more than batch and queue have room for")
        return self


class Variant(Config):
    """A version that answers a share of the requests.

    Attributes:
        ref: ``name:number``, by which clients can ask for it and by which it is shown.
        digest: Its identity; what is served.
        weight: Its share, relative to the others'; 0 keeps it loaded and without requests.
        engine: Name of the engine that runs it.
        serve: Import string of what loads it; see ``EngineSpec.serve``.
    """

    ref: str
    digest: str
    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    engine: str
    serve: str


class Deployment(Config):
    """All that a server has to know; written into the package when it is built, and never changed there.

    Attributes:
        name: By which clients ask for a model, and by which it is packaged; BentoML takes 63 characters.
        experiment: Name of the experiment; part of what a key's variant depends on.
        salt: Likewise; another salt deals the keys anew.
        variants: Who answers. The first is the control, the others challenge it.
        shadows: Who answers too, unheard.
        key_header: Header that names the user, whose requests all go to one variant.
        alias: The registry's alias that the experiment decides about.
        device: Where models run: ``auto``, ``cpu`` or ``cuda``.
        gpus: GPUs that the package asks for.
        limits: What requests may take.
    """

    name: Annotated[str, Field(max_length=63), AfterValidator(check_name)]
    experiment: Annotated[str, AfterValidator(check_name)]
    salt: str
    variants: Annotated[tuple[Variant, ...], Field(min_length=1)]
    shadows: tuple[Variant, ...] = ()
    key_header: str = "X-User-ID"
    alias: Annotated[str, AfterValidator(check_name)] = "champion"
    device: str = "auto"
    gpus: int = Field(0, ge=0)
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _consistent(self) -> Deployment:
        refs = [variant.ref for variant in self.all_variants()]
        if len(set(refs)) < len(refs):
            raise ValueError("a version may be there once, as a variant or as a shadow")
        if not any(variant.weight for variant in self.variants):
            raise ValueError("at least one variant needs a weight above 0")
        return self

    @property
    def id(self) -> str:
        """What the experiment is about: deployments of the same versions under the same salt continue one record."""
        what = [self.name, self.experiment, self.salt, *(variant.digest for variant in self.variants)]
        return blake3(canonical_json(what)).hexdigest()[:16]

    @property
    def weights(self) -> dict[str, float]:
        """The variants' weights, by ref."""
        return {variant.ref: variant.weight for variant in self.variants}

    def all_variants(self) -> Iterator[Variant]:
        """The variants, then the shadows."""
        yield from self.variants
        yield from self.shadows

    def variant(self, ref: str) -> Variant:
        """The variant or shadow of that ref; raise ``UnknownName`` where there is none."""
        for variant in self.all_variants():
            if variant.ref == ref:
                return variant
        raise UnknownName("variant", ref, [variant.ref for variant in self.all_variants()])


def read_deployment(folder: Path) -> Deployment:
    """The deployment that a folder was written for; raise ``FtregError`` for a folder of none."""
    path = folder / FILE
    try:
        return Deployment.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FtregError(f"is no deployment: {error}", where=str(path), hint="Deploy again: ftreg deploy") from error


def model_tag(digest: str) -> str:
    """The tag of a version in BentoML's model store: by digest, so that deployments share what is the same."""
    return f"ftreg:{digest.removeprefix('b3:')[:40]}"


def state_folder(name: str) -> Path:
    """Where a deployment's servers keep what must outlive them: below ``$FTREG_STATE``, else beside BentoML's stores.

    It holds ``experiment.db`` and ``admin-token``.
    """
    given = os.environ.get("FTREG_STATE")
    return Path(given) / name if given else bentoml_home() / "ftreg" / name


def bentoml_home() -> Path:
    """BentoML's folder: ``$BENTOML_HOME``, else ``~/bentoml``."""
    return Path(os.environ.get("BENTOML_HOME") or Path.home() / "bentoml").expanduser()
