"""Ragged batches: rows of different lengths, which join and leave at any time, over one cache of keys and values.

Rows end in the same column and are padded on the left, under a mask and with positions of their own. New rows are read
in a pass of their own and then joined to the others; when a row leaves, the columns that only it filled are dropped
(Yu et al., "Orca: A Distributed Serving System for Transformer-Based Generative Models", OSDI 2022).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ftreg.core.types import Batch

_PASS = 32
"""Prompt tokens that cost about as much as one more pass over the weights; measured on CPUs."""


class Decoder(Protocol):
    """Computes the rows of a batch: a model that continues a cache.

    A cache that rows can join is a list of torch or numpy arrays, each of shape (rows, heads, columns, size).
    """

    def start(self, rows: int) -> tuple[Any, int]:
        """Return the cache of ``rows`` new rows, and how many columns it has already: those of a trained prefix."""

    def forward(
        self, digests: Sequence[str], ids: np.ndarray, mask: np.ndarray, positions: np.ndarray, cache: Any
    ) -> tuple[np.ndarray, Any]:
        """Continue each row of ``cache`` by some tokens, for the model of its digest.

        Args:
            digests: The rows' models.
            ids: Token ids, of shape (rows, tokens).
            mask: 1 where a column holds a token of the row, of shape (rows, columns of ``cache`` + tokens).
            positions: The tokens' positions in their rows, of shape (rows, tokens).
            cache: What ``start`` or the previous call returned; it is not changed.

        Returns:
            The logits after the last token, float32 of shape (rows, vocabulary), and the longer cache.
        """

    def zeros(self, like: Any, shape: tuple[int, ...]) -> Any:
        """Return an array of zeros, of the type and on the device of ``like``."""


class RaggedBatch:
    """A ``Batch`` whose rows are computed together."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._numbers = itertools.count()
        self._rows: list[int] = []
        self._digests: list[str] = []
        self._mask = np.zeros((0, 0), dtype=np.int64)
        self._cache: Any = []

    def add(self, prompts: Sequence[tuple[str, Sequence[int]]]) -> tuple[list[int], np.ndarray]:
        """Read prompts, those of similar length together, and add them as rows."""
        groups = alike([len(tokens) for _, tokens in prompts])
        read = [self._read([prompts[place] for place in group]) for group in groups]
        numbers = list(itertools.islice(self._numbers, len(prompts)))
        for group, (_, cache, mask) in zip(groups, read, strict=True):
            self._join(cache, mask)
            self._rows += [numbers[place] for place in group]
            self._digests += [prompts[place][0] for place in group]
        order = np.argsort([place for group in groups for place in group])
        return numbers, np.concatenate([logits for logits, _, _ in read])[order]

    def step(self, tokens: Mapping[int, int]) -> dict[int, np.ndarray]:
        """Append one token to each row, and return the logits after it."""
        if not self._rows:
            return {}
        ids = np.array([[tokens[row]] for row in self._rows], dtype=np.int64)
        positions = self._mask.sum(axis=1, keepdims=True)
        mask = np.concatenate([self._mask, np.ones_like(ids)], axis=1)
        logits, self._cache = self._decoder.forward(self._digests, ids, mask, positions, self._cache)
        self._mask = mask
        return dict(zip(self._rows, logits, strict=True))

    def remove(self, rows: Iterable[int]) -> None:
        """Remove rows, and the columns that are padding in all remaining ones."""
        gone = set(rows)
        kept = [place for place, row in enumerate(self._rows) if row not in gone]
        self._rows = [self._rows[place] for place in kept]
        self._digests = [self._digests[place] for place in kept]
        if not kept:
            self._mask, self._cache = np.zeros((0, 0), dtype=np.int64), []
        elif len(kept) < len(self._mask):
            mask = self._mask[kept]
            columns = np.flatnonzero(mask.any(axis=0)).tolist()
            self._mask = mask[:, columns]
            self._cache = [array[kept][:, :, columns] for array in self._cache]

    def _read(self, prompts: Sequence[tuple[str, Sequence[int]]]) -> tuple[np.ndarray, Any, np.ndarray]:
        """Read prompts in one padded pass; return the logits after them, their cache and its mask."""
        longest = max(len(tokens) for _, tokens in prompts)
        cache, columns = self._decoder.start(len(prompts))
        ids = np.zeros((len(prompts), longest), dtype=np.int64)
        mask = np.ones((len(prompts), columns + longest), dtype=np.int64)
        for row, (_, tokens) in enumerate(prompts):
            ids[row, longest - len(tokens) :] = tokens
            mask[row, columns : columns + longest - len(tokens)] = 0
        positions = np.maximum(mask.cumsum(axis=1) - 1, 0)[:, columns:]
        digests = [digest for digest, _ in prompts]
        logits, cache = self._decoder.forward(digests, ids, mask, positions, cache)
        return logits, cache, mask

    def _join(self, cache: Any, mask: np.ndarray) -> None:
        """Append new rows; the narrower ones, old or new, get columns of padding on the left."""
        if not self._rows:
            self._cache, self._mask = cache, mask
            return
        old, new = self._mask.shape
        rows, columns = mask.shape
        width = max(new, columns)
        joined = np.zeros((old + rows, width), dtype=np.int64)
        joined[:old, width - new :] = self._mask
        joined[old:, width - columns :] = mask
        pairs = zip(self._cache, cache, strict=True)
        self._cache = [self._stack(above, below, width) for above, below in pairs]
        self._mask = joined

    def _stack(self, above: Any, below: Any, width: int) -> Any:
        """Concatenate the rows of two arrays, aligned at their last column."""
        shape = (above.shape[0] + below.shape[0], above.shape[1], width, above.shape[3])
        stacked = self._decoder.zeros(above, shape)
        stacked[: above.shape[0], :, width - above.shape[2] :] = above
        stacked[above.shape[0] :, :, width - below.shape[2] :] = below
        return stacked


