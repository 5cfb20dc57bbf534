"""Jobs for the tests of training: tiny data, folders that are there, any setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftreg.core.recipe import TrainConfig
from ftreg.core.types import Example, Message, Splits, TrainJob

PAIRS = [
    ("How do I reset my password?", "Open Settings and choose Security."),
    ("Where are my invoices?", "All invoices are listed under Billing, also those of the years before."),
    ("The app does not start.", "Please update."),
    ("Can I add more people to my team? We are five and will be seven.", "Yes, invite them from the Members page."),
    ("Hello", "Hello, how can I help you?"),
    ("Can I have a refund for the month in which I was not using the app at all?", "Yes."),
]
CHATS = tuple(Example(messages=(Message("user", prompt), Message("assistant", answer))) for prompt, answer in PAIRS * 2)


def make_job(
    folder: Path, base: Path, config: Any, *, validation: int = 0, resume: bool = False, **train: Any
) -> TrainJob:
    """A job on a few chats with its folders below ``folder``; ``train`` are settings of the trainer."""
    settings = {"max_steps": 3, "batch_size": 4, "max_length": 64, "learning_rate": 1e-2, "device": "cpu", **train}
    folders = {name: folder / name for name in ("staging", "report", "scratch")}
    for path in folders.values():
        path.mkdir(parents=True, exist_ok=True)
    return TrainJob(
        name="bot",
        base=base,
        data=Splits(train=CHATS, validation=CHATS[:validation]),
        config=config,
        train=TrainConfig(**settings),
        resume=resume,
        **folders,
    )
