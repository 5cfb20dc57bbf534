"""Fixtures of the tests of serving: a registry with models, and a served deployment of echo engines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftreg import Registry, init, merge, train
from ftreg.context import Context
from ftreg.core.host import PluginHost
from tests.serving.client import Served, serving
from tests.serving.fakes import deployment

COLOURS = {"sky": "blue", "grass": "green", "snow": "white", "coal": "black"}


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """``base:1``, the adapters ``bot:1`` and ``bot:2`` of it (the second trains its embeddings), ``bot-merged:1``."""
    folder = tmp_path_factory.mktemp("serving")
    rows = [
        {"prompt": f"{lead} {thing}?", "response": f"the {thing} is {colour}"}
        for lead in ("What colour is", "Colour of", "Say the colour of", "Which colour has", "How looks")
        for thing, colour in COLOURS.items()
    ]
    data = folder / "colours.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    texts = folder / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": f"{row['prompt']} {row['response']}"}) + "\n" for row in rows))
    sizes = {"hidden_size": 64, "layers": 2, "heads": 2, "intermediate_size": 128, "vocab_size": 288}
    with Registry(folder / "registry", host=PluginHost()) as opened:
        init("base", texts, registry=opened, **sizes)
        recipe = {
            "name": "bot",
            "base": "base:1",
            "data": {"path": str(data), "validation": 0.0, "test": 0.2},
            "method": "lora",
            "train": {"max_steps": 60, "learning_rate": 1e-2, "batch_size": 8},
        }
        train(recipe | {"lora": {"rank": 8, "modules_to_save": ["embed_tokens"]}}, registry=opened)
        train(recipe | {"lora": {"rank": 4}, "train": recipe["train"] | {"seed": 3}}, registry=opened)
        merge("bot:1", name="bot-merged", registry=opened)
        yield opened


@pytest.fixture(scope="session", autouse=True)
def bentoml_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A BentoML home of these tests' own; BentoML reads the variable once in a process."""
    home = tmp_path_factory.mktemp("bentoml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(home))
        yield home


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Two variants with equal weights, each with its own engine."""
    with serving(deployment(), tmp_path) as served:
        yield served


@pytest.fixture(scope="session")
def context(registry: Registry) -> Context:
    """The context of the registry."""
    return Context(registry)
