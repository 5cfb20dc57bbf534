"""Numerics that stay accurate for nearly equal distributions, and within bounded memory for large vocabularies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

_BATCH_VALUES = 1 << 25
"""Logits of one forward pass: 128 MB in float32."""

_CHUNK_VALUES = 1 << 21
"""Logits that are converted to float64 at a time: 16 MB."""


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return the log-probabilities of ``logits`` in float64; both have the shape (positions, vocabulary)."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def chunks(positions: int, vocabulary: int) -> Iterator[slice]:
    """Yield slices over ``positions`` whose logits fit in bounded memory."""
    step = max(1, _CHUNK_VALUES // vocabulary)
    for start in range(0, positions, step):
        yield slice(start, start + step)


def batches(lengths: Sequence[int], vocabulary: int, *, largest: int = 16) -> Iterator[list[int]]:
    """Yield the indexes of sequences to compute together, shortest first, so that padded logits fit in bounded memory.

    Args:
        lengths: Tokens of each sequence.
        vocabulary: Logits of each token.
        largest: Most sequences at a time.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) == largest or (len(batch) + 1) * lengths[index] * vocabulary > _BATCH_VALUES):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def predicted(labels: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions whose next token is labelled, and those labels; -100 marks tokens that are not."""
    following = np.asarray(labels[1:], dtype=np.int64)
    positions = np.flatnonzero(following != -100)
    return positions, following[positions]
