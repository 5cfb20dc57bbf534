"""Ragged batches: rows do not change one another's history when they join or leave, and no column is wasted."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftreg.plugins.engines.ragged import RaggedBatch, RowByRow

WIDTH = 72


class RecordingDecoder:
    """A decoder whose cache records its input, and whose logits are a row's history: (token, position) in order.

    Every row starts with ``prefix`` columns that hold the token 500.
    """

    def __init__(self, prefix: int = 0) -> None:
        self.prefix = prefix
        self.columns: list[int] = []

    def start(self, rows):
        cache = [np.full((rows, 1, self.prefix, 2), 500.0, dtype=np.float32)]
        cache[0][..., 1] = np.arange(self.prefix)
        return cache, self.prefix

    def forward(self, digests, ids, mask, positions, cache):
        new = np.stack([ids, positions], axis=-1)[:, None].astype(np.float32)
        longer = np.concatenate([cache[0], new], axis=2)
        assert mask.shape == (len(digests), longer.shape[2])
        self.columns.append(mask.shape[1])
        logits = np.full((len(digests), WIDTH * 2 + 1), -1.0, dtype=np.float32)
        for row, digest in enumerate(digests):
            history = longer[row, 0][mask[row] == 1].ravel()[: WIDTH * 2]
            logits[row, : len(history)] = history
            logits[row, -1] = int(digest)
        return logits, [longer]

    def zeros(self, like, shape):
        return np.zeros(shape, like.dtype)


def read(logits):
    """Return the digest, tokens and positions that are written in a row's logits."""
    history = logits[:-1][logits[:-1] >= 0].reshape(-1, 2).astype(int)
    return str(int(logits[-1])), history[:, 0].tolist(), history[:, 1].tolist()


TOKENS = st.lists(st.integers(1, 99), min_size=1, max_size=8)
PROMPTS = st.lists(
    st.tuples(st.sampled_from("123"), st.one_of(TOKENS, TOKENS.map(lambda tokens: tokens * 5))), max_size=3
)
EVENTS = st.lists(st.one_of(PROMPTS.filter(bool), st.just("step"), st.sets(st.integers(0, 9), max_size=3)), max_size=16)


@pytest.mark.parametrize(
    "kind",
    [RaggedBatch, lambda decoder: RowByRow(partial(RaggedBatch, decoder))],
    ids=["together", "row-by-row"],
)
@given(events=EVENTS, prefix=st.sampled_from([0, 3]))
@settings(max_examples=150, deadline=None)
def test_every_row_keeps_its_own_history(kind, events, prefix):
    """Whatever joins and leaves, each row has seen its own tokens at their positions, and nothing else."""
    decoder = RecordingDecoder(prefix)
    batch, alive, numbers, counter = kind(decoder), {}, set(), 100
    for event in events:
        if event == "step":
            tokens = {row: counter + place for place, row in enumerate(alive)}
            counter += len(tokens)
            for row, token in tokens.items():
                alive[row][1].append(token)
            found = batch.step(tokens)
        elif isinstance(event, set):
            gone = [row for place, row in enumerate(alive) if place in event]
            batch.remove(gone)
            for row in gone:
                del alive[row]
            continue
        else:
            rows, logits = batch.add(event)
            assert not numbers & set(rows), "a number was used again"
            numbers |= set(rows)
            alive.update(
                {row: (digest, [500] * prefix + tokens) for row, (digest, tokens) in zip(rows, event, strict=True)}
            )
            found = dict(zip(rows, logits, strict=True))
        for row, logits in found.items():
            digest, tokens = alive[row]
            assert read(logits) == (digest, tokens, list(range(len(tokens))))
        if event == "step":
            assert found.keys() == alive.keys()


def test_columns_are_dropped_with_the_row_that_filled_them():
    """A batch is as wide as its longest row: when that leaves, its columns are dropped."""
    decoder = RecordingDecoder()
    batch = RaggedBatch(decoder)
    (long, _), _ = batch.add([("1", [7] * 30), ("1", [1, 2])])
    (short,), _ = batch.add([("2", [3, 4, 5])])
    batch.step({long: 8, 1: 8, short: 8})
    batch.remove([long])
    batch.step({1: 9, short: 9})
    batch.remove([1])
    batch.step({short: 6})
    assert decoder.columns == [30, 3, 31, 5, 6]
    batch.remove([short])
    assert batch.step({}) == {}
    assert read(batch.add([("3", [5])])[1][0]) == ("3", [5], [0])


def test_short_prompts_are_not_padded_to_a_long_one():
    """Prompts of very different lengths are read in separate passes, and their results keep the order."""
    decoder = RecordingDecoder()
    lengths = [3, 200, 20, 150]
    rows, logits = RaggedBatch(decoder).add([("1", [7] * length) for length in lengths])
    assert decoder.columns == [20, 200]
    assert rows == [0, 1, 2, 3]
    assert [len(read(each)[1]) for each in logits] == [min(length, WIDTH) for length in lengths]


def test_a_step_that_fails_changes_nothing():
    """After a step or a prompt that failed, rows go on as if it had not been tried."""
    decoder = RecordingDecoder()
    batch = RaggedBatch(decoder)
    (row,), _ = batch.add([("1", [1, 2])])
    forward, decoder.forward = decoder.forward, None
    with pytest.raises(TypeError):
        batch.step({row: 3})
    with pytest.raises(TypeError):
        batch.add([("1", [9, 9, 9])])
    decoder.forward = forward
    assert read(batch.step({row: 4})[row]) == ("1", [1, 2, 4], [0, 1, 2])
