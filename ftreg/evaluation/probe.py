"""Probes: the text on which a derived model is compared with the model that it was made from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

from ftreg.core.errors import DataError
from ftreg.core.types import Example
from ftreg.data import Encoder
from ftreg.models.borders import Border

_BUILT_IN = (
    "The committee met on Tuesday to discuss the budget for the coming year, and agreed to meet again in a month.",
    "How do I reset my password? Open the settings, choose security, and follow the link that we send you by mail.",
    "def fibonacci(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a\n",
    "Water boils at a lower temperature on a mountain, because the pressure of the air falls with the height.",
    "Return a list of all items whose price is below the limit, sorted by date, the newest first.",
    "She closed the door, put the kettle on, and read the letter a second time before she answered it.",
    "The function raises ValueError if the argument is negative; otherwise it returns the square root as a float.",
    "In 1969, after a journey of four days, two people walked on the Moon for the first time.",
    "Please find attached the invoice number 20431 for the services provided in March. Payment is due in 30 days.",
    "To make bread you need flour, water, salt and yeast; the rest is patience and a hot oven.",
    "SELECT name, COUNT(*) FROM orders WHERE status = 'open' GROUP BY name ORDER BY 2 DESC;",
    "Light travels about 300,000 kilometres in a second, so what we see of the stars is long past.",
)


_BEYOND = 24
"""Tokens of a long text that lie beyond its border."""


@dataclass(frozen=True)
class ProbeText:
    """A text to compare two models on.

    Attributes:
        ids: Its token ids.
        labels: For each token, its id if it is compared, -100 if not.
        border: The border that the text reaches beyond; None for an ordinary text.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    border: Border | None = None

    @property
    def tokens(self) -> int:
        """How many tokens are compared."""
        return sum(label != -100 for label in self.labels[1:])


@dataclass(frozen=True)
class Probe:
    """Texts to compare two models on.

    Attributes:
        texts: The texts.
        prompts: Token ids of prompts that both models continue greedily.
        new_tokens: Longest continuation in tokens.
        source: Where the ordinary texts come from: ``held-out`` or ``built-in``.
    """

    texts: tuple[ProbeText, ...]
    prompts: tuple[tuple[int, ...], ...]
    new_tokens: int
    source: str

    @property
    def tokens(self) -> int:
        """How many tokens are compared."""
        return sum(text.tokens for text in self.texts)


def make_probe(
    tokenizer: Any,
    examples: Sequence[Example],
    *,
    borders: Sequence[Border] = (),
    tokens: int = 512,
    prompts: int = 4,
    new_tokens: int = 16,
    max_length: int = 512,
) -> Probe:
    """Make a probe of held-out ``examples``, or of built-in text if there are none.

    The tokens that training labels are compared: the answers of chats, and all of plain text. How a model continues
    text that it never has to write does not matter.

    Args:
        tokenizer: The tokenizer that both models share.
        examples: Held-out examples; if there are more than needed, they are taken from all over the list.
        borders: Lengths to reach beyond, each with a text and a prompt of its own; those beyond the tokenizer's
            ``model_max_length`` are left out.
        tokens: Take texts until they have this many tokens, or all of them; the longest text may exceed it.
        prompts: Most prompts to continue.
        new_tokens: Longest continuation in tokens.
        max_length: Longest ordinary text in tokens; never more than the tokenizer's ``model_max_length``.

    Raises:
        DataError: No example has a token to compare within ``max_length``.
    """
    source = "held-out" if examples else "built-in"
    examples = examples or [Example(text=text) for text in _BUILT_IN]
    encoder = Encoder(tokenizer, max_length=min(max_length, tokenizer.model_max_length))
    texts: list[ProbeText] = []
    starts: list[tuple[int, ...]] = []
    length = 0
    for example in _spread(examples):
        if length >= tokens:
            break
        encoded = encoder.encode(example)
        text = ProbeText(tuple(encoded.input_ids), tuple(encoded.labels))
        if not text.tokens:
            continue
        texts.append(text)
        length += len(text.ids)
        if len(starts) < prompts:
            start = encoder.prompt(example)[0] if example.messages else text.ids[: len(text.ids) // 2]
            if 0 < len(start) < max_length:
                starts.append(tuple(start))
    if not texts:
        raise DataError(
            "no held-out example has a token to compare", hint="See what is labelled with `ftreg.api.data.preview()`"
        )
    words = [token for text in texts for token in text.ids]
    for border in (each for each in borders if each.length <= tokenizer.model_max_length):
        text = _long_text(words, border, tokenizer.model_max_length)
        texts.append(text)
        starts.append(text.ids[: -text.tokens])
    return Probe(tuple(texts), tuple(starts), new_tokens, source)


def _long_text(words: Sequence[int], border: Border, longest: int) -> ProbeText:
    """Make a text that reaches beyond ``border``, of which the end is compared.

    The text repeats itself with a period just longer than the border. A model that can look back that far predicts its
    end from the repetition, so one that wrongly can, or wrongly cannot, differs from its source most clearly there.
    """
    length = border.length if border.what == "context" else min(border.length + 2 * _BEYOND, longest)
    period = cycle(islice(cycle(words), border.length + _BEYOND // 2))
    ids = tuple(islice(period, length))
    compared = min(_BEYOND, length // 2)
    return ProbeText(ids, (-100,) * (length - compared) + ids[length - compared :], border)


def _spread(examples: Sequence[Example]) -> Iterator[Example]:
    """Yield the examples in an order of which every beginning is spread evenly over the list."""
    golden = (5**0.5 - 1) / 2  # its multiples fill an interval evenly: a low-discrepancy sequence
    yield from (examples[index] for index in sorted(range(len(examples)), key=lambda index: index * golden % 1))
