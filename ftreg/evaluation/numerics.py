"""Numerics that stay exact for near-equal distributions and bounded in memory for large vocabularies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

_BATCH_VALUES = 1 << 25
"""Logits of one forward pass: 128 MB in float32."""

_CHUNK_VALUES = 1 << 21
"""Logits that are worked on at a time: 16 MB in float64."""


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities in float64 of ``logits`` of shape (positions, vocabulary)."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def chunks(positions: int, vocabulary: int) -> Iterator[slice]:
    """Slices over ``positions`` that hold few enough logits to be worked on at a time."""
    step = max(1, _CHUNK_VALUES // vocabulary)
    for start in range(0, positions, step):
        yield slice(start, start + step)


def batches(lengths: Sequence[int], vocabulary: int, *, largest: int = 16) -> Iterator[list[int]]:
    """Indexes of sequences to be computed together, shortest first, so that padded logits stay within bounds.

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
    """The positions whose next token is labelled, and those labels; -100 marks a token that is not."""
    following = np.asarray(labels[1:], dtype=np.int64)
    positions = np.flatnonzero(following != -100)
    return positions, following[positions]
