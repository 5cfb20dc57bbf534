"""A model's loss on held-out examples, and its greedy answers to their prompts.

Examples are read in windows, and those of a window are computed in batches of similar length. What is found goes into a
file, so that the memory does not depend on the number of examples.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from ftreg.core.errors import DataError, FtregError
from ftreg.core.types import AnsweredPrompt, Engine, Example, NullProgress, Progress
from ftreg.data import Encoder, last_answer, write_row
from ftreg.evaluation.numerics import batches, chunks, log_softmax, predicted

_WINDOW = 512  # examples
_LONGEST_ANSWER = 512  # tokens


@dataclass(frozen=True)
class TokenScores:
    """How well a model predicts labelled tokens, each from the true tokens before it (teacher forcing).

    Attributes:
        nats: The sum of their losses.
        tokens: How many tokens are labelled.
        correct: How many of these the model ranks first.
    """

    nats: float = 0.0
    tokens: int = 0
    correct: int = 0

    def __add__(self, other: TokenScores) -> TokenScores:
        return TokenScores(self.nats + other.nats, self.tokens + other.tokens, self.correct + other.correct)

    @property
    def loss(self) -> float:
        """Mean loss in nats per token."""
        return self.nats / self.tokens

    @property
    def accuracy(self) -> float:
        """Share of the tokens that the model ranks first."""
        return self.correct / self.tokens


@dataclass(frozen=True)
class Measurement:
    """What ``measure`` found on all examples; the file that it wrote has the same for each.

    Attributes:
        scores: The model's predictions of the labelled tokens.
        answered: How many examples have a prompt, which the model answered.
        answer_tokens: How many tokens the answers have.
        answer_seconds: How long the model took to generate them.
        max_new_tokens: The longest answer that the model could give, in tokens.
    """

    scores: TokenScores
    answered: int
    answer_tokens: int
    answer_seconds: float
    max_new_tokens: int


def measure(
    engine: Engine,
    examples: Collection[Example],
    file: Path,
    *,
    max_length: int = 1024,
    max_new_tokens: int | None = None,
    window: int = _WINDOW,
    progress: Progress | None = None,
) -> Measurement:
    """Compute the loss of ``examples``, and answer their prompts greedily.

    Args:
        engine: The loaded model.
        examples: Held-out examples; they are iterated over twice.
        file: Where to write what is found on each example, for ``ftreg.data.AnswerFile``.
        max_length: Longest example in tokens; never more than the tokenizer's ``model_max_length``.
        max_new_tokens: Longest answer in tokens; by default 1.5 times the longest reference and a few, at most 512.
        window: Examples to hold in memory at a time; batches are made of those of similar length.
        progress: Is told how far the work is.

    Raises:
        DataError: ``examples`` is empty, or no example has a labelled token.
        FtregError: The model's loss is not finite.
    """
    if not examples:
        raise DataError("the data to evaluate on is empty")
    encoder = _encoder(engine, max_length)
    chats, longest = _survey(engine, examples, window)
    if max_new_tokens is None:
        max_new_tokens = min(longest + longest // 2 + 8, _LONGEST_ANSWER)
    meter = _Meter(progress or NullProgress(), len(examples) + chats)
    with file.open("w", encoding="utf-8") as out:
        for held in _windows(examples, window):
            scores = _score(engine, encoder, held, meter)
            answers = iter(_answer(engine, encoder, [one for one in held if one.messages], max_new_tokens, meter))
            for example, score in zip(held, scores, strict=True):
                answer = next(answers) if example.messages else None
                write_row(out, score.nats, score.tokens, score.correct, answer)
    meter.end()
    return Measurement(_checked(meter.scores), chats, meter.answer_tokens, meter.answer_seconds, max_new_tokens)


def held_out_loss(engine: Engine, examples: Iterable[Example], *, max_length: int = 1024) -> float:
    """Return the mean loss of ``examples``, in nats per labelled token; raises as ``measure`` does."""
    encoder = _encoder(engine, max_length)
    meter = _Meter(NullProgress(), None)
    for held in _windows(examples, _WINDOW):
        _score(engine, encoder, held, meter)
    return _checked(meter.scores).loss


class _Meter:
    """Adds up what has been computed so far, and reports it."""

    def __init__(self, progress: Progress, total: int | None) -> None:
        self.scores = TokenScores()
        self.answer_tokens = 0
        self.answer_seconds = 0.0
        self._progress = progress
        self._done = 0
        progress.begin("evaluating on held-out examples", total, unit="sequences")

    def add(self, sequences: int, scores: Iterable[TokenScores] = ()) -> None:
        """Count ``sequences`` that were scored or answered; raise ``FtregError`` if their loss is not finite."""
        self.scores = sum(scores, self.scores)
        if not math.isfinite(self.scores.nats):
            raise FtregError("the model's loss is not finite", hint="Its weights may be damaged.")
        self._done += sequences
        self._progress.update(self._done, loss=self.scores.nats / max(self.scores.tokens, 1))

    def end(self) -> None:
        """End the report."""
        self._progress.end()


def _checked(scores: TokenScores) -> TokenScores:
    """Return ``scores``; raise ``DataError`` if they are about no token."""
    if not scores.tokens:
        raise DataError("no example has a labelled token", hint="See what is labelled with `ftreg.api.data.preview()`")
    return scores


def _encoder(engine: Engine, max_length: int) -> Encoder:
    return Encoder(engine.tokenizer, max_length=min(max_length, engine.tokenizer.model_max_length))


def _windows(examples: Iterable[Example], size: int) -> Iterator[list[Example]]:
    """Yield the examples in lists of ``size``."""
    rest = iter(examples)
    while held := list(islice(rest, size)):
        yield held


def _survey(engine: Engine, examples: Iterable[Example], window: int) -> tuple[int, int]:
    """Return how many examples have a prompt, and the length of the longest reference in tokens."""
    chats = longest = 0
    for held in _windows(examples, window):
        references = [last_answer(example) for example in held if example.messages]
        chats += len(references)
        longest = max([longest, *_lengths(engine, references)])
    return chats, longest


def _lengths(engine: Engine, texts: Sequence[str]) -> list[int]:
    """Return the number of tokens of each text, without special tokens."""
    if not texts:
        return []
    return [len(ids) for ids in engine.tokenizer(list(texts), add_special_tokens=False)["input_ids"]]


def _score(engine: Engine, encoder: Encoder, examples: Sequence[Example], meter: _Meter) -> list[TokenScores]:
    """Return how well the model predicts the labelled tokens of each example."""
    encoded = encoder.encode_batch(examples)
    scores = [TokenScores()] * len(encoded)
    for batch in batches([len(each.input_ids) for each in encoded], len(engine.tokenizer)):
        logits = engine.logits([encoded[index].input_ids for index in batch])
        for index, row in zip(batch, logits, strict=True):
            scores[index] = _score_tokens(row, encoded[index].labels)
        meter.add(len(batch), (scores[index] for index in batch))
    return scores


def _score_tokens(logits: np.ndarray, labels: Sequence[int]) -> TokenScores:
    """Score one sequence, given its logits of shape (tokens, vocabulary)."""
    positions, following = predicted(labels)
    nats, correct = 0.0, 0
    for part in chunks(len(positions), logits.shape[-1]):
        scores, expected = log_softmax(logits[positions[part]]), following[part]
        nats -= float(scores[np.arange(len(scores)), expected].sum())
        correct += int((scores.argmax(axis=-1) == expected).sum())
    return TokenScores(nats, len(positions), correct)


def _answer(
    engine: Engine, encoder: Encoder, examples: Sequence[Example], max_new_tokens: int, meter: _Meter
) -> list[AnsweredPrompt]:
    """Answer the prompts of ``examples`` greedily."""
    prompts = [encoder.prompt(example) for example in examples]
    reference_tokens = _lengths(engine, [reference for _, reference in prompts])
    # A prompt that leaves no room for its answer loses its beginning.
    room = max(1, engine.tokenizer.model_max_length - max_new_tokens)
    written: dict[int, list[int]] = {}
    for batch in batches([len(ids) for ids, _ in prompts], 1, largest=32):
        started = time.perf_counter()
        rows = engine.generate([prompts[index][0][-room:] for index in batch], max_new_tokens=max_new_tokens)
        meter.answer_seconds += time.perf_counter() - started
        meter.answer_tokens += sum(map(len, rows))
        written.update(zip(batch, rows, strict=True))
        meter.add(len(batch))
    return [
        AnsweredPrompt(
            prompt=engine.tokenizer.decode(ids, skip_special_tokens=True).strip(),
            reference=reference,
            answer=engine.tokenizer.decode(written[index], skip_special_tokens=True),
            prompt_tokens=len(ids),
            reference_tokens=reference_tokens[index],
            answer_tokens=len(written[index]),
            cut=len(written[index]) >= max_new_tokens,
            fields=examples[index].fields,
        )
        for index, (ids, reference) in enumerate(prompts)
    ]
