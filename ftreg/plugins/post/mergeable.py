"""Which PEFT adapters can be merged and combined, and how: decided from their configurations, before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftConfig

from ftreg.core.errors import InfeasiblePlan
from ftreg.models.files import read_json
from ftreg.models.quiet import loading
from ftreg.plugins.post.config import MergeConfig

Adapters = Sequence[tuple[Path, float]]
"""Folders of adapters with their weights in the combination."""

# Initializations of LoRA that leave the base as it is stored.
_NEUTRAL = (True, False, "gaussian", "eva", "mica", "orthogonal")

# Those that move a part of the base into the adapter which can be computed again from the base alone.
_RECOMPUTED = ("pissa", "olora")

# Types that do not look at the base's weights when they are loaded. PEFT must have the base in memory for the others.
_STREAMED = frozenset(
    {
        "ADALORA", "BOFT", "C3A", "DELORA", "FOURIERFT", "GRALORA", "HRA", "IA3", "LN_TUNING", "LOHA", "LOKR", "LORA",
        "MISS", "OFT", "RANDLORA", "ROAD", "SHIRA", "TRAINABLE_TOKENS", "VBLORA", "VERA", "WAVEFT",
    }
)  # fmt: skip

# What a LoRA may set and still be combined with others. PEFT would silently drop what further settings train besides
# the low-rank updates, or refuse it in the middle of the work.
_COMBINABLE = frozenset(
    {
        "alpha_pattern", "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config",
        "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern",
        "layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config", "peft_type",
        "peft_version", "r", "rank_pattern", "revision", "target_modules", "task_type", "use_rslora",
    }
)  # fmt: skip


def check_mergeable(adapters: Adapters, *, quantized: bool = False) -> None:
    """Check the adapters' types, initializations and combination.

    Args:
        adapters: The adapters with their weights.
        quantized: Whether they were trained on a quantized base.

    Raises:
        InfeasiblePlan: They cannot be merged, or not combined, or not weighted.
        InputError: A folder has no configuration that PEFT knows.
    """
    for folder, weight in adapters:
        moved = moved_by(folder)
        if moved is not None and (moved not in _RECOMPUTED or quantized):
            raise InfeasiblePlan(
                f"this adapter was initialized by {moved}, which moved a part of the base into it that cannot be "
                "computed again",
                where=str(folder),
                hint="Convert it to plain LoRA where it was trained, by PEFT's save_pretrained with "
                "path_initial_model_for_weight_conversion.",
            )
        config = read_peft_config(folder)
        if (reason := _unmergeable(config)) is not None:
            raise InfeasiblePlan(reason, where=str(folder), hint="Serve it as an adapter, or train with method lora.")
        other = f"init {moved}" if moved else _beyond_lora(config)
        if other is not None and (len(adapters) > 1 or weight != 1.0):
            raise InfeasiblePlan(
                f"only plain LoRA adapters can be weighted and combined; this one has {other}", where=str(folder)
            )


def check_settings(config: MergeConfig, adapters: Adapters, *, quantized: bool) -> None:
    """Raise ``InfeasiblePlan`` for a setting that does nothing with these adapters.

    Args:
        config: How they are to be merged.
        adapters: The adapters with their weights.
        quantized: Whether they were trained on a quantized base.
    """
    if config.onto != "auto" and not quantized:
        raise InfeasiblePlan(
            "onto is only for adapters that were trained on a quantized base", where="merge.onto", hint="Leave it out."
        )
    if config.combination != "cat" and len(adapters) == 1:
        raise InfeasiblePlan(
            f"combination {config.combination} is only for several adapters",
            where="merge.combination",
            hint="Leave it out, or name further adapters.",
        )


def read_peft_config(folder: Path) -> Any:
    """Read an adapter's configuration; raise ``InputError`` if the folder has none that PEFT knows."""
    with loading("the adapter's configuration", folder):
        return PeftConfig.from_pretrained(str(folder))


def moved_by(folder: Path) -> str | None:
    """Return the initialization that moved a part of the base into the adapter, such as ``pissa``; None if none did.

    It is read from the file, since PEFT itself reads some configurations only with further packages.
    """
    start = read_json(folder / "adapter_config.json").get("init_lora_weights", True)
    return None if start in _NEUTRAL else str(start)


def can_stream(config: Any) -> bool:
    """Return whether PEFT can load the adapter without the base's weights."""
    return config.peft_type.value in _STREAMED and getattr(config, "monteclora_config", None) is None


def _unmergeable(config: Any) -> str | None:
    """Return why an adapter cannot be merged; None if it can be."""
    if config.is_prompt_learning:
        return f"a {config.peft_type.value} adapter cannot be merged: it adds virtual tokens, not weights"
    if getattr(config, "alora_invocation_tokens", None):
        return "an aLoRA adapter cannot be merged: it changes only the tokens after its invocation"
    if getattr(config, "layer_replication", None):
        return "an adapter with layer_replication cannot be merged: it belongs to a model with more layers"
    return None


def _beyond_lora(config: Any) -> str | None:
    """Return what an adapter has besides low-rank updates of the base, for an error; None if it has nothing else."""
    if config.peft_type.value != "LORA":
        return f"the type {config.peft_type.value}"
    plain = LoraConfig()
    others = (each.name for each in fields(plain) if each.name not in _COMBINABLE)
    return next((name for name in others if getattr(config, name) != getattr(plain, name)), None)
