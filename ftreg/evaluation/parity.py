"""Parity: how much a derived model differs from the model that it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from ftreg.core.errors import FtregError
from ftreg.core.types import Engine, NullProgress, Progress, Tolerance
from ftreg.evaluation.numerics import batches, chunks, log_softmax, predicted
from ftreg.evaluation.probe import Probe
from ftreg.models.borders import Border


@dataclass(frozen=True)
class Outputs:
    """What a model computes on a probe.

    Attributes:
        logits: The logits at the compared positions, float32 of shape (tokens, vocabulary), in a file.
        answers: The greedy continuation of each prompt, without the end-of-sequence token.
    """

    logits: np.ndarray
    answers: tuple[Sequence[int], ...]


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

    def parity(self, greedy_prefix: float) -> Parity:
        """Return the figures."""
        return Parity(
            kl=self.kl / self.tokens,
            kl_max=self.kl_max,
            top1=self.top1 / self.tokens,
            loss_parent=self.parent / self.tokens,
            loss_child=self.child / self.tokens,
            loss_delta=(self.child - self.parent) / self.tokens,
            greedy_prefix=greedy_prefix,
            logit_error=self.logit_error,
            tokens=self.tokens,
        )

    def beyond(self, border: Border, length: int) -> BorderParity:
        """Return the figures of a text of ``length`` tokens that reaches beyond ``border``."""
        kl, top1 = self.kl / self.tokens, self.top1 / self.tokens
        return BorderParity(border.what, border.length, length, self.tokens, kl, top1, self.logit_error)


@dataclass(frozen=True)
class BorderParity:
    """How much a derived model differs from its parent at the end of a text that reaches beyond a border.

    Attributes:
        what: What changes at the border; see ``Border``.
        border: The border's length, in tokens.
        length: The text's length.
        tokens: How many tokens at the text's end were compared.
        kl: Mean KL(parent ‖ child) in nats per compared token.
        top1: Share of compared tokens at which both models rank the same token first.
        logit_error: Largest absolute difference of any logit.
    """

    what: str
    border: int
    length: int
    tokens: int
    kl: float
    top1: float
    logit_error: float


def compute_outputs(model: Engine, probe: Probe, file: Path, *, what: str, progress: Progress | None = None) -> Outputs:
    """Run a model on a probe, so that it can be closed before the model that it is compared with is loaded.

    Args:
        model: The model.
        probe: The texts.
        file: Where to write the logits: 4 bytes for each compared token and entry of the vocabulary.
        what: What the model is, for messages: ``source`` or ``result``.
        progress: Is told how far the work is.

    Raises:
        FtregError: The model computes logits that are not finite.
    """
    progress = progress or NullProgress()
    progress.begin(f"computing the {what} on held-out text", len(probe.texts), unit="texts")
    starts = [0, *accumulate(text.tokens for text in probe.texts)]
    vocabulary = done = 0
    with file.open("wb") as out:
        for batch in batches([len(text.ids) for text in probe.texts], len(model.tokenizer)):
            texts = [probe.texts[index] for index in batch]
            places = [predicted(text.labels)[0] for text in texts]
            last = max(len(text.ids) - int(place[0]) for text, place in zip(texts, places, strict=True))
            computed = model.logits([text.ids for text in texts], last=last)
            for index, text, place, row in zip(batch, texts, places, computed, strict=True):
                if not np.isfinite(row).all():
                    raise FtregError(f"the {what} gives logits that are not finite", hint="Its weights are broken.")
                vocabulary = row.shape[-1]
                out.seek(starts[index] * vocabulary * row.itemsize)
                out.write(row[place - (len(text.ids) - len(row))].tobytes())
            done += len(batch)
            progress.update(done)
    progress.end()
    answers: dict[int, Sequence[int]] = {}
    for batch in batches([len(prompt) for prompt in probe.prompts], len(model.tokenizer)):
        written = model.generate([probe.prompts[index] for index in batch], max_new_tokens=probe.new_tokens)
        answers.update(zip(batch, written, strict=True))
    logits = np.memmap(file, dtype=np.float32, mode="r", shape=(probe.tokens, vocabulary))
    return Outputs(logits, tuple(answers[index] for index in range(len(answers))))


def measure_parity(parent: Outputs, child: Outputs, probe: Probe) -> tuple[Parity, tuple[BorderParity, ...]]:
    """Measure how much a derived model differs from the model that it was made from.

    Args:
        parent: What the source computes on ``probe``.
        child: What the derived model computes; both share the token ids of the probe.
        probe: The texts.

    Returns:
        The figures over the ordinary texts, and those of each text that reaches beyond a border.

    Raises:
        FtregError: The models have different vocabularies.
    """
    ours, theirs = parent.logits.shape[-1], child.logits.shape[-1]
    if ours != theirs:
        raise FtregError(f"the vocabularies differ: {ours} tokens in the source, {theirs} in the result")
    greedy = _greedy_prefix(parent.answers, child.answers)
    ordinary, beyond = _Sums(), list[BorderParity]()
    start = 0
    for text in probe.texts:
        sums = ordinary if text.border is None else _Sums()
        labels = predicted(text.labels)[1]
        for part in chunks(len(labels), ours):
            rows = slice(start + part.start, min(start + part.stop, start + len(labels)))
            sums.add(parent.logits[rows], child.logits[rows], labels[part])
        start += len(labels)
        if text.border is not None:
            beyond.append(sums.beyond(text.border, len(text.ids)))
    return ordinary.parity(greedy), tuple(beyond)


def check(parity: Parity, tolerance: Tolerance, beyond: Sequence[BorderParity] = ()) -> list[str]:
    """Return a sentence for each figure that is outside ``tolerance``.

    Beyond a border only KL and logit error are checked: a share of so few tokens means little.
    """
    failures = [
        *_above("KL", parity.kl, tolerance.kl),
        *_below("top-1 agreement", parity.top1, tolerance.top1),
        *_above("loss delta", parity.loss_delta, tolerance.loss_delta),
        *_below("greedy prefix", parity.greedy_prefix, tolerance.greedy_prefix),
        *_above("logit error", parity.logit_error, tolerance.logit_error),
    ]
    for each in beyond:
        place = f"beyond the {each.what} of {each.border} tokens, "
        failures += _above(f"{place}KL", each.kl, tolerance.kl)
        failures += _above(f"{place}logit error", each.logit_error, tolerance.logit_error)
    return failures


def _above(name: str, value: float, limit: float | None) -> list[str]:
    """Return a sentence if ``value`` is above its limit, or NaN."""
    return [] if limit is None or value <= limit else [f"{name} {value:.4g} is above {limit:g}"]


def _below(name: str, value: float, limit: float | None) -> list[str]:
    """Return a sentence if ``value`` is below its limit, or NaN."""
    return [] if limit is None or value >= limit else [f"{name} {value:.4g} is below {limit:g}"]


def _greedy_prefix(parent: Sequence[Sequence[int]], child: Sequence[Sequence[int]]) -> float:
    """Return the share of generated tokens before the first that differs; 1 if neither model generates any."""
    same = longest = 0
    for ours, theirs in zip(parent, child, strict=True):
        differing = (index for index, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b)
        same += next(differing, min(len(ours), len(theirs)))
        longest += max(len(ours), len(theirs))
    return same / longest if longest else 1.0
