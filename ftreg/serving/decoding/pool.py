"""The model pool: loads the models of a deployment in the background and gives each engine its batcher."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from ftreg.core.errors import FtregError
from ftreg.core.guard import describe, resolve_import
from ftreg.core.types import ServingEngine, Source
from ftreg.serving.decoding.batcher import Batcher
from ftreg.serving.decoding.tokenizer import Tokenizer
from ftreg.serving.decoding.traffic import LiveTraffic
from ftreg.serving.deployment import Deployment

logger = logging.getLogger("ftreg.serving")

_Key = tuple[str, str]  # the import string that loads a version, and the version's digest


class ModelPool:
    """The models of a deployment, by the reference of their variant or shadow.

    Args:
        deployment: The deployment whose models are loaded.
        open_source: Opens the version of a digest and checks its bytes.
    """

    def __init__(self, deployment: Deployment, open_source: Callable[[str], Source]) -> None:
        self._loaded = False
        self._error: str | None = None
        self._deployment = deployment
        self._open_source = open_source
        self._keys: dict[str, _Key] = {v.ref: (v.serve, v.digest) for v in deployment.all_variants()}
        self._sources: dict[str, Source] = {}
        self._tokenizers: dict[_Key, Tokenizer] = {}
        self._batchers: dict[_Key, Batcher] = {}
        self._traffic = LiveTraffic()
        self._lock = threading.Lock()
        self._closing = False

    @property
    def ready(self) -> bool:
        """Whether all models are loaded and working."""
        return self._loaded and self.error is None

    @property
    def error(self) -> str | None:
        """Why the models do not work and will not recover: loading failed, or an engine broke down; else None."""
        return self._error or next((batcher.error for batcher in self.batchers if batcher.error), None)

    def start(self) -> None:
        """Start loading in a thread; afterwards either ``ready`` or ``error`` is set."""
        threading.Thread(target=self._load, name="ftreg-model-pool", daemon=True).start()

    def batcher(self, ref: str) -> Batcher:
        """The batcher that generates for a variant or shadow."""
        return self._batchers[self._keys[ref]]

    def tokenizer(self, ref: str) -> Tokenizer:
        """The tokenizer of a variant or shadow."""
        return self._tokenizers[self._keys[ref]]

    def source(self, ref: str) -> Source:
        """The opened version behind a variant or shadow."""
        return self._sources[self._keys[ref][1]]

    @property
    def batchers(self) -> tuple[Batcher, ...]:
        """All batchers: one for each engine."""
        return tuple(dict.fromkeys(self._batchers.values()))

    def close(self) -> None:
        """End all completions and free the models; a model that is still loading is freed when it has loaded."""
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
                    self._add(serve, engine)
            self._check()
        except BaseException as error:  # a panic in a library's Rust code is not an Exception
            logger.exception("the models of %s cannot be loaded", self._deployment.name)
            self._error = describe(error)
            self.close()
            return
        with self._lock:
            self._loaded = not self._closing

    def _by_engine(self) -> Mapping[str, list[str]]:
        """The digests to load, each once, by the import string of their engine."""
        found: dict[str, list[str]] = {}
        for serve, digest in dict.fromkeys(self._keys.values()):
            found.setdefault(serve, []).append(digest)
        return found

    def _open(self, digests: list[str]) -> None:
        for digest in digests:
            if not self._closing and digest not in self._sources:
                self._sources[digest] = self._open_source(digest)

    def _add(self, serve: str, engine: ServingEngine) -> None:
        """Give an engine that ``serve`` has loaded its batcher; close the engine if the pool was closed meanwhile."""
        limits = self._deployment.limits
        with self._lock:
            if self._closing:
                engine.close()
                return
            batcher = Batcher(engine, rows=limits.batch, queue_size=limits.queue, traffic=self._traffic)
            self._batchers.update({(serve, digest): batcher for digest in engine.models})
        self._tokenizers.update({(serve, digest): Tokenizer(model) for digest, model in engine.models.items()})

    def _check(self) -> None:
        """Raise ``FtregError`` if an engine has not loaded a version that it was given."""
        for variant in self._deployment.all_variants():
            if self._keys[variant.ref] not in self._batchers and not self._closing:
                raise FtregError(f"engine {variant.engine} did not load {variant.ref} ({variant.digest})")
