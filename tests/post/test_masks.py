"""Masks of pruning: exactly the lowest scores, exactly as many as configured, in patterns N:M too."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ftreg.core.errors import FtregError, InfeasiblePlan, RecipeError
from ftreg.core.recipe import validate
from ftreg.core.yaml12 import read_yaml
from ftreg.plugins.post.config import PruneConfig
from ftreg.plugins.post.prune.masks import check_pattern, least_of_rows, require_width

PATTERNS = st.integers(2, 16).flatmap(lambda group: st.tuples(st.integers(1, group - 1), st.just(group)))
SCORES = st.sampled_from([0.0, 0.25, 0.25, 0.5, 1.0, 2.0])  # with ties


@given(st.data(), PATTERNS, st.integers(1, 3), st.integers(1, 4))
def test_a_pattern_keeps_the_highest_of_each_group(data, pattern, rows, groups):
    """Each group of M neighbours keeps N, none of which scores below one that is left out; nothing else counts."""
    kept, group = pattern
    values = data.draw(st.lists(SCORES, min_size=rows * groups * group, max_size=rows * groups * group))
    scores = torch.tensor(values).view(rows, groups * group)
    config = PruneConfig(pattern=f"{kept}:{group}")
    assert config.sparsity == 1 - kept / group
    mask = least_of_rows(scores, config).view(-1, group)
    assert (mask.sum(dim=1) == group - kept).all()
    for row, zero in zip(scores.view(-1, group), mask, strict=True):
        assert row[zero].max() <= row[~zero].min()


@given(st.data(), st.floats(0.01, 0.99), st.integers(1, 3), st.integers(1, 40))
def test_a_share_is_exact_in_each_row(data, sparsity, rows, inputs):
    """Each row loses the rounded share of its lowest scores."""
    scores = torch.tensor(data.draw(st.lists(SCORES, min_size=rows * inputs, max_size=rows * inputs)))
    scores = scores.view(rows, inputs)
    mask = least_of_rows(scores, PruneConfig(sparsity=sparsity))
    count = round(sparsity * inputs)
    assert (mask.sum(dim=1) == count).all()
    for row, zero in zip(scores, mask, strict=True):
        if 0 < count < inputs:
            assert row[zero].max() <= row[~zero].min()


@pytest.mark.parametrize("text", ["2:4", "4:8", "1:4", "3:7"])
def test_a_recipe_names_a_pattern(text):
    """A pattern is text in a recipe, and sets the sparsity; the same sparsity may be given beside it."""
    config = validate(PruneConfig, read_yaml(f"{{pattern: {text}}}"), where="prune")
    kept, group = map(int, text.split(":"))
    assert config.n_of_m == (kept, group)
    assert config.sparsity == 1 - kept / group
    assert validate(PruneConfig, config.model_dump(), where="prune") == config


@pytest.mark.parametrize("pattern", ["4:2", "4:4", "0:4", "2", "two:four", "2:4:8", 124, ""])
def test_what_is_not_a_pattern_is_refused(pattern):
    """Anything but unstructured and N:M with 0 < N < M is an error that shows what was given."""
    with pytest.raises(RecipeError, match="neither unstructured nor N:M"):
        validate(PruneConfig, {"pattern": pattern}, where="prune")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pattern": "2:4", "sparsity": 0.3}, r"2:4 has sparsity 0\.5"),
        ({"pattern": "1:4", "sparsity": 0.5}, r"1:4 has sparsity 0\.75"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    """A pattern fixes the sparsity."""
    with pytest.raises(RecipeError, match=message):
        validate(PruneConfig, settings, where="prune")


def test_widths_and_patterns_are_checked():
    """A width that the pattern does not divide, and a weight that was written without it, are errors."""
    config = PruneConfig(pattern="2:4")
    with pytest.raises(InfeasiblePlan, match="needs a multiple of 4"):
        require_width("w", 6, config)
    check_pattern("w", torch.tensor([[1.0, 0, 1, 0, 0, 0, 0, 1]]), config)
    with pytest.raises(FtregError, match="without the pattern"):
        check_pattern("w", torch.tensor([[1.0, 0, 1, 0, 1, 0, 1, 1]]), config)
