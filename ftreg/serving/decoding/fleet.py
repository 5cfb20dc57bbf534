"""The fleet: the models of a deployment, loaded in the background, each engine with the batcher that drives it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from ftreg.core.errors import FtregError
from ftreg.core.guard import describe, resolve_import
from ftreg.core.types import ServedModel, ServingEngine, Source
from ftreg.serving.decoding.batcher import Batcher, Traffic
from ftreg.serving.decoding.codec import Codec
from ftreg.serving.deployment import Deployment

logger = logging.getLogger("ftreg.serving")

_Key = tuple[str, str]  # what loads a version, and its digest


class Fleet:
    """The models of a deployment.

    Args:
        deployment: Which they are.
        open_source: Opens the version of a digest, and checks its bytes.
    """

    def __init__(self, deployment: Deployment, open_source: Callable[[str], Source]) -> None:
        self._loaded = False
        self._error: str | None = None
        self._deployment = deployment
        self._open_source = open_source
        self._keys: dict[str, _Key] = {v.ref: (v.serve, v.digest) for v in deployment.all_variants()}
        self._sources: dict[str, Source] = {}
        self._models: dict[_Key, ServedModel] = {}
        self._codecs: dict[_Key, Codec] = {}
        self._batchers: dict[_Key, Batcher] = {}
        self._traffic = Traffic()
        self._lock = threading.Lock()
        self._closing = False

    @property
    def ready(self) -> bool:
        """Whether all models are loaded, and answer."""
        return self._loaded and self.error is None

    @property
    def error(self) -> str | None:
        """Why they do not, and will not: loading failed, or an engine broke down."""
        return self._error or next((batcher.error for batcher in self.batchers if batcher.error), None)

    def start(self) -> None:
        """Begin to load, in a thread; ``ready`` or ``error`` tells when that is over."""
        threading.Thread(target=self._load, name="ftreg-fleet", daemon=True).start()

    def batcher(self, ref: str) -> Batcher:
        """Who writes the answers of a variant or shadow."""
        return self._batchers[self._keys[ref]]

    def model(self, ref: str) -> ServedModel:
        """What is known of the model of a variant or shadow."""
        return self._models[self._keys[ref]]

    def codec(self, ref: str) -> Codec:
        """The codec of a variant or shadow."""
        return self._codecs[self._keys[ref]]

    def source(self, ref: str) -> Source:
        """The version behind a variant or shadow."""
        return self._sources[self._keys[ref][1]]

    @property
    def batchers(self) -> tuple[Batcher, ...]:
        """All batchers, one for each copy of weights."""
        return tuple(dict.fromkeys(self._batchers.values()))

    def close(self) -> None:
        """End all answers and free the models; what is still being loaded is freed when it is there."""
        with self._lock:
            self._closing = True
            self._loaded = False
        for batcher in self.batchers:
            batcher.close()

    def _load(self) -> None:
        try:
            for serve, digests in self._by_engine().items():
                self._open(digests)
                if self._closing:
                    return
                for engine in resolve_import(serve)([self._sources[d] for d in digests], self._deployment.device):
                    self._employ(serve, engine)
            self._check()
        except BaseException as error:  # panics of a library's Rust are no Exceptions
            logger.exception("the models of %s cannot be loaded", self._deployment.name)
            self._error = describe(error)
            self.close()
            return
        with self._lock:
            self._loaded = not self._closing

    def _by_engine(self) -> Mapping[str, list[str]]:
        """The digests that each engine is to load, once each, by import string."""
        found: dict[str, list[str]] = {}
        for serve, digest in dict.fromkeys(self._keys.values()):
            found.setdefault(serve, []).append(digest)
        return found

    def _open(self, digests: list[str]) -> None:
        for digest in digests:
            if not self._closing and digest not in self._sources:
                self._sources[digest] = self._open_source(digest)

    def _employ(self, serve: str, engine: ServingEngine) -> None:
        """Give an engine, which ``serve`` has loaded, its batcher."""
        limits = self._deployment.limits
        with self._lock:
            if self._closing:
                engine.close()
                return
            batcher = Batcher(engine, rows=limits.batch, queue=limits.queue, traffic=self._traffic)
            for digest, model in engine.models.items():
                self._batchers[serve, digest] = batcher
                self._models[serve, digest] = model
        for digest, model in engine.models.items():
            self._codecs[serve, digest] = Codec(model)

    def _check(self) -> None:
        """Raise where an engine has not loaded what it was asked for."""
        for variant in self._deployment.all_variants():
            if self._keys[variant.ref] not in self._models and not self._closing:
                raise FtregError(f"engine {variant.engine} did not load {variant.ref} ({variant.digest})")
