"""Loading a causal language model with all of its weights, in a dtype and on a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from ftreg.compat.bitsandbytes import keep_training_layout
from ftreg.core.errors import InputError
from ftreg.models.quiet import loading


def load_pretrained(folder: Path, *, device: str | torch.device, dtype: torch.dtype | str, **arguments: Any) -> Any:
    """Load the causal language model in ``folder`` from local safetensors files.

    Args:
        folder: A checkpoint.
        device: Where its weights go.
        dtype: Of its weights; ``auto`` for the stored one.
        **arguments: Further arguments of ``AutoModelForCausalLM.from_pretrained``.

    Raises:
        InputError: The files are damaged, lack weights, or hold another kind of model.
    """
    with loading("the model", folder):
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            device_map={"": device},
            output_loading_info=True,
            local_files_only=True,
            use_safetensors=True,
            **arguments,
        )
    # transformers would go on with random values in their place.
    absent = sorted(report["missing_keys"]) + sorted(str(key[0]) for key in report["mismatched_keys"])
    if absent:
        raise InputError(
            f"lacks weights that its architecture needs: {', '.join(absent[:3])} ({len(absent)} in all)",
            where=str(folder),
            hint="Its files are incomplete, or belong to another model.",
        )
    keep_training_layout(model)
    return model


def context_length(model: Any) -> int | None:
    """Return the longest sequence that the model's configuration allows; None if it sets no limit."""
    found = getattr(model.config, "max_position_embeddings", None)
    return int(found) if found else None
