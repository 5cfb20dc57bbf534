"""How much worse one model is than another on the same examples, with what chance alone would explain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_RESAMPLES = 2000
_CHUNK_VALUES = 1 << 22  # 32 MB of float64
_SEED = 0


@dataclass(frozen=True)
class ExampleScores:
    """What a figure is computed from: the sum of ``sums`` over the examples, divided by the sum of ``weights``.

    A loss is the nats of all examples divided by their tokens; a mean score has a weight of 1 for each answer.

    Attributes:
        sums: One value for each example, of shape (examples,).
        weights: The same.
    """

    sums: Floats
    weights: Floats

    @property
    def value(self) -> float:
        """The figure."""
        return float(self.sums.sum() / self.weights.sum())


def change_interval(before: ExampleScores, after: ExampleScores, *, level: float) -> tuple[float, float]:
    """Return the confidence interval of ``after.value - before.value``, by a paired bootstrap over the examples.

    Examples are drawn with replacement, the same for both models, 2,000 times; the interval consists of percentiles
    (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13). Equal inputs give equal intervals.

    Args:
        before: One model's scores.
        after: The other's, of the same examples.
        level: The confidence, such as 0.95.
    """
    columns = np.stack([before.sums, before.weights, after.sums, after.weights], axis=1)
    examples = len(columns)
    generator = np.random.default_rng(_SEED)
    size = max(1, _CHUNK_VALUES // examples)
    totals = np.concatenate(
        [
            generator.multinomial(examples, np.full(examples, 1 / examples), size=min(size, _RESAMPLES - done))
            @ columns
            for done in range(0, _RESAMPLES, size)
        ]
    )
    totals = totals[(totals[:, 1] > 0) & (totals[:, 3] > 0)]
    changes = totals[:, 2] / totals[:, 3] - totals[:, 0] / totals[:, 1]
    tail = (1 - level) / 2
    low, high = np.quantile(changes, (tail, 1 - tail))
    return float(low), float(high)
