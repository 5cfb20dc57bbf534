"""Sampling: chooses the next token from its logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ftreg.core.errors import FtregError


@dataclass(frozen=True)
class SamplingParams:
    """How completions are generated.

    Attributes:
        max_tokens: Largest number of tokens of a completion; None for the server's default, or what the context leaves.
        temperature: See ``Sampler``.
        top_p: See ``Sampler``.
        stop: Strings that end a completion; they are not part of it.
        seed: Seed of a prompt's first completion; each further one adds 1.
        n: Completions of each prompt.
    """

    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int = 1


class Sampler:
    """Chooses the tokens of one completion.

    Each completion has its own random generator, so with a seed it does not depend on what else is generated.

    Args:
        temperature: 0 takes the most likely token, the lowest id among equals; higher values are more varied.
        top_p: Draw only from the most likely tokens that together reach this probability (nucleus sampling, Holtzman et
            al. 2020, "The curious case of neural text degeneration").
        seed: Seed of the generator; None draws one.
    """

    def __init__(self, temperature: float, top_p: float = 1.0, seed: int | None = None) -> None:
        self._temperature = temperature
        self._top_p = top_p
        self._random = np.random.default_rng(None if seed is None else seed % 2**64) if temperature else None

    def __call__(self, logits: np.ndarray) -> int:
        """Choose a token from logits of shape (vocabulary,); raise ``FtregError`` if they are not finite."""
        best = int(np.argmax(logits))
        if not np.isfinite(logits[best]):
            raise FtregError("the model's logits are not finite")
        if self._random is None:
            return best
        with np.errstate(over="ignore"):  # at tiny temperatures all but the best become -inf, as intended
            scaled = (logits.astype(np.float64) - float(logits[best])) / self._temperature
        weights = np.exp(scaled)
        tokens = None if self._top_p >= 1 else _nucleus(weights, self._top_p)
        cumulated = np.cumsum(weights if tokens is None else weights[tokens])
        drawn = int(np.searchsorted(cumulated, self._random.random() * cumulated[-1], side="right"))
        drawn = min(drawn, len(cumulated) - 1)
        return drawn if tokens is None else int(tokens[drawn])


def _nucleus(weights: np.ndarray, top_p: float) -> np.ndarray:
    """Return the fewest token ids whose weights reach ``top_p`` of the sum, at least one, the most likely first."""
    total = float(weights.sum())
    # All tokens below this threshold together weigh less than 1 - top_p, so the rest of the vocabulary is not sorted.
    candidates = np.flatnonzero(weights >= total * (1 - top_p) / len(weights))
    order = candidates[np.argsort(-weights[candidates], kind="stable")]
    reached = int(np.searchsorted(np.cumsum(weights[order]), top_p * total))
    return order[: reached + 1]
