"""Where answers end: at the end-of-sequence tokens, and at the end of the context."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ftreg.core.errors import InputError
from ftreg.core.types import ServedModel

_UNLIMITED = 1 << 30  # tokenizers without a limit say 10^30


def end_tokens(tokenizer: Any, *configs: Mapping[str, Any]) -> list[int]:
    """Return the token ids that end an answer: those of the given configurations, and the tokenizer's."""
    found: set[int] = set()
    for value in (*(config.get("eos_token_id") for config in configs), tokenizer.eos_token_id):
        if value is not None:
            found.update(value if isinstance(value, list | tuple) else [value])
    return sorted(found)


def describe_model(tokenizer: Any, ends: Iterable[int], reserved: int = 0) -> ServedModel:
    """Return what a server needs to know of a model, of whose context ``reserved`` positions are taken already."""
    return ServedModel(tokenizer=tokenizer, context=_context(tokenizer) - reserved, ends=frozenset(ends))


def require_fit(tokenizer: Any, batch: Sequence[Sequence[int]]) -> None:
    """Raise ``InputError`` if a row is longer than the context."""
    longest, context = max(len(row) for row in batch), _context(tokenizer)
    if longest > context:
        raise InputError(f"{longest} tokens do not fit in a context of {context}")


def fit_new_tokens(tokenizer: Any, batch: Sequence[Sequence[int]], max_new_tokens: int) -> int:
    """Return how many tokens may follow the longest prompt, at most ``max_new_tokens``.

    Raises:
        InputError: The longest prompt fills the context.
    """
    longest, context = max(len(row) for row in batch), _context(tokenizer)
    if longest >= context:
        raise InputError(f"a prompt of {longest} tokens leaves no room for an answer in a context of {context} tokens")
    return min(max_new_tokens, context - longest)


def before_end(tokens: Sequence[int], ends: Sequence[int]) -> list[int]:
    """Return the tokens before the first one that ends the answer."""
    stop = next((index for index, token in enumerate(tokens) if token in ends), len(tokens))
    return [int(token) for token in tokens[:stop]]


def _context(tokenizer: Any) -> int:
    return int(min(tokenizer.model_max_length, _UNLIMITED))
