"""Graphs with fused attention, as the model builder of onnxruntime-genai writes them, in plain ONNX Runtime.

Their attention, ``GroupQueryAttention``, takes the length of each row, rotates by it, and writes keys and values in
place if one buffer is bound as past and as present. Rows of different lengths need nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from ftreg.core.types import Batch
from ftreg.plugins.engines.ragged import RowByRow, alike
from ftreg.plugins.engines.slots import Pass, SlotBatch, read_rows
from ftreg.plugins.engines.traced import TYPES

_MOST = 512
"""Tokens of a pass: more are not faster on CPUs, and the graph computes the logits of all of them."""


class FusedGraph:
    """A decoder graph whose attention writes its cache in place; the ``SlotDecoder`` of its batches.

    Args:
        session: The loaded graph.
        head_size: The size of a head in the cache, which the graph does not say.
        context: Longest sequence, in tokens.
        mixes: Whether what a row gets depends on its own length only. Otherwise each row is computed alone, and a
            prompt in one pass.
    """

    def __init__(self, session: Any, *, head_size: int, context: int, mixes: bool) -> None:
        self.most = _MOST if mixes else context
        self._session = session
        self._mixes = mixes
        past = [each for each in session.get_inputs() if each.name.startswith("past")]
        present = session.get_outputs()[1:]
        self._names = [(each.name, out.name) for each, out in zip(past, present, strict=True)]
        self._shapes = [(int(each.shape[1]), head_size, TYPES[each.type]) for each in past]

    def batch(self) -> Batch:
        """Return an empty batch."""
        return SlotBatch(self) if self._mixes else RowByRow(partial(SlotBatch, self))

    def logits(self, batch: Sequence[Sequence[int]], last: int | None) -> list[np.ndarray]:
        """Return the logits of each row, or of its ``last`` tokens, float32 of shape (tokens, vocabulary)."""
        found: dict[int, np.ndarray] = {}
        for group in alike([len(row) for row in batch], self.most if self._mixes else 0):
            rows = [batch[place] for place in group]
            read = self.over(self.buffers(len(rows), max(map(len, rows))))
            found.update(zip(group, read_rows(read, rows, self.most, last=last), strict=True))
        return [found[place] for place in range(len(batch))]

    def buffers(self, rows: int, columns: int) -> list[np.ndarray]:
        """Return empty buffers of keys and values."""
        return [np.zeros((rows, heads, columns, size), kind) for heads, size, kind in self._shapes]

    def over(self, buffers: Sequence[np.ndarray]) -> Pass:
        """Return the pass over rows whose keys and values are in ``buffers``."""
        return _BoundPass(self._session, self._names, buffers)


class _BoundPass:
    """A ``Pass`` over buffers that are bound once.

    Args:
        session: The loaded graph.
        names: Input and output of each buffer.
        buffers: Keys and values; they are kept, since a binding holds nothing but their addresses.
    """

    def __init__(self, session: Any, names: Iterable[tuple[str, str]], buffers: Sequence[np.ndarray]) -> None:
        self._session = session
        self._buffers = buffers
        self._inputs = {each.name for each in session.get_inputs()}
        self._logits = session.get_outputs()[0]
        self._binding = session.io_binding()
        for (past, present), buffer in zip(names, buffers, strict=True):
            _bind(self._binding.bind_input, past, buffer)
            _bind(self._binding.bind_output, present, buffer)

    def __call__(self, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Read tokens; return their logits."""
        rows, tokens = ids.shape
        columns = np.arange(lengths.max())
        first = 0 if tokens == len(columns) else lengths[:, None] - tokens
        inputs = {
            "input_ids": ids,
            "attention_mask": (columns < lengths[:, None]).astype(np.int64),
            "position_ids": np.zeros_like(ids) + first + np.arange(tokens),
        }
        for name in inputs.keys() & self._inputs:
            _bind(self._binding.bind_input, name, inputs[name])
        logits = np.empty((rows, tokens, int(self._logits.shape[2])), TYPES[self._logits.type])
        _bind(self._binding.bind_output, "logits", logits)
        self._session.run_with_iobinding(self._binding)
        return logits


def _bind(bind: Any, name: str, array: np.ndarray) -> None:
    """Bind an array, which must outlive the pass and is read or written where it is."""
    bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
