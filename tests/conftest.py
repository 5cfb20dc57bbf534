"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny import make_model

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests share the cores among processes
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function ``(architecture, tied) -> folder`` of an untrained tiny checkpoint, made once; do not write there."""
    made: dict[tuple[str, bool], Path] = {}

    def get(architecture: str = "llama", tied: bool = False) -> Path:
        key = (architecture, tied)
        if key not in made:
            made[key] = make_model(tmp_path_factory.mktemp(f"{architecture}-{tied}"), architecture, tied=tied)
        return made[key]

    return get
