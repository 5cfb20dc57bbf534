"""Batches: rows from encoded examples, batches of rows of similar length, tensors from batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ftreg.core.types import Example, Progress
from ftreg.data import IGNORED, Encoder, pack

_BUCKET = 50  # steps whose rows are sorted together: enough for little padding, few enough for random batches


@dataclass(frozen=True)
class Row:
    """One sequence.

    Attributes:
        input_ids: Its tokens.
        targets: For each position the token to predict there, which is the next one; ``IGNORED`` for unlabelled ones.
        position_ids: Positions that restart with each packed example; None for a sequence of one example.
    """

    input_ids: list[int]
    targets: list[int]
    position_ids: list[int] | None = None


def encode_rows(encoder: Encoder, examples: Sequence[Example], progress: Progress | None = None) -> list[Row]:
    """Encode examples, one row each; those without a labelled token (the whole answer is cut off) are left out."""
    return [Row(item.input_ids, [*item.labels[1:], IGNORED]) for item in encoder.encode_all(examples, progress)]


def pack_rows(rows: Sequence[Row], capacity: int) -> list[Row]:
    """Join rows into rows of up to ``capacity`` tokens; positions restart, so that examples do not see each other."""
    packed = pack([len(row.input_ids) for row in rows], capacity)
    return [join_rows([rows[index] for index in group]) for group in packed]


def join_rows(rows: Sequence[Row]) -> Row:
    """Join several rows into one; the last position of each has no target, so none crosses into the next row."""
    return Row(
        input_ids=[token for row in rows for token in row.input_ids],
        targets=[target for row in rows for target in row.targets],
        position_ids=[position for row in rows for position in range(len(row.input_ids))],
    )


class Collator:
    """Turns rows into tensors.

    ``input_ids`` (batch, length) is padded on the right. Rows of one example get ``attention_mask``; packed rows get
    ``position_ids`` and no mask, because only then does transformers keep packed examples apart: a mask, even of ones,
    would mix them. ``labelled`` (labelled positions,) indexes the flattened (batch * length) positions, and ``targets``
    (labelled positions,) are the tokens to predict there. ``tokens`` is the number of tokens that are not padding.

    Args:
        pad_token_id: The token to pad with; no labelled position attends to it.
    """

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return the batch."""
        width = max(len(row.input_ids) for row in rows)
        lengths = np.array([len(row.input_ids) for row in rows])
        targets = self._pad([row.targets for row in rows], width, IGNORED)
        labelled = np.flatnonzero(targets != IGNORED)
        batch = {
            "input_ids": self._pad([row.input_ids for row in rows], width, self.pad_token_id),
            "labelled": labelled,
            "targets": targets.reshape(-1)[labelled],
        }
        if rows[0].position_ids is None:
            batch["attention_mask"] = (np.arange(width) < lengths[:, None]).astype(np.int64)
        else:
            batch["position_ids"] = self._pad([row.position_ids or [] for row in rows], width, 0)
        tensors = {name: torch.from_numpy(array) for name, array in batch.items()}
        return {**tensors, "tokens": int(lengths.sum())}

    @staticmethod
    def _pad(rows: Sequence[Sequence[int]], width: int, value: int) -> np.ndarray:
        padded = np.full((len(rows), width), value, dtype=np.int64)
        for index, row in enumerate(rows):
            padded[index, : len(row)] = row
        return padded


class Batches:
    """The batch sampler: another order in each epoch, which depends on the seed and the epoch alone.

    A step has the same rows however many forward passes it is made of. Because the order does not depend on global
    random state, a resumed run sees the same batches as an uninterrupted one.

    Args:
        lengths: Number of tokens in each row.
        batch_size: Rows per forward pass.
        accumulation: Forward passes per optimizer step.
        grouped: Whether to put rows of similar length together.
        seed: Seed of the order.
    """

    def __init__(
        self, lengths: Sequence[int], *, batch_size: int, accumulation: int = 1, grouped: bool, seed: int
    ) -> None:
        self._lengths = np.asarray(lengths)
        self._batch_size = batch_size
        self._step_size = batch_size * accumulation
        self._grouped = grouped
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Return the number of forward passes per epoch."""
        return -(-len(self._lengths) // self._batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the row numbers of each forward pass."""
        generator = np.random.default_rng((self._seed, self._epoch))
        order = generator.permutation(len(self._lengths))
        if self._grouped:
            order = self._group(order)
        full = len(order) // self._step_size
        steps = list(order[: full * self._step_size].reshape(full, self._step_size))
        generator.shuffle(steps)
        if self._grouped and steps:
            # The longest first: if it does not fit into memory, the run fails at once, not an hour later.
            longest = max(range(full), key=lambda index: int(self._lengths[steps[index]].max()))
            steps[0], steps[longest] = steps[longest], steps[0]
        steps.append(order[full * self._step_size :])
        for step in steps:
            for start in range(0, len(step), self._batch_size):
                yield [int(index) for index in step[start : start + self._batch_size]]

    def _group(self, order: np.ndarray) -> np.ndarray:
        """Sort by length within buckets, at least four, so that a small set's batches change between epochs too."""
        bucket = self._step_size * max(1, min(_BUCKET, len(order) // (4 * self._step_size)))
        parts = [order[start : start + bucket] for start in range(0, len(order), bucket)]
        return np.concatenate([part[np.argsort(-self._lengths[part], kind="stable")] for part in parts])
