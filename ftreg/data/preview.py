"""Preview: an example as the model sees it, token by token, with its labels."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

from ftreg.core.types import Example
from ftreg.data.encode import IGNORED, Encoder


@dataclass(frozen=True)
class Token:
    """A token of an example: its id, its text, and whether the loss counts it."""

    id: int
    text: str
    labelled: bool


def preview(encoder: Encoder, example: Example) -> list[Token]:
    """Return the tokens of an example as trained on; raise ``DataError`` if the template cannot render it."""
    encoded = encoder.encode(example)
    return [
        Token(token, token_text(encoder.tokenizer, token), label != IGNORED)
        for token, label in zip(encoded.input_ids, encoded.labels, strict=True)
    ]


def runs(tokens: list[Token]) -> list[tuple[bool, list[Token]]]:
    """Group neighbouring tokens that are all labelled, or all not."""
    return [(labelled, list(run)) for labelled, run in groupby(tokens, key=lambda token: token.labelled)]


def token_text(tokenizer: Any, token: int) -> str:
    """Return the text of one token with its leading space, or its vocabulary entry if it is part of a character."""
    spelling: str = tokenizer.convert_ids_to_tokens(token)
    text: str = tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if "\N{REPLACEMENT CHARACTER}" in text:
        return spelling
    return f" {text}" if spelling.startswith("▁") and not text.startswith(" ") else text
