"""Sampling: from the logits of the next token to the token."""

from __future__ import annotations

import numpy as np

from ftreg.core.errors import FtregError


class Sampler:
    """Chooses the tokens of one answer.

    Each answer has a random generator of its own, so that with a seed it is the same whatever else is answered.

    Args:
        temperature: 0 takes the likeliest token, the lowest id of equals; higher is more varied.
        top_p: Only the likeliest tokens that make up this probability are drawn from (Holtzman et al. 2020, "The
            curious case of neural text degeneration").
        seed: Of the generator; None draws one.
    """

    def __init__(self, temperature: float, top_p: float = 1.0, seed: int | None = None) -> None:
        self._temperature = temperature
        self._top_p = top_p
        self._random = np.random.default_rng(None if seed is None else seed % 2**64) if temperature else None

    def __call__(self, logits: np.ndarray) -> int:
        """Choose a token; raise ``FtregError`` for logits that are no numbers."""
        best = int(np.argmax(logits))
        if not np.isfinite(logits[best]):
            raise FtregError("the model's logits are not finite")
        if self._random is None:
            return best
        with np.errstate(over="ignore"):  # at tiny temperatures all but the best are at -inf, as they should be
            scaled = (logits.astype(np.float64) - float(logits[best])) / self._temperature
        weights = np.exp(scaled)
        tokens = None if self._top_p >= 1 else _nucleus(weights, self._top_p)
        cumulated = np.cumsum(weights if tokens is None else weights[tokens])
        drawn = int(np.searchsorted(cumulated, self._random.random() * cumulated[-1], side="right"))
        drawn = min(drawn, len(cumulated) - 1)
        return drawn if tokens is None else int(tokens[drawn])


def _nucleus(weights: np.ndarray, top_p: float) -> np.ndarray:
    """The ids of the fewest tokens whose weights reach ``top_p`` of the sum; at least one, likeliest first."""
    total = float(weights.sum())
    # Together, tokens below this weigh less than what may be left out: large vocabularies need not be sorted whole.
    candidates = np.flatnonzero(weights >= total * (1 - top_p) / len(weights))
    order = candidates[np.argsort(-weights[candidates], kind="stable")]
    reached = int(np.searchsorted(np.cumsum(weights[order]), top_p * total))
    return order[: reached + 1]
