"""Probes: the text on which a derived model is compared with the model that it was made from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ftreg.core.errors import DataError
from ftreg.core.types import Example
from ftreg.data import Encoder

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


@dataclass(frozen=True)
class Probe:
    """Text to compare two models on.

    Attributes:
        sequences: Token ids of each text.
        labels: For each token of each text, its id if it is compared, -100 if not.
        prompts: Token ids of prompts that both models continue greedily.
        source: Where the text comes from: ``held-out`` or ``built-in``.
    """

    sequences: tuple[tuple[int, ...], ...]
    labels: tuple[tuple[int, ...], ...]
    prompts: tuple[tuple[int, ...], ...]
    source: str

    @property
    def tokens(self) -> int:
        """How many tokens are compared."""
        return sum(label != -100 for labels in self.labels for label in labels[1:])


def make_probe(
    tokenizer: Any, examples: Sequence[Example], *, tokens: int = 1024, prompts: int = 4, max_length: int = 512
) -> Probe:
    """Make a probe of held-out ``examples``, or of built-in text if there are none.

    The tokens that training labels are compared: the answers of chats, and all of plain text. How a model continues
    text that it never has to write does not matter.

    Args:
        tokenizer: The tokenizer that both models share.
        examples: Held-out examples; if there are more than needed, they are taken from all over the list.
        tokens: Take texts until they have this many tokens, or all of them; the longest text may exceed it.
        prompts: Most prompts to continue.
        max_length: Longest text in tokens; never more than the tokenizer's ``model_max_length``.

    Raises:
        DataError: No example has a token to compare within ``max_length``.
    """
    source = "held-out" if examples else "built-in"
    examples = examples or [Example(text=text) for text in _BUILT_IN]
    encoder = Encoder(tokenizer, max_length=min(max_length, tokenizer.model_max_length))
    texts: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    starts: list[tuple[int, ...]] = []
    length = 0
    for example in _spread(examples):
        if length >= tokens:
            break
        encoded = encoder.encode(example)
        if all(label == -100 for label in encoded.labels[1:]):
            continue
        texts.append((tuple(encoded.input_ids), tuple(encoded.labels)))
        length += len(encoded.input_ids)
        if len(starts) < prompts:
            half = len(encoded.input_ids) // 2
            start = encoder.prompt(example)[0] if example.messages else encoded.input_ids[:half]
            if 0 < len(start) < max_length:
                starts.append(tuple(start))
    if not texts:
        raise DataError(
            "no held-out example has a token to compare", hint="See what is labelled with `ftreg.api.data.preview()`"
        )
    return Probe(tuple(ids for ids, _ in texts), tuple(labels for _, labels in texts), tuple(starts), source)


def _spread(examples: Sequence[Example]) -> Iterator[Example]:
    """Yield the examples in an order of which every beginning is spread evenly over the list."""
    golden = (5**0.5 - 1) / 2  # its multiples fill an interval evenly: a low-discrepancy sequence
    yield from (examples[index] for index in sorted(range(len(examples)), key=lambda index: index * golden % 1))
