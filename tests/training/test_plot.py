"""The picture of a run."""

from __future__ import annotations

import numpy as np
import pytest

from ftreg.training.plot import draw_loss, is_wide, smooth


def curve(losses):
    """Steps with the given losses."""
    return [{"step": step, "loss": loss, "learning_rate": 1e-4} for step, loss in enumerate(losses, start=1)]


@pytest.mark.parametrize("steps", [1, 7, 500])
@pytest.mark.parametrize("last", [1.0, 0.01, 0.0])
@pytest.mark.parametrize("evaluates", [True, False])
def test_every_run_has_a_picture(tmp_path, steps, last, evaluates):
    """Short and long runs, with and without validation, whose loss falls a little, a lot, or to nothing."""
    evaluations = [{"step": steps, "loss": 1.5}] if evaluates else []
    best = evaluations[0] if evaluates else None
    draw_loss(tmp_path / "loss.png", "bot", curve(np.geomspace(3, last or 1e-9, steps) * bool(last)), evaluations, best)
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_the_axis_is_logarithmic_when_the_loss_falls_far():
    """A fall by two orders of magnitude needs a logarithmic axis, one to a third does not, and a loss of 0 has none."""
    assert is_wide([5.0, 0.05], [])
    assert is_wide([5.0, 2.0], [0.05])
    assert not is_wide([5.0, 1.7], [1.8])
    assert not is_wide([5.0, 0.0], [])


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("length", [1, 20, 999])
def test_smoothing_keeps_level_and_length(length, log):
    """A constant curve stays what it is, its ends too, and noise gets smaller."""
    assert smooth(np.full(length, 2.5), log=log) == pytest.approx(np.full(length, 2.5))
    noisy = 2.5 + np.random.default_rng(0).uniform(-1, 1, 999)
    assert smooth(noisy, log=log).std() < noisy.std() / 3
