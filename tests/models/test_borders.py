"""Borders: what configurations of real families name."""

from __future__ import annotations

import pytest

from ftreg.models.borders import Border, find_borders, has_windows

LLAMA = {"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}
MISTRAL = {"max_position_embeddings": 32768, "sliding_window": 4096}
QWEN2 = {"max_position_embeddings": 32768, "sliding_window": 32768, "use_sliding_window": False}
GEMMA3 = {
    "text_config": {
        "max_position_embeddings": 131072,
        "sliding_window": 1024,
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {"sliding_attention": {"rope_type": "default"}, "full_attention": {"rope_type": "linear"}},
    }
}
PHI3 = {
    "max_position_embeddings": 131072,
    "original_max_position_embeddings": 4096,
    "sliding_window": 262144,
    "rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]},
}
DYNAMIC = {"max_position_embeddings": 2048, "rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}


@pytest.mark.parametrize(
    ("config", "borders", "windows"),
    [
        (LLAMA, [Border(131072, "context")], False),
        (MISTRAL, [Border(4096, "window"), Border(32768, "context")], True),
        (QWEN2, [Border(32768, "context")], False),
        (GEMMA3, [Border(1024, "window"), Border(131072, "context")], True),
        (PHI3, [Border(4096, "rope"), Border(131072, "context")], False),
        (DYNAMIC, [Border(2048, "context"), Border(2048, "rope")], False),
        ({"n_positions": 1024}, [Border(1024, "context")], False),
        ({}, [], False),
    ],
    ids=["llama", "mistral", "qwen2", "gemma3", "phi3", "dynamic", "gpt2", "unknown"],
)
def test_borders(config, borders, windows):
    """Windows in effect, switches of rotary embeddings and the context are found, shortest first."""
    assert list(find_borders(config)) == borders
    assert has_windows(config) is windows
