"""Fixtures of the pipeline's tests: a registry with a small trained base, made once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ftreg import Registry, train
from ftreg.core.host import PluginHost
from ftreg.core.types import Version

THINGS = {"sky": "blue", "grass": "green", "snow": "white", "coal": "black"}
QUESTIONS = ("What colour is {}?", "colour of {}", "tell me the colour of {}", "{}: which colour", "say {} colour")


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write twenty questions about four colours as a JSONL file."""
    path = tmp_path_factory.mktemp("data") / "colours.jsonl"
    rows = [
        {"prompt": question.format(thing), "response": f"{thing} is {colour}", "thing": thing}
        for thing, colour in THINGS.items()
        for question in QUESTIONS
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Create a registry that the pipeline's tests share; each publishes under names of its own."""
    return Registry(tmp_path_factory.mktemp("registry"), host=PluginHost())


@pytest.fixture(scope="session")
def base(registry: Registry, rows: Path, model_folder: Callable[..., Path]) -> Version:
    """Train a base for 60 steps on the colours, so that comparing models with it means something."""
    return train(
        {
            "name": "base",
            "base": str(model_folder()),
            "data": {"path": str(rows), "validation": 0.0, "test": 0.2, "stratify_by": "thing"},
            "method": "full",
            "train": {"max_steps": 60, "learning_rate": 3e-3, "batch_size": 8},
        },
        registry=registry,
    )


@pytest.fixture(scope="session")
def recipe(base: Version, rows: Path) -> Callable[..., dict]:
    """Return a function that makes a quick recipe on the base, with changes: ``recipe("lora", name="x")``."""

    def make(method: str, **changes: object) -> dict:
        return {
            "name": f"{method}-bot",
            "base": base.ref,
            "data": {"path": str(rows), "validation": 0.0, "test": 0.2, "stratify_by": "thing"},
            "method": method,
            "train": {"max_steps": 8, "learning_rate": 5e-3, "batch_size": 8},
            **changes,
        }

    return make


@pytest.fixture(scope="session")
def adapter(registry: Registry, recipe: Callable[..., dict]) -> Version:
    """Train a LoRA adapter on the base."""
    return train(recipe("lora", name="bot"), registry=registry)
