"""Preview: an example as the model will see it, token by token, with what is learnt."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

from ftreg.core.types import Example
from ftreg.data.encode import IGNORED, Encoder


@dataclass(frozen=True)
class Token:
    """A token of an example: its id, the text it stands for, and whether the model learns to write it."""

    id: int
    text: str
    learnt: bool


def preview(encoder: Encoder, example: Example) -> list[Token]:
    """The tokens of an example as they are trained; raise ``DataError`` where the template cannot render it."""
    encoded = encoder.encode(example)
    return [
        Token(token, token_text(encoder.tokenizer, token), label != IGNORED)
        for token, label in zip(encoded.input_ids, encoded.labels, strict=True)
    ]


def runs(tokens: list[Token]) -> list[tuple[bool, list[Token]]]:
    """Neighbouring tokens that are all learnt, or all not."""
    return [(learnt, list(run)) for learnt, run in groupby(tokens, key=lambda token: token.learnt)]


def token_text(tokenizer: Any, token: int) -> str:
    """The text of one token, with its leading space; the vocabulary's own spelling where it is part of a character."""
    spelling: str = tokenizer.convert_ids_to_tokens(token)
    text: str = tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if "\N{REPLACEMENT CHARACTER}" in text:
        return spelling
    return f" {text}" if spelling.startswith("▁") and not text.startswith(" ") else text
