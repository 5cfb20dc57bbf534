"""Slots: rows of different lengths, each with a place of its own in buffers of keys and values.

Token ``t`` of a row is in column ``t`` of the row's slot, where it is written in place. So nothing is padded on the
left, and a row is computed by its own length, whatever the others' lengths are. New rows are read into free slots; when
a row leaves, the last one moves into its slot. The buffers have room, which doubles when it is used up.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from ftreg.plugins.engines.ragged import alike

Pass = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""A function that reads tokens and writes their keys and values into buffers.

The arguments are the ids, of shape (rows, tokens), and the rows' lengths with these tokens, of shape (rows,). In the
first pass over its rows, these may be padded on the right. It returns logits of shape (rows, tokens, vocabulary).
"""


class SlotDecoder(Protocol):
    """Computes the rows of a batch: a model that reads and writes buffers of keys and values."""

    most: int
    """Most tokens to read in one pass, padding included."""

    def buffers(self, rows: int, columns: int) -> list[np.ndarray]:
        """Return empty buffers, each of shape (rows, heads, columns, size)."""

    def over(self, buffers: Sequence[np.ndarray]) -> Pass:
        """Return the pass over rows whose keys and values are in ``buffers``."""


class SlotBatch:
    """A ``Batch`` whose rows are computed together, all by one model."""

    def __init__(self, decoder: SlotDecoder) -> None:
        self._decoder = decoder
        self._numbers = itertools.count()
        self._rows: list[int] = []
        self._lengths = np.zeros(0, dtype=np.int64)
        self._buffers = decoder.buffers(0, 0)
        self._pass: Pass | None = None  # over the slots that are taken; made anew when these or the buffers change

    def add(self, prompts: Sequence[tuple[str, Sequence[int]]]) -> tuple[list[int], np.ndarray]:
        """Read prompts, those of similar length together, and add them as rows."""
        lengths = np.array([len(tokens) for _, tokens in prompts], dtype=np.int64)
        self._reserve(len(self._rows) + len(prompts), int(lengths.max()))
        order: list[int] = []
        found = []
        for group in alike(lengths.tolist(), self._decoder.most):
            start = len(self._rows) + len(order)
            free = [buffer[start : start + len(group)] for buffer in self._buffers]
            rows = [prompts[place][1] for place in group]
            found += [logits[-1:] for logits in read_rows(self._decoder.over(free), rows, self._decoder.most, last=1)]
            order += group
        numbers = list(itertools.islice(self._numbers, len(prompts)))
        self._rows += [numbers[place] for place in order]
        self._lengths = np.concatenate([self._lengths, lengths[order]])
        self._pass = None
        return numbers, np.concatenate(found)[np.argsort(order)]

    def step(self, tokens: Mapping[int, int]) -> dict[int, np.ndarray]:
        """Append one token to each row, and return the logits after it."""
        if not self._rows:
            return {}
        lengths = self._lengths + 1
        self._reserve(len(self._rows), int(lengths.max()))
        if self._pass is None:
            self._pass = self._decoder.over([buffer[: len(self._rows)] for buffer in self._buffers])
        ids = np.array([[tokens[row]] for row in self._rows], dtype=np.int64)
        logits = self._pass(ids, lengths)[:, -1].astype(np.float32)
        self._lengths = lengths
        return dict(zip(self._rows, logits, strict=True))

    def remove(self, rows: Iterable[int]) -> None:
        """Remove rows; the last ones move into their slots."""
        gone = set(rows)
        kept = [place for place, row in enumerate(self._rows) if row not in gone]
        if len(kept) == len(self._rows):
            return
        places = list(range(len(kept)))
        movers = [place for place in kept if place >= len(kept)]
        holes = [place for place in places if self._rows[place] in gone]
        for hole, mover in zip(holes, movers, strict=True):
            places[hole] = mover
            columns = self._lengths[mover]
            for buffer in self._buffers:
                buffer[hole, :, :columns] = buffer[mover, :, :columns]
        self._rows = [self._rows[place] for place in places]
        self._lengths = self._lengths[places]
        self._pass = None
        longest = int(self._lengths.max(initial=0))
        if longest < self._buffers[0].shape[2] // 4:
            self._resize(len(kept), 2 * longest)

    def _reserve(self, rows: int, columns: int) -> None:
        """Make room for so many rows of so many columns."""
        slots, _, width, _ = self._buffers[0].shape
        if rows > slots or columns > width:
            self._resize(
                max(rows, 2 * slots) if rows > slots else slots, max(columns, 2 * width) if columns > width else width
            )

    def _resize(self, slots: int, width: int) -> None:
        """Move the rows to buffers of another size."""
        buffers = self._decoder.buffers(slots, width)
        rows, columns = len(self._rows), int(self._lengths.max(initial=0))
        for new, old in zip(buffers, self._buffers, strict=True):
            new[:rows, :, :columns] = old[:rows, :, :columns]
        self._buffers = buffers
        self._pass = None


def read_rows(read: Pass, rows: Sequence[Sequence[int]], most: int, *, last: int | None) -> list[np.ndarray]:
    """Read new rows; return the logits of each row, or of its ``last`` tokens, float32 of shape (tokens, vocabulary).

    Args:
        read: The pass over their slots.
        rows: Rows that are read together, padded on the right, or a single one, which is read in parts.
        most: The longest part, in tokens.
        last: How many tokens of each row are wanted; None for all.
    """
    wanted = [min(len(row), last or len(row)) for row in rows]
    if len(rows) == 1:
        (row,), (count,) = rows, wanted
        parts = []
        for start in range(0, len(row), most):
            ids = np.array([row[start : start + most]], dtype=np.int64)
            logits = read(ids, np.array([start + ids.shape[1]]))[0]
            parts.append(logits[max(len(row) - count - start, 0) :].astype(np.float32))
        return [np.concatenate(parts)]
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    ids = np.zeros((len(rows), lengths.max()), dtype=np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
    each = zip(read(ids, lengths), lengths, wanted, strict=True)
    return [logits[length - count : length].astype(np.float32) for logits, length, count in each]
