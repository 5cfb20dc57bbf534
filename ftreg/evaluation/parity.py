"""Parity: how much a derived model differs from the model that it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ftreg.core.errors import FtregError
from ftreg.core.types import Engine, NullProgress, Progress, Tolerance
from ftreg.evaluation.numerics import batches, chunks, log_softmax, predicted
from ftreg.evaluation.probe import Probe


@dataclass(frozen=True)
class Parity:
    """How much a derived model (the child) differs from its parent on a probe.

    Attributes:
        kl: Mean KL(parent ‖ child) in nats per compared token.
        kl_max: The largest KL of any compared token.
        top1: Share of compared tokens at which both models rank the same token first.
        loss_parent: Mean loss of the parent, in nats per token.
        loss_child: Mean loss of the child.
        loss_delta: ``loss_child - loss_parent``.
        greedy_prefix: Share of greedily written tokens before the first that differs.
        logit_error: Largest absolute difference of any logit.
        tokens: How many tokens were compared.
    """

    kl: float
    kl_max: float
    top1: float
    loss_parent: float
    loss_child: float
    loss_delta: float
    greedy_prefix: float
    logit_error: float
    tokens: int


class _Sums:
    """Running sums over the compared tokens."""

    def __init__(self) -> None:
        self.tokens = 0
        self.kl = self.kl_max = self.top1 = self.parent = self.child = self.logit_error = 0.0

    def add(self, parent: np.ndarray, child: np.ndarray, labels: np.ndarray) -> None:
        """Add tokens, given the logits of both models, of shape (tokens, vocabulary), and the true ids."""
        places = np.arange(len(labels))
        ours, theirs = log_softmax(parent), log_softmax(child)
        # Rounding can make the divergence of equal distributions slightly negative.
        kl = np.maximum((np.exp(ours) * (ours - theirs)).sum(axis=-1), 0.0)
        self.kl += float(kl.sum())
        self.kl_max = max(self.kl_max, float(kl.max()))
        self.top1 += float((ours.argmax(axis=-1) == theirs.argmax(axis=-1)).sum())
        self.parent -= float(ours[places, labels].sum())
        self.child -= float(theirs[places, labels].sum())
        self.logit_error = max(self.logit_error, float(np.abs(parent - child).max()))
        self.tokens += len(labels)


def measure_parity(
    parent: Engine, child: Engine, probe: Probe, *, max_new_tokens: int = 32, progress: Progress | None = None
) -> Parity:
    """Measure how much ``child`` differs from ``parent`` on ``probe``.

    Args:
        parent: The model that the child was made from.
        child: The derived model; both share the token ids of the probe.
        probe: The text to compare on.
        max_new_tokens: Longest greedy continuation.
        progress: Is told how far the work is.

    Raises:
        FtregError: The models have different vocabularies, or one computes logits that are not finite.
    """
    progress = progress or NullProgress()
    progress.begin("comparing with the source", len(probe.sequences), unit="texts")
    sums, done = _Sums(), 0
    lengths = [len(sequence) for sequence in probe.sequences]
    for batch in batches(lengths, len(parent.tokenizer)):
        ids = [probe.sequences[index] for index in batch]
        rows = zip(batch, parent.logits(ids), child.logits(ids), strict=True)
        for index, ours, theirs in rows:
            _check_logits(ours, theirs)
            positions, labels = predicted(probe.labels[index])
            for part in chunks(len(positions), ours.shape[-1]):
                sums.add(ours[positions[part]], theirs[positions[part]], labels[part])
        done += len(batch)
        progress.update(done, kl=sums.kl / sums.tokens)
    progress.end()
    return Parity(
        kl=sums.kl / sums.tokens,
        kl_max=sums.kl_max,
        top1=sums.top1 / sums.tokens,
        loss_parent=sums.parent / sums.tokens,
        loss_child=sums.child / sums.tokens,
        loss_delta=(sums.child - sums.parent) / sums.tokens,
        greedy_prefix=_greedy_prefix(parent, child, probe.prompts, max_new_tokens),
        logit_error=sums.logit_error,
        tokens=sums.tokens,
    )


def check(parity: Parity, tolerance: Tolerance) -> list[str]:
    """Return a sentence for each figure of ``parity`` that is outside ``tolerance``."""
    limits = [
        ("KL", parity.kl, tolerance.kl, "above"),
        ("top-1 agreement", parity.top1, tolerance.top1, "below"),
        ("loss delta", parity.loss_delta, tolerance.loss_delta, "above"),
        ("greedy prefix", parity.greedy_prefix, tolerance.greedy_prefix, "below"),
        ("logit error", parity.logit_error, tolerance.logit_error, "above"),
    ]
    return [
        f"{name} {value:.4g} is {side} {limit:g}"
        for name, value, limit, side in limits
        if limit is not None and not (value <= limit if side == "above" else value >= limit)
    ]


def _check_logits(parent: np.ndarray, child: np.ndarray) -> None:
    """Raise ``FtregError`` if the logits cannot be compared."""
    if parent.shape != child.shape:
        raise FtregError(
            f"the vocabularies differ: {parent.shape[-1]} tokens in the source, {child.shape[-1]} in the result"
        )
    for name, logits in (("source", parent), ("result", child)):
        if not np.isfinite(logits).all():
            raise FtregError(f"the {name} gives logits that are not finite", hint="Its weights may be damaged.")


def _greedy_prefix(parent: Engine, child: Engine, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> float:
    """Return the share of generated tokens before the first that differs; 1 if neither model generates any."""
    if not prompts:
        return 1.0
    same = longest = 0
    answers = (model.generate(prompts, max_new_tokens=max_new_tokens) for model in (parent, child))
    for ours, theirs in zip(*answers, strict=True):
        length = max(len(ours), len(theirs))
        differing = (index for index, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b)
        same += next(differing, min(len(ours), len(theirs)))
        longest += length
    return same / longest if longest else 1.0
