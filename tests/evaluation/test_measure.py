"""Measuring: loss over labelled tokens and greedy answers, in flat memory."""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from ftreg.core.errors import DataError, FtregError
from ftreg.core.types import Example, Message, NullProgress
from ftreg.data import AnswerFile, Encoder
from ftreg.evaluation import Measurement, held_out_loss, measure
from tests.evaluation.helpers import TableEngine, peak
from tests.tiny import make_tokenizer

CHATS = [
    Example(messages=(Message("user", question), Message("assistant", answer)))
    for question, answer in (("Where are my invoices?", "Under Billing."), ("Help", "Write to us at any time, please."))
]


def uniform() -> TableEngine:
    """A model to which all tokens are equally likely."""
    return TableEngine(np.zeros((320, 320)))


def knowing(example: Example) -> TableEngine:
    """A model that predicts each token of one answer."""
    tokenizer = make_tokenizer()
    encoded = Encoder(tokenizer, max_length=100).encode(example)
    table = np.zeros((320, 320))
    for before, after, label in zip(encoded.input_ids, encoded.input_ids[1:], encoded.labels[1:], strict=False):
        if label != -100:
            table[before, after] = 9
    return TableEngine(table, tokenizer)


def measured(engine: TableEngine, examples: Collection[Example], folder: Path) -> tuple[Measurement, AnswerFile]:
    """Measure a model, and open its answers."""
    found = measure(engine, examples, folder / "answers.jsonl")
    return found, AnswerFile(folder / "answers.jsonl", found.answered)


def test_uniform_model(tmp_path: Path) -> None:
    """A uniform model's loss is the logarithm of the vocabulary, over the answers' tokens only."""
    engine = uniform()
    found, answers = measured(engine, CHATS, tmp_path)
    encoder = Encoder(make_tokenizer(), max_length=100)
    labelled = sum(label != -100 for example in CHATS for label in encoder.encode(example).labels[1:])
    assert found.scores.loss == pytest.approx(math.log(320))
    assert found.scores.tokens == labelled
    assert found.answered == len(answers) == 2
    assert held_out_loss(engine, CHATS) == found.scores.loss


def test_token_accuracy(tmp_path: Path) -> None:
    """The share of labelled tokens that the model ranks first, given the true tokens before each."""
    example = CHATS[1]
    engine = knowing(example)
    certain, _ = measured(engine, [example], tmp_path)
    encoded = Encoder(make_tokenizer(), max_length=100).encode(example)
    pairs = zip(encoded.input_ids, encoded.labels[1:], strict=False)
    right = [engine.table[before].argmax() == label for before, label in pairs if label != -100]
    assert certain.scores.accuracy == sum(right) / len(right) > 0.5
    uninformed, _ = measured(uniform(), [example], tmp_path)  # ranks token 0 first
    assert uninformed.scores.accuracy == 0


def test_answers_in_the_order_of_the_examples(tmp_path: Path) -> None:
    """A model that predicts each next token generates the answer; the file has the answers in the examples' order."""
    _, answers = measured(knowing(CHATS[0]), [CHATS[1], CHATS[0]], tmp_path)
    first, second = answers
    assert [first.reference, second.reference] == ["Write to us at any time, please.", "Under Billing."]
    assert second.answer == "Under Billing."
    assert second.as_expected
    assert "Where are my invoices?" in second.prompt


def test_what_the_file_holds(tmp_path: Path) -> None:
    """Each line has the loss of its example, lengths in tokens and other columns; plain text has its loss alone."""
    example = Example(messages=CHATS[0].messages, fields={"topic": "billing"})
    found, answers = measured(knowing(example), [Example(text="Once upon a time"), example], tmp_path)
    text, chat = (json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines())
    assert text.keys() == {"loss", "tokens", "correct"}
    assert text["loss"] + chat["loss"] == pytest.approx(found.scores.nats)
    assert text["tokens"] + chat["tokens"] == found.scores.tokens
    assert text["correct"] + chat["correct"] == found.scores.correct
    (answer,) = answers
    tokenizer = make_tokenizer()
    assert answer.fields == {"topic": "billing"}
    assert answer.prompt_tokens == len(Encoder(tokenizer, max_length=100).prompt(example)[0])
    assert answer.reference_tokens == len(tokenizer.encode("Under Billing.", add_special_tokens=False))
    assert answer.answer_tokens == answer.reference_tokens
    assert not answer.cut