def alike(lengths: Sequence[int], most: int | None = None) -> list[list[int]]:
    """Group prompts to be read together: their indexes, by similar length, so that little is padded in few passes.

    Args:
        lengths: Tokens of each prompt.
        most: Most tokens of a group of several prompts, padding included; None if any number is fine.
    """
    groups: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        length, group = lengths[place], groups[-1] if groups else []
        fits = most is None or (len(group) + 1) * length <= most
        if group and fits and length <= 2 * lengths[group[0]] + _PASS:
            group.append(place)
        else:
            groups.append([place])
    return groups


class RowByRow:
    """A ``Batch`` whose rows are computed one after the other, for models whose rows cannot share a cache.

    Args:
        start: Makes the batch of a single row.
    """

    def __init__(self, start: Callable[[], Batch]) -> None:
        self._start = start
        self._numbers = itertools.count()
        self._batches: dict[int, Batch] = {}

    def add(self, prompts: Sequence[tuple[str, Sequence[int]]]) -> tuple[list[int], np.ndarray]:
        """Read prompts, each into a cache of its own, and add them as rows."""
        batches = [self._start() for _ in prompts]
        logits = [batch.add([prompt])[1] for batch, prompt in zip(batches, prompts, strict=True)]
        numbers = list(itertools.islice(self._numbers, len(prompts)))
        self._batches.update(zip(numbers, batches, strict=True))
        return numbers, np.concatenate(logits)

    def step(self, tokens: Mapping[int, int]) -> dict[int, np.ndarray]:
        """Append one token to each row, and return the logits after it."""
        return {row: batch.step({0: tokens[row]})[0] for row, batch in self._batches.items()}

    def remove(self, rows: Iterable[int]) -> None:
        """Remove rows."""
        for row in rows:
            self._batches.pop(row, None)
