"""Slots: rows keep their own tokens in their own columns whatever joins, leaves and grows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftreg.plugins.engines.slots import SlotBatch

WIDTH = 80
MOST = 6


class RecordingDecoder:
    """A decoder whose buffers record the tokens in their columns, and whose logits are a row's history.

    Columns after a row's end hold what an earlier row, or padding, left there: a row that looked at them would show it.
    """

    most = MOST

    def __init__(self) -> None:
        self.shapes: list[tuple[int, int]] = []
        self.broken = False

    def buffers(self, rows, columns):
        return [np.full((rows, 1, columns, 1), -7.0, dtype=np.float32)]

    def over(self, buffers):
        (buffer,) = buffers

        def read(ids, lengths):
            if self.broken:
                raise RuntimeError("no memory")
            rows, tokens = ids.shape
            assert (rows, len(lengths)) == (buffer.shape[0], rows)
            first = lengths.max() == tokens
            assert first or tokens == 1 or rows == 1, "rows of several tokens and a past are read alone"
            self.shapes.append(ids.shape)
            logits = np.full((rows, tokens, WIDTH), -1.0, dtype=np.float32)
            for row, length in enumerate(lengths):
                start = 0 if first else length - tokens
                buffer[row, 0, start : start + tokens, 0] = ids[row]
                for place in range(tokens):
                    end = start + place + 1
                    logits[row, place, :end] = buffer[row, 0, :end, 0]
            return logits

        return read


def read(logits):
    """Return the tokens that are written in a row's logits."""
    return logits[logits != -1].astype(int).tolist()


TOKENS = st.lists(st.integers(1, 99), min_size=1, max_size=8)
PROMPTS = st.lists(st.one_of(TOKENS, TOKENS.map(lambda tokens: tokens * 4)), min_size=1, max_size=4)
EVENTS = st.lists(st.one_of(PROMPTS, st.just("step"), st.sets(st.integers(0, 9), max_size=3)), max_size=16)


@given(events=EVENTS)
@settings(max_examples=200, deadline=None)
def test_every_row_keeps_its_own_history(events):
    """Whatever joins and leaves, each row has seen its own tokens in order, and nothing else."""
    batch, alive, numbers, counter = SlotBatch(RecordingDecoder()), {}, set(), 100
    for event in events:
        if event == "step":
            tokens = {row: counter + place for place, row in enumerate(alive)}
            counter += len(tokens)
            for row, token in tokens.items():
                alive[row].append(token)
            found = batch.step(tokens)
            assert found.keys() == alive.keys()
        elif isinstance(event, set):
            gone = [row for place, row in enumerate(alive) if place in event]
            batch.remove(gone)
            for row in gone:
                del alive[row]
            continue
        else:
            rows, logits = batch.add([("b3:0a", tokens) for tokens in event])
            assert not numbers & set(rows), "a number was used again"
            numbers |= set(rows)
            alive.update(zip(rows, map(list, event), strict=True))
            found = dict(zip(rows, logits, strict=True))
        for row, logits in found.items():
            assert read(logits) == alive[row]


def test_long_prompts_are_read_alone_and_in_parts():
    """Prompts of similar length are read together up to the limit of a pass, a longer one in parts."""
    decoder = RecordingDecoder()
    lengths = [15, 2, 3, 2]
    rows, logits = SlotBatch(decoder).add([("b3:0a", list(range(1, length + 1))) for length in lengths])
    assert decoder.shapes == [(2, 2), (1, 3), (1, 6), (1, 6), (1, 3)]
    assert rows == [0, 1, 2, 3]
    assert [len(read(each)) for each in logits] == lengths


def test_what_fails_changes_nothing():
    """After a step or a prompt that failed, rows go on as if it had not been tried."""
    decoder = RecordingDecoder()
    batch = SlotBatch(decoder)
    (row,), _ = batch.add([("b3:0a", [1, 2])])
    decoder.broken = True
    with pytest.raises(RuntimeError):
        batch.step({row: 3})
    with pytest.raises(RuntimeError):
        batch.add([("b3:0a", [9, 9, 9, 9])])
    decoder.broken = False
    assert read(batch.step({row: 4})[row]) == [1, 2, 4]
