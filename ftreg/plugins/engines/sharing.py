"""Sharing: which versions one copy of a base's weights can serve, with rows of all of them in one batch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from peft import LoraConfig, PeftConfig
from safetensors import safe_open
from torch import nn

from ftreg.compat.peft import replaced_layers
from ftreg.core.manifest import canonical_json
from ftreg.core.types import ADAPTER, Source
from ftreg.models.quantization import base_quantization
from ftreg.models.quiet import loading
from ftreg.models.skeleton import load_skeleton

# What a LoRA may set and still share a batch with others: which layers it updates, how much, and how it was trained.
# The other settings either change the base (bias, layer replication, PiSSA and the like), or PEFT refuses them in mixed
# batches (DoRA, aLoRA, LoRA of bare parameters, trained tokens), or they are not known to work, as future ones are.
_FREE = frozenset(
    {
        "alpha_pattern", "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "exclude_modules",
        "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform", "lora_alpha",
        "lora_bias", "lora_dropout", "modules_to_save", "peft_type", "peft_version", "r", "rank_pattern", "revision",
        "target_modules", "task_type", "use_rslora",
    }
)  # fmt: skip
_NEUTRAL_STARTS = (True, False, "gaussian", "orthogonal")


@dataclass(frozen=True)
class _Member:
    """A version, and what decides whether another one can share its weights.

    Attributes:
        source: The version.
        weights: Identifies the weights that it is computed with; only versions with equal ones can share.
        updates: Full names of the layers that it updates by LoRA.
        replaces: Full names of the layers that it replaces.
    """

    source: Source
    weights: tuple[str, bytes]
    updates: frozenset[str] = frozenset()
    replaces: frozenset[str] = frozenset()

    def fits(self, other: _Member) -> bool:
        """Return whether both can share: neither may update a layer that the other one replaces."""
        return self.weights == other.weights and not (self.updates & other.replaces or self.replaces & other.updates)


def share(sources: Iterable[Source]) -> list[list[Source]]:
    """Group versions that can share one copy of weights: LoRA adapters on one base, and the base itself.

    Two bases are the same if their digest and quantization are. Every other version is a group of its own.

    Raises:
        InputError: An adapter's files cannot be read.
    """
    groups: list[list[_Member]] = []
    for member in map(_member, sources):
        for group in groups:
            if all(member.fits(other) for other in group):
                group.append(member)
                break
        else:
            groups.append([member])
    return [[member.source for member in group] for group in groups]


def _member(source: Source) -> _Member:
    if source.kind != ADAPTER:
        return _Member(source, (source.digest, canonical_json(None)))
    with loading(f"{source.ref} (adapter)", source.path):
        config = PeftConfig.from_pretrained(source.path)
    base = source.parent("base")
    replaced: dict[str, nn.Module] = {}
    mixes = _is_plain(config)
    if mixes and config.modules_to_save:
        replaced = replaced_layers(load_skeleton(base.path), config)
        # In mixed batches, PEFT supports replaced layers of these types only.
        mixes = all(isinstance(layer, nn.Linear | nn.Embedding) for layer in replaced.values())
    if not mixes:
        return _Member(source, (source.digest, b"alone"))
    weights = (base.digest, canonical_json(base_quantization(source)))
    return _Member(source, weights, _updated_layers(source), frozenset(replaced))


def _is_plain(config: Any) -> bool:
    """Return whether ``config`` is LoRA with no setting that prevents mixed batches."""
    if type(config) is not LoraConfig or config.init_lora_weights not in _NEUTRAL_STARTS:
        return False
    plain = LoraConfig()
    return all(
        getattr(config, each.name) == getattr(plain, each.name) for each in fields(plain) if each.name not in _FREE
    )


def _updated_layers(adapter: Source) -> frozenset[str]:
    """Return the full names of the layers that have LoRA weights in the adapter's file."""
    path = adapter.path / "adapter_model.safetensors"
    with loading(f"{adapter.ref} (adapter)", adapter.path), safe_open(path, "np") as file:
        names = [name.removeprefix("base_model.model.") for name in file.keys()]  # noqa: SIM118 not a mapping
    return frozenset(name.split(".lora_")[0] for name in names if ".lora_" in name)
