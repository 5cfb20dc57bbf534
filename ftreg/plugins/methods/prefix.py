"""Method ``prefix``: trains keys and values before every prompt (Li & Liang, "Prefix-Tuning", arXiv:2101.00190)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft

from ftreg.compat.transformers import cache_sizes
from ftreg.core.errors import InfeasiblePlan
from ftreg.core.types import Artifact, TrainJob
from ftreg.models.loading import check_computes
from ftreg.models.quiet import quiet
from ftreg.models.skeleton import require_keys_and_values
from ftreg.plugins.methods.config import PrefixConfig
from ftreg.training import compute_dtype, fit, load_model, save_adapter


def check(base: Path, _config: PrefixConfig) -> None:
    """Raise ``InfeasiblePlan`` if the base has no keys and values to put a prefix before."""
    require_keys_and_values(base, needed_by="prefix tuning")


def train(job: TrainJob) -> Artifact:
    """Train a prefix and save it as an adapter; a projection is applied once, and not saved.

    Raises:
        InfeasiblePlan: Gradient checkpointing is on, or PEFT's prefix does not fit the base's cache.
    """
    assert isinstance(job.config, PrefixConfig)
    if job.train.gradient_checkpointing:
        raise InfeasiblePlan(
            "prefix tuning cannot train with gradient checkpointing", where="train.gradient_checkpointing"
        )
    model = load_model(job, dtype=compute_dtype(job.train))
    settings = peft.PrefixTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=job.config.num_virtual_tokens,
        **_sizes(model),
        prefix_projection=job.config.projection,
        encoder_hidden_size=job.config.hidden_size or model.config.hidden_size,
        init_weights="zero" if job.config.init == "zero" else None,
    )
    with quiet():
        model = peft.get_peft_model(model, settings)
    check_computes(model, "With a prefix")
    measured = fit(job, model)
    return save_adapter(job, model, measured)


def _sizes(model: Any) -> dict[str, int]:
    """Return the sizes of the prefix's keys, as PEFT calls them.

    PEFT derives them from the configuration, which fails for Falcon's multi-query attention. If layers differ, it fits
    the prefix to each of them itself.
    """
    sizes = cache_sizes(model)
    if len(sizes) > 1:
        return {}
    heads, size = sizes.pop()
    return {"num_attention_heads": heads, "token_dim": heads * size}
