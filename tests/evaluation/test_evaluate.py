"""Evaluation: loss over labelled tokens, greedy answers, metrics; probes of held-out and of built-in text."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ftreg.core.errors import DataError, FtregError
from ftreg.core.types import Example, Message, NullProgress
from ftreg.data import Encoder
from ftreg.evaluation import evaluate, held_out_loss, make_probe
from ftreg.models.borders import Border
from ftreg.plugins.metrics.text import exact_match, token_f1
from tests.evaluation.helpers import TableEngine
from tests.tiny import make_tokenizer

CHATS = [
    Example(messages=(Message("user", question), Message("assistant", answer)))
    for question, answer in (("Where are my invoices?", "Under Billing."), ("Help", "Write to us at any time, please."))
]


def uniform() -> TableEngine:
    """A model to which all tokens are equally likely."""
    return TableEngine(np.zeros((320, 320)))


def test_uniform_model():
    """A uniform model's loss is the logarithm of the vocabulary, over the answers' tokens only."""
    engine = uniform()
    result = evaluate(engine, CHATS, {"exact_match": exact_match})
    encoder = Encoder(make_tokenizer(), max_length=100)
    labelled = sum(label != -100 for example in CHATS for label in encoder.encode(example).labels[1:])
    assert result.loss == pytest.approx(math.log(320))
    assert result.perplexity == pytest.approx(320)
    assert result.tokens == labelled
    assert result.metrics == {"exact_match": 0.0}
    assert held_out_loss(engine, CHATS) == result.loss


def test_answers_in_the_order_of_the_examples():
    """A model that predicts each next token generates the answer, and the metrics score it."""
    tokenizer = make_tokenizer()
    example = CHATS[0]
    encoded = Encoder(tokenizer, max_length=100).encode(example)
    table = np.zeros((320, 320))
    for before, after, label in zip(encoded.input_ids, encoded.input_ids[1:], encoded.labels[1:], strict=False):
        if label != -100:
            table[before, after] = 9
    result = evaluate(TableEngine(table, tokenizer), [CHATS[1], example], {"exact_match": exact_match})
    assert [answer.reference for answer in result.answers] == ["Write to us at any time, please.", "Under Billing."]
    assert result.answers[1].answer == "Under Billing."
    assert "Where are my invoices?" in result.answers[1].prompt
    assert result.metrics["exact_match"] in (0.5, 1.0)


def test_plain_text_has_a_loss_and_no_answers():
    """Text without prompts is scored by its loss alone."""
    result = evaluate(uniform(), [Example(text="Once upon a time")], {"exact_match": exact_match})
    assert result.loss == pytest.approx(math.log(320))
    assert result.answers == ()
    assert result.metrics == {}


def test_long_prompts_fit_the_context():
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
    evaluate(engine, [CHATS[0], long], {})
    assert max(length for batch in engine.batches for length in batch) <= 40
    assert max(seen) <= 40


def test_nothing_to_evaluate():
    """An empty list of examples, and examples without a labelled token, are data errors."""
    with pytest.raises(DataError, match="no example"):
        evaluate(uniform(), [], {})
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 10
    with pytest.raises(DataError, match="labelled"):
        evaluate(TableEngine(np.zeros((320, 320)), tokenizer), [CHATS[0]], {})


def test_loss_that_is_no_number():
    """A model that computes NaN is an error."""
    with pytest.raises(FtregError, match="not finite"):
        evaluate(TableEngine(np.full((320, 320), np.nan)), CHATS, {})


def test_progress_reaches_its_end():
    """Each progress bar starts with its length and ends at it."""
    log: list[tuple[str, object]] = []

    class Log(NullProgress):
        def begin(self, what, total=None, unit="steps"):
            log.append(("begin", total))

        def update(self, done, **facts):
            log.append(("update", done))

        def end(self):
            log.append(("end", None))

    evaluate(uniform(), CHATS, {}, progress=Log())
    assert log[0] == ("begin", 2)
    assert [log[index - 1] for index, entry in enumerate(log) if entry[0] == "end"] == [("update", 2)] * 2


def test_probe_of_held_out_examples():
    """A probe compares the answers' tokens and continues the prompts."""
    probe = make_probe(make_tokenizer(), CHATS)
    assert probe.tokens == sum(label != -100 for text in probe.texts for label in text.labels)
    encoder = Encoder(make_tokenizer(), max_length=100)
    assert probe.source == "held-out"
    assert {text.ids for text in probe.texts} == {tuple(encoder.encode(example).input_ids) for example in CHATS}
    assert {text.labels for text in probe.texts} == {tuple(encoder.encode(example).labels) for example in CHATS}
    assert set(probe.prompts) == {tuple(encoder.prompt(example)[0]) for example in CHATS}


def test_probe_takes_from_the_whole_list():
    """Of many examples, those of the probe are spread over all, and they end with the tokens asked for."""
    examples = [Example(text=f"Text number {number:02}") for number in range(100)]
    tokenizer = make_tokenizer()
    length = len(Encoder(tokenizer, max_length=100).encode(examples[0]).input_ids)
    probe = make_probe(tokenizer, examples, tokens=9 * length + 1, prompts=3)
    texts = [tokenizer.decode(text.ids, skip_special_tokens=True) for text in probe.texts]
    assert len(texts) == 10
    assert {int(text[-2:]) // 20 for text in texts} == set(range(5))
    assert len(probe.prompts) == 3


def test_probe_without_examples():
    """Without held-out data there is built-in text, all of whose tokens count."""
    probe = make_probe(make_tokenizer(), [])
    assert probe.source == "built-in"
    assert len(probe.texts) >= 10
    assert all(-100 not in text.labels for text in probe.texts)
    assert probe.prompts


@pytest.mark.parametrize(
    ("what", "length", "longest"), [("window", 64, 112), ("window", 240, 256), ("context", 256, 256)]
)
def test_probe_beyond_a_border(what, length, longest):
    """Beyond a border, the end of a text is compared that only a look further back than the border predicts."""
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 256
    text = make_probe(tokenizer, CHATS, borders=[Border(length, what)]).texts[-1]
    assert (len(text.ids), text.tokens, text.border) == (longest, 24, Border(length, what))
    assert text.labels[-24:] == text.ids[-24:]
    if longest > length + 12:
        assert text.ids[length + 12 :] == text.ids[: longest - length - 12]


def test_probe_that_max_length_leaves_empty():
    """Examples whose answers are all cut off cannot be compared."""
    with pytest.raises(DataError, match="no held-out example"):
        make_probe(make_tokenizer(), CHATS, max_length=4)


@pytest.mark.parametrize(
    ("answer", "reference", "exact", "f1"),
    [
        ("Under Billing.", "Under Billing.", 1, 1.0),
        ("  Under\nBilling. ", "Under Billing.", 1, 1.0),
        ("under billing", "Under Billing.", 0, 1.0),
        ("Under the Billing", "Under Billing", 0, 1.0),
        ("Under", "Under Billing", 0, 2 / 3),
        ("no no yes", "no", 0, 0.5),
        ("", "Under", 0, 0.0),
        ("", "", 1, 1.0),
    ],
)
def test_metrics(answer, reference, exact, f1):
    """Exact match ignores white space only; F1 compares bags of words."""
    assert exact_match([answer], [reference]) == exact
    assert token_f1([answer], [reference]) == pytest.approx(f1)
    assert exact_match([answer, "x"], [reference, "y"]) == exact / 2
