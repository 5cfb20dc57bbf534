"""Serving ONNX exports: ragged batches in ONNX Runtime, and one generator for each row in onnxruntime-genai."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ftreg.core.types import Batch, ServedModel, ServingEngine, Source
from ftreg.plugins.engines.genai import GenaiEngine
from ftreg.plugins.engines.limits import describe_model
from ftreg.plugins.engines.onnx import OnnxEngine, load
from ftreg.plugins.engines.ragged import RaggedBatch, RowByRow


def serve(sources: Sequence[Source], device: str) -> list[ServingEngine]:
    """Load exports to serve them, each in an engine of its own.

    Raises:
        InputError: A version is not an ONNX export, or cannot be loaded.
        MissingExtra: A version needs onnxruntime-genai, which is not installed.
    """
    engines: list[ServingEngine] = []
    try:
        for source in sources:
            engine = load(source, device)
            if isinstance(engine, GenaiEngine):
                engines.append(GenaiServing(engine, source.digest))
            else:
                engines.append(OnnxServing(engine, source.digest))
    except BaseException:
        for each in engines:
            each.close()
        raise
    return engines


class OnnxServing:
    """A decoder graph in ONNX Runtime; the ``Decoder`` of its batches.

    Rows share a cache if the graph takes positions; otherwise they are computed one after the other.
    """

    def __init__(self, engine: OnnxEngine, digest: str) -> None:
        self._engine = engine
        self.models: Mapping[str, ServedModel] = {digest: describe_model(engine.tokenizer, engine.ends)}

    def batch(self) -> Batch:
        """Return an empty batch."""
        return RaggedBatch(self) if self._engine.takes_positions else RowByRow(self)

    def start(self, rows: int) -> tuple[list[np.ndarray], int]:
        """Return the cache before the first token, and its length."""
        return self._engine.empty(rows), 0

    def forward(
        self,
        digests: Sequence[str],  # noqa: ARG002 there is one model
        ids: np.ndarray,
        mask: np.ndarray,
        positions: np.ndarray,
        cache: Sequence[np.ndarray],
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Continue each row."""
        logits, longer = self._engine.run(ids, mask, positions, cache)
        return logits[:, -1].astype(np.float32), longer

    def zeros(self, like: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Return an array of zeros."""
        return np.zeros(shape, like.dtype)

    def close(self) -> None:
        """Free the session."""
        self._engine.close()


class GenaiServing:
    """A model in onnxruntime-genai; the ``Decoder`` of its batches. Each row has a generator of its own."""

    def __init__(self, engine: GenaiEngine, digest: str) -> None:
        self._engine = engine
        self.models: Mapping[str, ServedModel] = {digest: describe_model(engine.tokenizer, engine.ends)}

    def batch(self) -> Batch:
        """Return an empty batch."""
        return RowByRow(self)

    def start(self, rows: int) -> tuple[None, int]:  # noqa: ARG002 there is one row
        """Return no cache: the generator is made together with its prompt."""
        return None, 0

    def forward(
        self,
        digests: Sequence[str],  # noqa: ARG002 there is one model
        ids: np.ndarray,
        mask: np.ndarray,  # noqa: ARG002 the generator keeps count
        positions: np.ndarray,  # noqa: ARG002
        cache: Any,
    ) -> tuple[np.ndarray, Any]:
        """Continue the row."""
        if cache is None:
            cache = self._engine.generator(ids, self._engine.context, grow=True)
        else:
            cache.append_tokens(ids.astype(np.int32))
        return cache.get_logits().reshape(1, -1).astype(np.float32), cache

    def zeros(self, like: Any, shape: tuple[int, ...]) -> Any:
        """Raise: rows that have generators of their own never join."""
        raise NotImplementedError

    def close(self) -> None:
        """Free the model."""
        self._engine.close()
