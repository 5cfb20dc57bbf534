"""Depth: a checkpoint without some of its decoder layers, as changes of its configuration and of its tensors' names.

What a configuration says of single layers is known by name, key for key; what is not known is refused. Then the layers
that the new configuration makes are compared with the old ones, so that a rule such as "every fourth layer is another"
does not turn the layers that are left into others.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ftreg.compat.transformers import loaded_as
from ftreg.core.errors import InfeasiblePlan
from ftreg.models.blocks import find_blocks
from ftreg.models.checkpoint import Checkpoint, copy_config
from ftreg.models.skeleton import load_skeleton

_ENTRIES = ("layer_types", "mlp_layer_types", "no_rope_layers")
"""Lists with an entry for each layer."""

_NUMBERS = ("mlp_only_layers", "moe_layers")
"""Lists of the numbers of some layers."""

_FIRST = ("max_window_layers", "first_k_dense_replace", "num_dense_layers")
"""How many layers, from the first one on, are of another kind."""


_NUMBER = re.compile("layer|idx|index")
"""What modules call the number of their own layer."""


@dataclass(frozen=True)
class Shortened:
    """A checkpoint without some of its layers.

    Attributes:
        kept: The numbers of the layers that are left, in order.
        config: The keys of ``config.json`` that change.
        tensors: The names of the tensors that are left, each with its old name.
    """

    kept: tuple[int, ...]
    config: Mapping[str, Any]
    tensors: Mapping[str, str]


def shorten(source: Checkpoint, dropped: Sequence[int]) -> Shortened:
    """Return ``source`` without the layers whose numbers, from 0, are in ``dropped``.

    Raises:
        InfeasiblePlan: A layer does not exist, none would be left, or the configuration or a tensor depends on the
            layers in a way that is not known.
    """
    model = load_skeleton(source.folder)
    path, blocks = find_blocks(model)
    check_numbers(dropped, len(blocks))
    kept = tuple(number for number in range(len(blocks)) if number not in dropped)
    changes = _config_without(model.config, source.config, kept)
    with tempfile.TemporaryDirectory() as folder:
        copy_config(Path(folder), source, **changes)
        shorter = load_skeleton(Path(folder))
    _check_same(model, shorter, path, kept)
    return Shortened(kept, changes, _tensors_without(model, source, path, kept))


def check_numbers(dropped: Sequence[int], count: int) -> None:
    """Raise ``InfeasiblePlan`` if a model of ``count`` layers has not all of those in ``dropped``, or no others."""
    if (largest := max(dropped)) >= count:
        raise InfeasiblePlan(f"there is no layer {largest}: the model has the layers 0 to {count - 1}")
    if len(dropped) >= count:
        raise InfeasiblePlan(f"the model has {count} layers; at least one has to be left")


def _config_without(config: Any, raw: Mapping[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """Return the keys of a model's configuration that change; raise ``InfeasiblePlan`` for what is not known."""
    values: Mapping[str, Any] = config.to_dict()
    count = getattr(config, "num_hidden_layers", None)
    key = config.attribute_map.get("num_hidden_layers", "num_hidden_layers")
    if "text_config" in raw or raw.get(key, values.get(key)) != count:
        raise InfeasiblePlan(f"the configuration of {type(config).__name__} does not name the layers under {key}")
    changes: dict[str, Any] = {key: len(kept)}
    for name, value in values.items():
        if name in _ENTRIES and value is not None:
            changes[name] = [value[number] for number in kept]
        elif name in _NUMBERS and value is not None:
            changes[name] = [new for new, old in enumerate(kept) if old in value]
        elif name in _FIRST and value is not None:
            changes[name] = sum(number < value for number in kept)
        elif isinstance(value, list) and len(value) == count and not name.endswith(("_ids", "_id", "architectures")):
            raise InfeasiblePlan(
                f"the configuration's {name} has an entry for each of the {count} layers; its meaning is not known"
            )
    return changes


def _check_same(model: Any, shorter: Any, path: str, kept: Sequence[int]) -> None:
    """Raise ``InfeasiblePlan`` unless ``shorter`` is made of the layers ``kept`` of ``model``, and equal elsewhere."""
    before, after = (_shapes_outside(each, path) for each in (model, shorter))
    for name in before.keys() | after.keys():
        if before.get(name) != after.get(name):
            raise InfeasiblePlan(f"{name} depends on the number of layers, in a way that is not known")
    _, old_layers = find_blocks(model)
    _, new_layers = find_blocks(shorter)
    for new, old in enumerate(kept):
        difference = _difference(old_layers[old], new_layers[new], old, new)
        if difference is not None:
            raise InfeasiblePlan(
                f"layer {old} would become another one as layer {new}: {difference}",
                hint="The model's configuration derives what a layer is from its number. Remove other layers.",
            )


def _shapes_outside(model: Any, path: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the parameters that belong to no layer, by name."""
    return {
        name: tuple(parameter.shape) for name, parameter in model.named_parameters() if not name.startswith(f"{path}.")
    }


def _difference(before: nn.Module, after: nn.Module, old: int, new: int) -> str | None:
    """Say in what two layers differ, apart from their numbers; None if in nothing."""
    ours, theirs = dict(before.named_modules()), dict(after.named_modules())
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        classes = [type(each[name]).__name__ if name in each else "nothing" for each in (ours, theirs)]
        if classes[0] != classes[1]:
            return f"{name or 'it'} would be {classes[1]} instead of {classes[0]}"
        first, second = _settings(ours[name]), _settings(theirs[name])
        for key in first.keys() | second.keys():
            pair = first.get(key), second.get(key)
            numbers = pair == (old, new) and _NUMBER.search(key) is not None
            if pair[0] != pair[1] and not numbers:
                return f"{f'{name}.{key}'.lstrip('.')} would be {pair[1]} instead of {pair[0]}"
    return None


def _settings(module: nn.Module) -> dict[str, Any]:
    """Return what a module keeps as plain values, and the shapes of its own parameters."""
    plain = {key: value for key, value in vars(module).items() if isinstance(value, bool | int | float | str | None)}
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters(recurse=False)}
    return plain | shapes


def _tensors_without(model: Any, source: Checkpoint, path: str, kept: Sequence[int]) -> dict[str, str]:
    """Map the names of the tensors that are left to their old names; raise ``InfeasiblePlan`` for one of no layer."""
    leaf = re.escape(path.rsplit(".", 1)[-1])
    numbered = re.compile(rf"((?:.*?\.)?{leaf}\.)(\d+)(\..*)")
    renumbered = {old: new for new, old in enumerate(kept)}
    count = len(find_blocks(model)[1])
    loaded = loaded_as(model, source.tensors)
    found: dict[str, str] = {}
    for name in source.tensors:
        match = numbered.fullmatch(name)
        number = int(match[2]) if match else -1
        weight = loaded[name].name if name in loaded else None
        if weight is not None and weight.startswith(f"{path}.") != weight.startswith(f"{path}.{number}."):
            raise InfeasiblePlan(f"the layer of the tensor {name} cannot be told from its name")
        if match is None or not (weight is None or weight.startswith(f"{path}.")):
            found[name] = name
        elif number >= count:
            raise InfeasiblePlan(f"the tensor {name} belongs to a layer beyond the {count} that the model has")
        elif number in renumbered:
            found[f"{match[1]}{renumbered[number]}{match[3]}"] = name
    return found
