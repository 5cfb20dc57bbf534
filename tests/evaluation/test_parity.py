"""Parity: figures computed by hand, and the check against a tolerance."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftreg.core.errors import FtregError
from ftreg.core.types import Tolerance
from ftreg.evaluation import Parity, Probe, ProbeText, check
from ftreg.evaluation.numerics import batches, log_softmax
from ftreg.models.borders import Border
from tests.evaluation.helpers import TableEngine, compare, compare_all
from tests.tiny import make_tokenizer

TOKENIZER = make_tokenizer()


def probe(*rows, prompts=((2,),)):
    """A probe in which every token counts."""
    return Probe(tuple(ProbeText(row, row) for row in rows), tuple(prompts), 16, "held-out")


def test_figures_by_hand():
    """KL, ranks, losses and logit error of two distributions over two tokens are what the formulas say."""
    ours, theirs = np.array([0.75, 0.25]), np.array([0.4, 0.6])
    parent = TableEngine(np.log(np.stack([ours, ours])), TOKENIZER)
    child = TableEngine(np.log(np.stack([theirs, ours])), TOKENIZER)
    parity = compare(parent, child, probe((0, 0, 1, 0), prompts=()))
    # Three tokens are predicted: after 0 (0 follows), after 0 (1 follows), after 1 (0 follows).
    kl = 0.75 * math.log(0.75 / 0.4) + 0.25 * math.log(0.25 / 0.6)
    assert parity.kl == pytest.approx(2 * kl / 3, rel=1e-6)
    assert parity.kl_max == pytest.approx(kl, rel=1e-6)
    assert parity.top1 == pytest.approx(1 / 3)
    assert parity.loss_parent == pytest.approx(-(2 * math.log(0.75) + math.log(0.25)) / 3, rel=1e-6)
    assert parity.loss_child == pytest.approx(-(math.log(0.4) + math.log(0.6) + math.log(0.75)) / 3, rel=1e-6)
    assert parity.loss_delta == pytest.approx(parity.loss_child - parity.loss_parent)
    assert parity.logit_error == pytest.approx(math.log(0.6 / 0.25), rel=1e-6)
    assert parity.tokens == 3
    assert parity.greedy_prefix == 1.0


def test_only_labelled_tokens_count():
    """Tokens without a label are not compared."""
    table = np.zeros((4, 4))
    broken = table.copy()
    broken[2] = [0, 9, 0, 0]
    engines = TableEngine(table, TOKENIZER), TableEngine(broken, TOKENIZER)
    row = (0, 2, 3, 1)
    before = Probe((ProbeText(row, (-100, 2, -100, 1)),), (), 16, "held-out")
    after = Probe((ProbeText(row, (-100, -100, 3, -100)),), (), 16, "held-out")
    assert compare(*engines, before).kl == 0
    assert compare(*engines, after).kl > 1
    assert compare(*engines, after).tokens == 1


def test_greedy_prefix_counts_tokens_before_the_first_difference():
    """Answers that differ, or of which one is longer, count up to the first difference."""
    parent, child = np.zeros((8, 8)), np.zeros((8, 8))
    for table, chain in ((parent, [2, 3, 4, 5, 1]), (child, [2, 3, 4, 6, 1])):
        for token, following in pairwise(chain):
            table[token, following] = 5
    engines = TableEngine(parent, TOKENIZER), TableEngine(child, TOKENIZER)
    assert compare(*engines, probe((2, 3), prompts=((2,),))).greedy_prefix == pytest.approx(2 / 3)
    child[4] = parent[2] * 0
    child[4, 1] = 5
    engines = TableEngine(parent, TOKENIZER), TableEngine(child, TOKENIZER)
    assert compare(*engines, probe((2, 3), prompts=((2,),))).greedy_prefix == pytest.approx(2 / 3)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 3))
def test_identical_is_zero_and_kl_is_never_negative(seed, noise):
    """A model agrees with itself exactly, and its divergence from a disturbed one is never negative."""
    random = np.random.default_rng(seed)
    table = random.normal(size=(20, 20)) * 10
    rows = tuple(tuple(int(token) for token in random.integers(0, 20, size=length)) for length in (2, 5, 9))
    same = compare(TableEngine(table, TOKENIZER), TableEngine(table, TOKENIZER), probe(*rows))
    assert (same.kl, same.kl_max, same.top1, same.loss_delta, same.greedy_prefix, same.logit_error) == (
        0,
        0,
        1,
        0,
        1,
        0,
    )
    other = table + random.normal(size=table.shape) * noise
    parity = compare(TableEngine(table, TOKENIZER), TableEngine(other, TOKENIZER), probe(*rows))
    assert 0 <= parity.kl <= parity.kl_max
    assert 0 <= parity.top1 <= 1
    assert parity.tokens == sum(len(row) - 1 for row in rows)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("which", ["source", "result"])
def test_logits_that_are_not_finite(value, which):
    """A model whose logits are not finite is an error, never a certificate."""
    tables = {"source": np.zeros((4, 4)), "result": np.zeros((4, 4))}
    tables[which][2, 2] = value
    with pytest.raises(FtregError, match=f"the {which} gives logits that are not finite"):
        compare(*(TableEngine(table, TOKENIZER) for table in tables.values()), probe((2, 3, 1)))


def test_different_vocabularies():
    """Models over different vocabularies cannot be compared."""
    with pytest.raises(FtregError, match="4 tokens in the source, 5 in the result"):
        compare(TableEngine(np.zeros((4, 4))), TableEngine(np.zeros((4, 5))), probe((2, 3)))


GOOD = Parity(0.1, 0.2, 0.9, 1.0, 1.1, 0.1, 0.8, 0.5, 10)


@pytest.mark.parametrize(
    ("limits", "failing"),
    [
        ({}, None),
        ({"kl": 0.1, "top1": 0.9, "loss_delta": 0.1, "greedy_prefix": 0.8, "logit_error": 0.5}, None),
        ({"kl": 0.09}, "KL 0.1 is above 0.09"),
        ({"top1": 0.91}, "top-1 agreement 0.9 is below 0.91"),
        ({"loss_delta": 0.05}, "loss delta 0.1 is above 0.05"),
        ({"greedy_prefix": 0.9}, "greedy prefix 0.8 is below 0.9"),
        ({"logit_error": 0.4}, "logit error 0.5 is above 0.4"),
    ],
)
def test_check(limits, failing):
    """Each figure is compared with its limit; a figure without a limit is not checked."""
    assert check(GOOD, Tolerance(**limits)) == ([failing] if failing else [])


def test_texts_beyond_a_border_are_measured_apart():
    """A difference at the end of a long text shows in that text's figures, and not in the ordinary ones."""
    table = np.zeros((8, 8))
    broken = table.copy()
    broken[5] = [0, 9, 0, 0, 0, 0, 0, 0]
    long = ProbeText((2, 3, 2, 5, 4), (-100, -100, -100, -100, 4), Border(4, "window"))
    probe = Probe((ProbeText((2, 3, 4), (2, 3, 4)), long), (), 16, "held-out")
    parity, (beyond,) = compare_all(TableEngine(table, TOKENIZER), TableEngine(broken, TOKENIZER), probe)
    assert (parity.kl, parity.tokens) == (0, 2)
    assert (beyond.what, beyond.border, beyond.length, beyond.tokens) == ("window", 4, 5, 1)
    assert beyond.kl > 1
    assert check(parity, Tolerance(kl=0.1, top1=1.0), [beyond]) == [
        f"beyond the window of 4 tokens, KL {beyond.kl:.4g} is above 0.1"
    ]


def test_nan_never_passes():
    """A figure that is NaN fails its check."""
    broken = Parity(*[math.nan] * 8, 10)
    assert len(check(broken, Tolerance(kl=9, top1=0, loss_delta=9, greedy_prefix=0, logit_error=9))) == 5


@given(st.lists(st.integers(1, 2000), min_size=1, max_size=50), st.sampled_from([320, 32_000, 151_936]))
def test_batches_stay_within_memory(lengths, vocabulary):
    """Every sequence is in one batch, and padded logits of several never exceed 128 MB."""
    found = list(batches(lengths, vocabulary))
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    for batch in found:
        padded = len(batch) * max(lengths[index] for index in batch) * vocabulary * 4
        assert len(batch) == 1 or padded <= 128 * 2**20


def test_log_softmax_of_large_logits():
    """Logits in the thousands do not overflow, and keep their differences."""
    rows = log_softmax(np.array([[5000.0, 5000.0], [-3000.0, 0.0]], dtype=np.float32))
    assert rows[0] == pytest.approx([math.log(0.5)] * 2)
    assert rows[1] == pytest.approx([-3000.0, 0.0])
