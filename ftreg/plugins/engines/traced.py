"""Graphs of transformers' exporter: a pass takes the keys and values of the tokens before, and returns longer ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from ftreg.core.types import Batch
from ftreg.plugins.engines.ragged import RaggedBatch, RowByRow

TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}
"""The numpy types of a graph's inputs and outputs."""

_PART = 512
"""Tokens of each row that are read at a time."""


class TracedGraph:
    """A decoder graph with past keys and values as inputs, and present ones as outputs; the ``Decoder`` of its batches.

    The graph's inputs are ``input_ids``, ``attention_mask``, optionally ``position_ids``, and for each layer a past key
    and a past value of shape (rows, heads, past length, head size), which may be empty; its first output is ``logits``.
    Rows share a cache if the graph takes positions; otherwise they are computed one after the other.

    Args:
        session: The loaded graph.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self._inputs = {each.name: each for each in session.get_inputs()}
        self._past = [name for name in self._inputs if name not in ("input_ids", "attention_mask", "position_ids")]

    def batch(self) -> Batch:
        """Return an empty batch."""
        alone = partial(RaggedBatch, self)
        return alone() if "position_ids" in self._inputs else RowByRow(alone)

    def logits(self, batch: Sequence[Sequence[int]], last: int | None) -> list[np.ndarray]:
        """Return the logits of each row, or of its ``last`` tokens, float32 of shape (tokens, vocabulary)."""
        longest = max(len(row) for row in batch)
        ids, mask = np.zeros((2, len(batch), longest), dtype=np.int64)
        for index, row in enumerate(batch):
            ids[index, : len(row)] = row
            mask[index, : len(row)] = 1
        positions = np.arange(longest)[None].repeat(len(batch), 0)
        starts = [max(0, len(row) - (last or len(row))) for row in batch]
        # The graph computes the logits of every token that it reads: in parts, so that a long row's are not all held.
        found: list[list[np.ndarray]] = [[] for _ in batch]
        past, _ = self.start(len(batch))
        for start in range(0, longest, _PART):
            part = slice(start, start + _PART)
            logits, past = self._run(ids[:, part], mask[:, : part.stop], positions[:, part], past)
            for index, row in enumerate(batch):
                wanted = slice(max(starts[index] - start, 0), max(len(row) - start, 0))
                found[index].append(logits[index, wanted].astype(np.float32))
        return [np.concatenate(parts) for parts in found]

    def start(self, rows: int) -> tuple[list[np.ndarray], int]:
        """Return the cache before the first token, and its length."""
        inputs = [self._inputs[name] for name in self._past]
        return [np.zeros((rows, int(each.shape[1]), 0, int(each.shape[3])), TYPES[each.type]) for each in inputs], 0

    def forward(
        self,
        digests: Sequence[str],  # noqa: ARG002 there is one model
        ids: np.ndarray,
        mask: np.ndarray,
        positions: np.ndarray,
        cache: Sequence[np.ndarray],
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Continue each row."""
        logits, longer = self._run(ids, mask, positions, cache)
        return logits[:, -1].astype(np.float32), longer

    def zeros(self, like: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Return an array of zeros."""
        return np.zeros(shape, like.dtype)

    def _run(
        self, ids: np.ndarray, mask: np.ndarray, positions: np.ndarray, past: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Run one pass; return logits of shape (rows, tokens, vocabulary), and the present keys and values."""
        feed = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        feed |= dict(zip(self._past, past, strict=True))
        outputs = self._session.run(None, {name: value for name, value in feed.items() if name in self._inputs})
        return outputs[0], outputs[1:]