def test_answers_that_never_end_are_cut(tmp_path: Path) -> None:
    """An answer has 1.5 times the tokens of the longest reference and eight at most, and says that it may be cut."""
    table = np.zeros((320, 320))
    table[:, 5] = 1
    found, answers = measured(TableEngine(table), CHATS, tmp_path)
    longest = max(answer.reference_tokens for answer in answers)
    assert found.max_new_tokens == longest + longest // 2 + 8
    assert [(answer.cut, answer.answer_tokens) for answer in answers] == [(True, found.max_new_tokens)] * 2


def test_plain_text_has_a_loss_and_no_answers(tmp_path: Path) -> None:
    """Text without prompts is scored by its loss alone."""
    found, answers = measured(uniform(), [Example(text="Once upon a time")], tmp_path)
    assert found.scores.loss == pytest.approx(math.log(320))
    assert list(answers) == []


def test_long_prompts_fit_the_context(tmp_path: Path) -> None:
    """Examples and prompts longer than the model's context are cut rather than failing."""
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 40
    seen: list[int] = []

    class Short(TableEngine):
        def generate(self, batch, *, max_new_tokens):
            seen.extend(len(row) + max_new_tokens for row in batch)
            return super().generate(batch, max_new_tokens=max_new_tokens)

    engine = Short(np.zeros((320, 320)), tokenizer)
    long = Example(messages=(Message("user", "please " * 40), Message("assistant", "Yes.")))
    measured(engine, [CHATS[0], long], tmp_path)
    assert max(length for batch in engine.batches for length in batch) <= 40
    assert max(seen) <= 40


def test_nothing_to_evaluate(tmp_path: Path) -> None:
    """An empty list of examples, and examples without a labelled token, are data errors."""
    with pytest.raises(DataError, match="the data to evaluate on is empty"):
        measured(uniform(), [], tmp_path)
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 10
    with pytest.raises(DataError, match="labelled"):
        measured(TableEngine(np.zeros((320, 320)), tokenizer), [CHATS[0]], tmp_path)


def test_loss_that_is_not_a_number(tmp_path: Path) -> None:
    """A model that computes NaN is an error."""
    with pytest.raises(FtregError, match="not finite"):
        measured(TableEngine(np.full((320, 320), np.nan)), CHATS, tmp_path)


def test_progress_reaches_its_end(tmp_path: Path) -> None:
    """The progress bar starts with the number of sequences to read and to answer, and ends at it."""
    log: list[tuple[str, object]] = []

    class Log(NullProgress):
        def begin(self, what, total=None, unit="steps"):
            log.append(("begin", total))

        def update(self, done, **facts):
            log.append(("update", done))

        def end(self):
            log.append(("end", None))

    measure(uniform(), [*CHATS, Example(text="Once upon a time")], tmp_path / "answers", progress=Log())
    assert log[0] == ("begin", 5)
    assert log[-2:] == [("update", 5), ("end", None)]


@dataclass(frozen=True)
class Many(Collection[Example]):
    """Many short examples, made when they are iterated over."""

    count: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Example]:
        for number in range(self.count):
            yield Example(messages=(Message("user", f"{number:04}?"), Message("assistant", f"{number:04}")))

    def __contains__(self, example: object) -> bool:
        raise NotImplementedError


class Forgetful(TableEngine):
    """A table that does not remember its batches, and collects garbage, so that only what is held counts."""

    def logits(self, batch, *, last=None):
        gc.collect()
        return [self.table[np.array(row)] for row in batch]


def test_memory_is_flat_in_the_number_of_rows(tmp_path: Path) -> None:
    """Four times the rows take no more memory at the peak; what is held is a window of them."""
    engine = Forgetful(np.zeros((320, 320)), make_tokenizer())

    def run(count: int, window: int = 20) -> None:
        measure(engine, Many(count), tmp_path / "answers.jsonl", window=window)

    run(100)  # fills caches
    few, many, at_once = peak(lambda: run(100)), peak(lambda: run(400)), peak(lambda: run(400, window=400))
    assert many < 1.05 * few
    assert at_once > 2 * many
