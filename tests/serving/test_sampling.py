from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftreg.core.errors import FtregError
from ftreg.serving.decoding.sampling import Sampler, _nucleus

LOGITS = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=40).map(lambda row: np.array(row, np.float32))


def test_greedy_takes_the_lowest_id_of_equals() -> None:
    """Temperature 0 takes the most likely token, and among equals always the same."""
    assert Sampler(0.0)(np.array([0, 3, 3, 1], np.float32)) == 1


@given(LOGITS, st.floats(0.05, 2), st.floats(0, 1), st.integers(-(2**63), 2**63 - 1))
def test_a_seed_repeats(logits: np.ndarray, temperature: float, top_p: float, seed: int) -> None:
    """Two samplers with one seed draw the same tokens, whatever others draw in between."""
    one, other, stranger = (Sampler(temperature, top_p, value) for value in (seed, seed, seed + 1))
    drawn = []
    for _ in range(5):
        drawn.append((one(logits), other(logits)))
        stranger(logits)
    assert all(first == second for first, second in drawn)


def test_different_seeds_differ() -> None:
    """Consecutive seeds give different tokens."""
    logits = np.zeros(1000, np.float32)
    answers = {tuple(sampler(logits) for _ in range(8)) for sampler in (Sampler(1.0, seed=seed) for seed in range(20))}
    assert len(answers) == 20


def test_draws_follow_the_softmax() -> None:
    """Tokens are drawn with the probabilities of the softmax (chi-square, one false alarm in 10^6)."""
    logits = np.array([0.0, 1.0, 2.0, -1.0], np.float32)
    expected = np.exp(logits / 0.7) / np.exp(logits / 0.7).sum()
    sampler = Sampler(0.7, seed=1)
    counts = np.bincount([sampler(logits) for _ in range(4000)], minlength=4)
    assert ((counts - 4000 * expected) ** 2 / (4000 * expected)).sum() < 30.7  # 3 degrees of freedom


@given(LOGITS, st.floats(0, 0.999))
def test_nucleus_is_the_smallest_set(logits: np.ndarray, top_p: float) -> None:
    """The nucleus is the smallest set of most likely tokens that reaches ``top_p``."""
    weights = np.exp(logits.astype(np.float64) - float(logits.max()))
    nucleus = _nucleus(weights, top_p)
    share = weights[nucleus] / weights.sum()
    outside = np.delete(weights, nucleus)
    assert len(nucleus) == len(set(nucleus.tolist())) >= 1
    assert share.sum() >= top_p - 1e-9
    assert share[:-1].sum() < top_p + 1e-9
    assert not len(outside) or outside.max() <= weights[nucleus].min()


def test_top_p_leaves_the_tail_out() -> None:
    """Tokens outside of the nucleus are never drawn."""
    sampler = Sampler(1.0, top_p=0.5, seed=3)
    assert {sampler(np.log(np.array([0.3, 0.3, 0.2, 0.2], np.float32))) for _ in range(200)} == {0, 1}


@pytest.mark.parametrize("temperature", [1e-300, 5e-324, 1e-6])
def test_tiny_temperatures_are_greedy(temperature: float) -> None:
    """A temperature near 0 does not overflow and takes the most likely token."""
    assert Sampler(temperature, 0.9, seed=0)(np.array([1.0, -50.0, 1.5], np.float32)) == 2


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_an_error(bad: float, temperature: float) -> None:
    """Logits that are not finite are an error instead of token 0."""
    with pytest.raises(FtregError, match="not finite"):
        Sampler(temperature)(np.array([0.0, bad], np.float32))


def test_masked_tokens_are_never_drawn() -> None:
    """A logit of minus infinity is a probability of 0."""
    sampler = Sampler(2.0, seed=0)
    assert {sampler(np.array([-np.inf, 0.0, -np.inf], np.float32)) for _ in range(50)} == {1}
