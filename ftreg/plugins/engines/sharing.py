"""Sharing: which versions one copy of a base's weights can serve, with rows of all of them in one batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from peft import LoraConfig, PeftConfig
from safetensors import safe_open
from torch import nn

from ftreg.core.manifest import canonical_json
from ftreg.core.types import ADAPTER, Source
from ftreg.plugins.engines.loading import loading
from ftreg.plugins.engines.transformers import base_quantization
from ftreg.plugins.post.skeleton import load_skeleton

# What a LoRA may set and still be mixed with others: which layers it updates, how much, and how it was trained. The
# rest either changes the base (bias, layer replication, PiSSA and its like) or is refused by PEFT (DoRA, aLoRA, LoRA
# of bare parameters, trained tokens), or is not known to work.
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
        weights: What it is computed with; versions that are equal in this can share.
        updates: The layers that it updates by LoRA.
        saves: The layers that it replaces.
    """

    source: Source
    weights: tuple[str, bytes]
    updates: frozenset[str] = frozenset()
    saves: frozenset[str] = frozenset()

    def fits(self, other: _Member) -> bool:
        """Whether both can share; a layer that one replaces has nothing that another could update."""
        return self.weights == other.weights and not (self.updates & other.saves or self.saves & other.updates)


def share(sources: Iterable[Source]) -> list[list[Source]]:
    """Group versions that can share one copy of weights: LoRA adapters on one base, and the base itself.

    Bases are the same where digest and quantization are. Every other version is a group of its own.
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
    saves = frozenset[str]()
    mixes = _is_plain(config)
    if mixes and config.modules_to_save:
        saved = _saved_layers(config, load_skeleton(base.path))
        # PEFT mixes no replaced layers of other types, such as norms.
        mixes = all(isinstance(layer, nn.Linear | nn.Embedding) for layer in saved.values())
        saves = frozenset(saved)
    if not mixes:
        return _Member(source, (source.digest, b"alone"))
    weights = (base.digest, canonical_json(base_quantization(source)))
    return _Member(source, weights, _updated_layers(source), saves)


def _is_plain(config: Any) -> bool:
    """Whether ``config`` is LoRA and nothing else."""
    if type(config) is not LoraConfig or config.init_lora_weights not in _NEUTRAL_STARTS:
        return False
    plain = LoraConfig()
    return all(
        getattr(config, each.name) == getattr(plain, each.name) for each in fields(plain) if each.name not in _FREE
    )


def _updated_layers(adapter: Source) -> frozenset[str]:
    """The full names of the layers that have LoRA weights in the adapter's file."""
    path = adapter.path / "adapter_model.safetensors"
    with loading(f"{adapter.ref} (adapter)", adapter.path), safe_open(path, "np") as file:
        names = [name.removeprefix("base_model.model.") for name in file.keys()]  # noqa: SIM118 it is no mapping
    return frozenset(name.split(".lora_")[0] for name in names if ".lora_" in name)


def _saved_layers(config: LoraConfig, model: Any) -> dict[str, nn.Module]:
    """The layers of ``model`` that the adapter replaces, by full name; names are matched as PEFT does."""
    saved: Sequence[str] = config.modules_to_save or ()
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    tied = config.ensure_weight_tying and model.config.tie_word_embeddings
    return {
        name: layer
        for name, layer in model.named_modules()
        if any(name.endswith(each) for each in saved) or (tied and layer in ends)
    }
