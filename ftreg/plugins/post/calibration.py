"""Calibration: text on which a step observes what a model computes."""

from __future__ import annotations

import random

import torch

from ftreg.core.errors import InfeasiblePlan
from ftreg.core.types import StepJob
from ftreg.data import Encoder
from ftreg.models.borders import find_borders
from ftreg.models.files import read_json
from ftreg.models.tokenizer import load_tokenizer
from ftreg.plugins.post.config import CalibrationConfig


def calibration_rows(job: StepJob, config: CalibrationConfig, *, needed_by: str, instead: str) -> torch.Tensor:
    """Return token ids, of shape (rows, tokens), of training data in the source's lineage, else of validation data.

    Examples in a random order, which depends on ``job.seed`` alone, are joined and cut into rows of one length, so that
    no row is padded. Less text than configured makes fewer rows; less than one row makes a single shorter one.

    Args:
        job: The step's job.
        config: How many rows, of how many tokens.
        needed_by: What needs the text, for the error.
        instead: What to do without it, for the error.

    Raises:
        InfeasiblePlan: The lineage has no dataset, or the dataset no such examples.
        DataError: The chat template cannot render an example.
    """
    examples = job.data.train or job.data.validation
    if not examples:
        raise InfeasiblePlan(
            f"{needed_by} needs text to calibrate on, and there is no training or validation data in the lineage",
            where=job.source.ref,
            hint=f"Versions that were trained, and what is made of them, have the data they were trained on. {instead}",
        )
    folder = job.source.path
    contexts = [border.length for border in find_borders(read_json(folder / "config.json")) if border.what == "context"]
    tokenizer = load_tokenizer(folder, context=min(contexts, default=None))
    length = min(config.length, tokenizer.model_max_length)
    encoder = Encoder(tokenizer, max_length=tokenizer.model_max_length)
    order = random.Random(job.seed).sample(range(len(examples)), len(examples))  # noqa: S311 - no secret
    ids: list[int] = []
    for index in order:
        ids += encoder.encode(examples[index]).input_ids
        if len(ids) >= config.rows * length:
            break
    rows = max(1, min(config.rows, len(ids) // length))
    if rows < config.rows:
        job.progress.say(f"the data fills {rows} of {config.rows} calibration rows of {length} tokens")
    return torch.tensor(ids[: rows * length]).view(rows, -1)
