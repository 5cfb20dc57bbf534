"""Method ``prefix``: trained keys and values before every prompt (Li & Liang, "Prefix-Tuning", arXiv:2101.00190)."""

from __future__ import annotations

from typing import Literal

import peft
from pydantic import Field

from ftreg.core.errors import InfeasiblePlan
from ftreg.core.recipe import Config
from ftreg.core.types import Artifact, TrainJob
from ftreg.training import compute_dtype, fit, load_model, quiet, save_adapter


class PrefixConfig(Config):
    """What can be set for prefix tuning."""

    num_virtual_tokens: int = Field(20, gt=0, description="positions of the prefix: more is more to learn")
    projection: bool = Field(False, description="train the prefix through a two-layer network, as the paper does")
    hidden_size: int | None = Field(None, gt=0, description="width of that network; by default the model's own")
    init: Literal["random", "zero"] = Field("random", description="how the prefix starts")


def train(job: TrainJob) -> Artifact:
    """Train a prefix and save it as an adapter; a projection is folded into what is saved."""
    assert isinstance(job.config, PrefixConfig)
    if job.train.gradient_checkpointing:
        raise InfeasiblePlan(
            "prefix tuning cannot train with gradient checkpointing", where="train.gradient_checkpointing"
        )
    model = load_model(job, dtype=compute_dtype(job.train))
    settings = peft.PrefixTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=job.config.num_virtual_tokens,
        prefix_projection=job.config.projection,
        encoder_hidden_size=job.config.hidden_size or model.config.hidden_size,
        init_weights="zero" if job.config.init == "zero" else None,
    )
    with quiet():
        model = peft.get_peft_model(model, settings)
    measured = fit(job, model)
    return save_adapter(job, model, measured)
