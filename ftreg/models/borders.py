"""Borders: lengths of text at which a model begins to compute something else, as its configuration names them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")
_CONTEXTS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len")


@dataclass(frozen=True, order=True)
class Border:
    """A length beyond which a model computes something else, or nothing.

    Attributes:
        length: The longest text, in tokens, that is not affected.
        what: ``window`` (attention reaches no further back), ``rope`` (rotary embeddings change their scale) or
            ``context`` (the model takes no longer text).
    """

    length: int
    what: str


def find_borders(config: Mapping[str, Any]) -> tuple[Border, ...]:
    """Return the borders that a model's ``config.json`` names, shortest first."""
    text: Mapping[str, Any] = {**config, **(config.get("text_config") or {})}
    context = next((text[key] for key in _CONTEXTS if isinstance(text.get(key), int)), None)
    found = [Border(context, "context")] if context else []
    found += [Border(length, "window") for length in _windows(text)]
    found += [Border(length, "rope") for length in _rope_switches(text, context)]
    return tuple(sorted({border for border in found if context is None or border.length <= context}))


def has_windows(config: Mapping[str, Any]) -> bool:
    """Return whether a text can be longer than a window of the model's attention."""
    borders = find_borders(config)
    return any(border.what == "window" and border.length < borders[-1].length for border in borders)


def _windows(text: Mapping[str, Any]) -> list[int]:
    """Return the windows of attention that are in effect."""
    layers = text.get("layer_types")
    if text.get("use_sliding_window") is False or (layers and set(layers) == {"full_attention"}):
        return []
    return [text[key] for key in _WINDOWS if isinstance(text.get(key), int) and text[key] > 0]


def _rope_switches(text: Mapping[str, Any], context: int | None) -> list[int]:
    """Return the lengths at which rotary embeddings change: none of the static kinds does."""
    settings = text.get("rope_parameters") or text.get("rope_scaling") or {}
    # Some models have settings for each type of layer.
    each = [value for value in settings.values() if isinstance(value, Mapping)] or [settings]
    found: list[int] = []
    for rope in each:
        kind = rope.get("rope_type", rope.get("type"))
        original = rope.get("original_max_position_embeddings", text.get("original_max_position_embeddings"))
        if kind == "longrope" and isinstance(original, int):
            found.append(original)
        elif kind == "dynamic":
            found += [length for length in [original or context] if length is not None]
    return found
