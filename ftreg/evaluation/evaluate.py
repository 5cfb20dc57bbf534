"""A model's loss on held-out examples, its greedy answers to their prompts, and metrics over the answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ftreg.core.errors import DataError, FtregError
from ftreg.core.types import Engine, Example, Metric, NullProgress, Progress
from ftreg.data import Encoder
from ftreg.evaluation.numerics import batches, chunks, log_softmax, predicted

_LONGEST_ANSWER = 512  # tokens


@dataclass(frozen=True)
class AnsweredPrompt:
    """What a model answered to one example.

    Attributes:
        prompt: The rendered prompt, without special tokens.
        reference: The expected answer.
        answer: The model's answer.
    """

    prompt: str
    reference: str
    answer: str

    @property
    def as_expected(self) -> bool:
        """Whether the answer is the reference, apart from white space."""
        return self.answer.split() == self.reference.split()


@dataclass(frozen=True)
class Evaluation:
    """A model's results on held-out examples.

    Attributes:
        loss: Mean loss in nats per labelled token.
        perplexity: ``exp(loss)``.
        tokens: How many tokens are labelled.
        metrics: Each metric's figure over ``answers``; empty if no example has a prompt.
        failed_metrics: Why a metric could not be computed, by its name.
        answers: The greedy answers, in the order of the examples.
    """

    loss: float
    perplexity: float
    tokens: int
    metrics: Mapping[str, float]
    failed_metrics: Mapping[str, str]
    answers: tuple[AnsweredPrompt, ...]

    def __repr__(self) -> str:
        metrics = "".join(f" {name}={figure:.3f}" for name, figure in self.metrics.items())
        return f"<Evaluation loss={self.loss:.4f}{metrics} answers={len(self.answers)}>"


def evaluate(
    engine: Engine,
    examples: Sequence[Example],
    metrics: Mapping[str, Metric],
    *,
    max_length: int = 1024,
    max_new_tokens: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure the model in ``engine`` on ``examples``.

    Args:
        engine: The loaded model.
        examples: Held-out examples.
        metrics: Metrics to compute over the greedy answers, by name; one that raises ``FtregError`` only lacks its own
            figure.
        max_length: Longest example in tokens; never more than the tokenizer's ``model_max_length``.
        max_new_tokens: Longest answer in tokens; by default 1.5 times the longest reference and a few, at most 512.
        progress: Is told how far the work is.

    Raises:
        DataError: There are no examples, or none has a labelled token.
        FtregError: The model's loss is not finite.
    """
    if not examples:
        raise DataError("there are no examples to evaluate on")
    progress = progress or NullProgress()
    encoder = Encoder(engine.tokenizer, max_length=min(max_length, engine.tokenizer.model_max_length))
    loss, tokens = _loss(engine, encoder, examples, progress)
    answers = _answers(engine, encoder, [example for example in examples if example.messages], max_new_tokens, progress)
    texts, references = [each.answer for each in answers], [each.reference for each in answers]
    figures, failures = {}, {}
    for name, metric in metrics.items() if answers else ():
        try:
            figures[name] = metric(texts, references)
        except FtregError as error:  # the other figures are worth having without it
            failures[name] = error.message
    return Evaluation(loss, math.exp(min(loss, 700.0)), tokens, figures, failures, answers)


def held_out_loss(engine: Engine, examples: Sequence[Example], *, max_length: int = 1024) -> float:
    """Return the mean loss of ``examples``, in nats per labelled token; raises as ``evaluate`` does."""
    encoder = Encoder(engine.tokenizer, max_length=min(max_length, engine.tokenizer.model_max_length))
    return _loss(engine, encoder, examples, NullProgress())[0]


def _loss(engine: Engine, encoder: Encoder, examples: Sequence[Example], progress: Progress) -> tuple[float, int]:
    """Return the mean loss in nats per labelled token, and the number of labelled tokens."""
    encoded = [encoder.encode(example) for example in examples]
    progress.begin("loss on held-out examples", len(encoded), unit="examples")
    total, tokens, done = 0.0, 0, 0
    for batch in batches([len(each.input_ids) for each in encoded], len(engine.tokenizer)):
        logits = engine.logits([encoded[index].input_ids for index in batch])
        for index, row in zip(batch, logits, strict=True):
            positions, labels = predicted(encoded[index].labels)
            for part in chunks(len(positions), row.shape[-1]):
                scores = log_softmax(row[positions[part]])
                total -= float(scores[np.arange(len(scores)), labels[part]].sum())
            tokens += len(positions)
        done += len(batch)
        progress.update(done, loss=total / max(tokens, 1))
    progress.end()
    if not tokens:
        raise DataError("no example has a labelled token", hint="See what is labelled with `ftreg.api.data.preview()`")
    if not math.isfinite(total):
        raise FtregError("the model's loss is not finite", hint="Its weights may be damaged.")
    return total / tokens, tokens


def _answers(
    engine: Engine, encoder: Encoder, examples: Sequence[Example], max_new_tokens: int | None, progress: Progress
) -> tuple[AnsweredPrompt, ...]:
    """AnsweredPrompt the prompts of ``examples`` greedily."""
    if not examples:
        return ()
    prompts = [encoder.prompt(example) for example in examples]
    if max_new_tokens is None:
        longest = max(len(engine.tokenizer.encode(reference, add_special_tokens=False)) for _, reference in prompts)
        max_new_tokens = min(longest + longest // 2 + 8, _LONGEST_ANSWER)
    progress.begin("answering held-out prompts", len(prompts), unit="prompts")
    # A prompt that leaves no room for its answer loses its beginning.
    room = max(1, engine.tokenizer.model_max_length - max_new_tokens)
    answers: dict[int, AnsweredPrompt] = {}
    for batch in batches([len(ids) for ids, _ in prompts], 1, largest=32):
        written = engine.generate([prompts[index][0][-room:] for index in batch], max_new_tokens=max_new_tokens)
        for index, tokens in zip(batch, written, strict=True):
            ids, reference = prompts[index]
            answers[index] = AnsweredPrompt(
                prompt=engine.tokenizer.decode(ids, skip_special_tokens=True).strip(),
                reference=reference,
                answer=engine.tokenizer.decode(tokens, skip_special_tokens=True),
            )
        progress.update(len(answers))
    progress.end()
    return tuple(answers[index] for index in range(len(prompts)))
