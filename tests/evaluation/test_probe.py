"""Probes: of held-out examples, of built-in text, and beyond borders."""

from __future__ import annotations

import pytest

from ftreg.core.errors import DataError
from ftreg.core.types import Example, Message
from ftreg.data import Encoder
from ftreg.evaluation import make_probe
from ftreg.models.borders import Border
from tests.tiny import make_tokenizer

CHATS = [
    Example(messages=(Message("user", question), Message("assistant", answer)))
    for question, answer in (("Where are my invoices?", "Under Billing."), ("Help", "Write to us at any time, please."))
]


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
    assert len(probe.texts) >= 5
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


def test_a_border_that_the_tokenizer_does_not_reach():
    """A border beyond the tokenizer's own limit, which engines refuse to pass, has no text."""
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 128
    texts = make_probe(tokenizer, CHATS, borders=[Border(64, "window"), Border(256, "context")]).texts
    assert [text.border for text in texts if text.border] == [Border(64, "window")]
    assert max(len(text.ids) for text in texts) <= 128


def test_probe_that_max_length_leaves_empty():
    """Examples whose answers are all cut off cannot be compared."""
    with pytest.raises(DataError, match="no held-out example"):
        make_probe(make_tokenizer(), CHATS, max_length=4)
