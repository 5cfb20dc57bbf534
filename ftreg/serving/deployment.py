"""A deployment: the versions that are served under one name, with their weights and limits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from blake3 import blake3
from pydantic import AfterValidator, Field, model_validator

from ftreg.core.errors import FtregError, UnknownName
from ftreg.core.manifest import canonical_json
from ftreg.core.names import check_alias, check_name
from ftreg.core.recipe import Config

FILE, REQUIREMENTS = "deployment.json", "requirements.txt"
"""Files of a deployment's folder, beside its service, ftreg's own code and, for ``ftreg serve``, its weights."""

RECORD, ADMIN_TOKEN = "experiment.db", "admin-token"
"""Files of a deployment's state folder."""


class Limits(Config):
    """Limits of a request, and of all requests together."""

    max_body_bytes: int = Field(1 << 20, gt=0, description="largest request body")
    max_prompt_tokens: int = Field(4096, gt=0, description="longest prompt; the model's context is a limit too")
    max_tokens: int = Field(
        1024, gt=0, description="largest number of tokens of a completion; a request for more gets as many"
    )
    default_max_tokens: int = Field(256, gt=0, description="the same for requests that do not say")
    max_answers: int = Field(8, gt=0, description="largest number of completions of a request: prompts times n")
    batch: int = Field(16, gt=0, description="completions that are decoded together, for each copy of the weights")
    queue: int = Field(
        64, ge=0, description="completions that may wait for a place in the batch; more are refused with 429"
    )
    timeout: float = Field(
        120.0, gt=0, allow_inf_nan=False, description="seconds that a request may take, including the time in the queue"
    )

    @model_validator(mode="after")
    def _answerable(self) -> Limits:
        if self.max_answers > self.batch + self.queue:
            raise ValueError("max_answers must be at most batch + queue")
        return self


class Variant(Config):
    """A version that is served.

    Attributes:
        ref: ``name:number``, the name that clients and reports use.
        digest: Its digest, which decides what is served.
        weight: Its share of the requests, relative to the others'; 0 keeps it loaded without requests.
        engine: Name of the engine that runs it.
        serve: Import string of the function that loads it; see ``EngineSpec.serve``.
    """

    ref: str
    digest: str
    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    engine: str
    serve: str


class Deployment(Config):
    """The configuration of a server; written into the package when it is built, and never changed there.

    Attributes:
        name: The model name that clients use, and the package's name; BentoML allows 63 characters.
        experiment: Name of the experiment; it enters the hash that assigns users to variants.
        salt: Enters the same hash; another salt assigns all users anew.
        variants: The versions that answer. The first is the control, the others are challengers.
        shadows: Shadow versions: they run on every request, and their answers are discarded.
        key_header: Header that names the user; all requests of one user go to one variant.
        alias: The registry's alias that promotion and rollback move.
        device: Where models run: ``auto``, ``cpu`` or ``cuda``.
        gpus: Number of GPUs that the package asks for.
        limits: Limits of requests.
    """

    name: Annotated[str, Field(max_length=63), AfterValidator(check_name)]
    experiment: Annotated[str, AfterValidator(check_name)]
    salt: str
    variants: Annotated[tuple[Variant, ...], Field(min_length=1)]
    shadows: tuple[Variant, ...] = ()
    key_header: str = "X-User-ID"
    alias: Annotated[str, AfterValidator(check_alias)] = "champion"
    device: str = "auto"
    gpus: int = Field(0, ge=0)
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _consistent(self) -> Deployment:
        refs = [variant.ref for variant in self.all_variants()]
        if len(set(refs)) < len(refs):
            raise ValueError("each version may appear once, as a variant or as a shadow")
        if not any(variant.weight for variant in self.variants):
            raise ValueError("at least one variant needs a weight above 0")
        return self

    @property
    def id(self) -> str:
        """Id of the experiment: deployments with equal name, experiment, salt and versions continue the same one."""
        what = [self.name, self.experiment, self.salt, *(variant.digest for variant in self.variants)]
        return blake3(canonical_json(what)).hexdigest()[:16]

    @property
    def weights(self) -> dict[str, float]:
        """The variants' weights, by reference."""
        return {variant.ref: variant.weight for variant in self.variants}

    def all_variants(self) -> Iterator[Variant]:
        """Yield the variants, then the shadows."""
        yield from self.variants
        yield from self.shadows

    def variant(self, ref: str) -> Variant:
        """Return the variant or shadow called ``ref``; raise ``UnknownName`` if there is none."""
        for variant in self.all_variants():
            if variant.ref == ref:
                return variant
        raise UnknownName("variant", ref, [variant.ref for variant in self.all_variants()])


def read_deployment(folder: Path) -> Deployment:
    """Read the deployment of a folder; raise ``FtregError`` if the folder has none."""
    path = folder / FILE
    try:
        return Deployment.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FtregError(f"is not a deployment: {error}", where=str(path), hint="Deploy the versions again.") from error


def model_tag(digest: str) -> str:
    """Return the tag of a version in BentoML's model store: its digest, so that deployments share versions."""
    return f"ftreg:{digest.removeprefix('b3:')[:40]}"


def state_folder(name: str) -> Path:
    """Return the folder for what must outlive a deployment's servers: ``experiment.db`` and ``admin-token``.

    It is below ``$FTREG_STATE``, else beside BentoML's stores.
    """
    given = os.environ.get("FTREG_STATE")
    return Path(given) / name if given else bentoml_home() / "ftreg" / name


def bentoml_home() -> Path:
    """Return BentoML's folder: ``$BENTOML_HOME``, else ``~/bentoml``."""
    return Path(os.environ.get("BENTOML_HOME") or Path.home() / "bentoml").expanduser()
