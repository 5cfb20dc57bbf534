"""Fixtures for steps and engines: small trained models and adapters for them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftreg.core.types import Source
from tests.post.helpers import EXAMPLES, make_adapter, make_source


@pytest.fixture(scope="session")
def trained(model_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function ``(architecture, tied, **more) -> folder`` of a tiny checkpoint trained on ``EXAMPLES``."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ftreg.data import Encoder

    made: dict[tuple[object, ...], Path] = {}

    def get(architecture: str = "llama", tied: bool = False, **more: object) -> Path:
        key = (architecture, tied, *more.items())
        if key in made:
            return made[key]
        folder = model_folder(architecture, tied, **more)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        rows = [Encoder(tokenizer, max_length=128).encode(example) for example in EXAMPLES]
        longest = max(len(row.input_ids) for row in rows)
        ids = torch.tensor([row.input_ids + [0] * (longest - len(row.input_ids)) for row in rows])
        labels = torch.tensor([row.labels + [-100] * (longest - len(row.labels)) for row in rows])
        mask = (torch.arange(longest) < torch.tensor([[len(row.input_ids)] for row in rows])).long()
        model = AutoModelForCausalLM.from_pretrained(folder)
        torch.manual_seed(0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
        for _ in range(50):
            model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        made[key] = tmp_path_factory.mktemp(f"trained-{architecture}-{tied}")
        model.save_pretrained(made[key])
        for file in folder.iterdir():
            if not (made[key] / file.name).exists():
                shutil.copy(file, made[key])
        return made[key]

    return get


@pytest.fixture
def adapter(tmp_path: Path) -> Callable[..., Source]:
    """A function ``(base folder, peft config, **facts) -> Source`` of an adapter with random, non-zero weights."""
    count = iter(range(100))

    def get(base: Path, config: Any, *, seed: int = 0, digest: str = "b3:base", **facts: Any) -> Source:
        number = next(count)
        folder = make_adapter(base, config, tmp_path / f"adapter-{number}", seed=seed, facts=facts)
        return make_source(
            folder, "adapter", base=make_source(base, digest=digest), digest=f"b3:ad{number}", facts=facts
        )

    return get


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    """An empty folder to write a result into."""
    folder = tmp_path / "staging"
    folder.mkdir()
    return folder
