"""Merging PEFT adapters into a base, one module at a time.

PEFT itself computes every module, whatever the adapter's type; this module decides the order. PEFT gets a model whose
weights are placeholders without memory, and each module's weights are read from the base's files just before it is
merged. The result is PEFT's own, and takes the memory of one module and the adapter.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ftreg.compat.peft import merge_module, take_out_start, trained_part, unwrapped_name, wrapped_modules
from ftreg.compat.transformers import join_weights, take_weights_apart, tied_weights
from ftreg.models.checkpoint import Checkpoint
from ftreg.models.skeleton import joined_weights, load_skeleton, model_names
from ftreg.models.tensors import TensorInfo
from ftreg.plugins.post.adapters import Transform, attach, merging
from ftreg.plugins.post.config import MergeConfig
from ftreg.plugins.post.mergeable import Adapters, moved_by
from ftreg.plugins.post.module_check import ModuleCheck


class StreamedMerge:
    """Adapters on a base whose weights stay on disk until they are merged.

    Args:
        base: The base's files.
        adapters: What to merge; checked by ``check_mergeable``, and each ``can_stream``.
        config: How several adapters are combined.
        seed: Seed of the combinations that drop values at random.
        transform: Applied to the base's weights first; gives them the values that quantized training computed with.

    Attributes:
        possible: Whether every weight that the adapters change is stored, whole or in parts. If not, as with a weight
            that is cut from a larger one while loading, use ``merge_in_memory``.
        untied: Whether the adapters made the tied embeddings of the base differ.
        check: What was found when merged modules were compared with live ones.

    Raises:
        InputError: An adapter belongs to another base, or files are damaged.
    """

    def __init__(
        self, base: Checkpoint, adapters: Adapters, config: MergeConfig, seed: int, transform: Transform | None = None
    ) -> None:
        self._base = base
        self._transform = transform
        self.check = ModuleCheck()
        model = load_skeleton(base.folder)
        _placeholders(model)
        self._tied = tied_weights(model)
        names = dict(model.named_parameters(remove_duplicate=False))
        self._model_names = frozenset(names)
        self._placeholders = {id(parameter) for parameter in names.values()}
        self._names = model_names(model, base.tensors)
        self._stored = {name: stored for stored, name in self._names.items()}
        self._parts = joined_weights(model, base.tensors)
        self._start = moved_by(adapters[0][0])
        self._model = attach(model, adapters, config, base.folder, streamed=True, seed=seed).get_base_model()
        self._modules = {key: self._touched_by(key) for key in wrapped_modules(self._model)}
        self._replaced = self._replaced_elsewhere()
        self.check.complete = not self._replaced  # a weight outside of the modules cannot be run by itself
        touched = {name: tuple(weight.shape) for name, weight in self._replaced.items()}
        for each in self._modules.values():
            touched |= each
        self.possible = all(self._is_stored(*each) for each in touched.items())
        self.untied = False
        self._early = self._settle_tied(set(touched)) if self.possible else {}

    def plan(self) -> dict[str, TensorInfo]:
        """Return all tensors of the result, with the base's dtypes: those that ``tensors`` yields, then the others."""
        shapes = {name: tuple(tensor.shape) for name, tensor in (*self._early.items(), *self._replaced.items())}
        for module in self._modules.values():
            shapes |= module
        plan: dict[str, TensorInfo] = {}
        for name, shape in shapes.items():
            if name in self._parts:
                plan |= {part: self._base.tensors[part] for part in self._parts[name]}
            else:
                dtype = self._base.tensors[str(self._source(name))].dtype
                plan[self._stored.get(name, name)] = TensorInfo(dtype, shape)
        return plan | {stored: info for stored, info in self._base.tensors.items() if stored not in plan}

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the tensors that the adapters change, by their names on disk, in float32."""
        for name, weight in self._changed():
            yield from self._as_stored(name, weight)

    def base_tensor(self, stored: str) -> torch.Tensor:
        """Read a tensor of the base by its name on disk, and transform it."""
        tensor = self._base.read(stored)
        if self._transform is None or stored not in self._names:
            return tensor
        return self._transform(self._names[stored], tensor)

    def source(self, stored: str) -> str | None:
        """Return the base's tensor that a tensor of the result comes from, both by name on disk; None if it is new."""
        return stored if stored in self._base.tensors else self._source(stored)

    def _changed(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the weights that the adapters change, by their names in the model."""
        yield from self._early.items()
        yield from self._replaced.items()
        for key in self._modules:
            yield from self._merge_module(key).items()

    def _source(self, name: str) -> str | None:
        """Return the name on disk of a weight of the model, or of one tied to it; None if the base stores neither."""
        partners = [name, self._tied.get(name), *(target for target, source in self._tied.items() if source == name)]
        return next((self._stored[each] for each in partners if each in self._stored), None)

    def _is_stored(self, name: str, shape: tuple[int, ...]) -> bool:
        """Return whether the base stores a weight of the model, whole or in parts that it can be taken apart into."""
        if name not in self._parts:
            return self._source(name) is not None
        placeholder = torch.zeros(()).expand(shape)
        return take_weights_apart(self._model, {name: placeholder}).keys() == set(self._parts[name])

    def _read(self, name: str) -> torch.Tensor:
        """Read a weight of the base by its name in the model, in float32."""
        if name not in self._parts:
            return self.base_tensor(str(self._source(name))).float()
        joined = join_weights(self._model, {part: self._base.read(part).float() for part in self._parts[name]})[name]
        return joined if self._transform is None else self._transform(name, joined)

    def _as_stored(self, name: str, weight: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield a weight of the model as the tensors that store it, by their names on disk."""
        if name not in self._parts:
            yield self._stored.get(name, name), weight
            return
        tensors = take_weights_apart(self._model, {name: weight})
        yield from ((part, tensors[part]) for part in self._parts[name])

    def _trained(self, key: str) -> nn.Module:
        """Return the part of the wrapped module ``key`` that adapters trained."""
        return trained_part(self._model.get_submodule(key))

    def _touched_by(self, key: str) -> dict[str, tuple[int, ...]]:
        """Return the base's weights in the module ``key`` that adapters change, with their merged shapes."""
        parameters = self._trained(key).named_parameters()
        shapes = {unwrapped_name(key, name): tuple(parameter.shape) for name, parameter in parameters}
        return {name: shape for name, shape in shapes.items() if name in self._model_names}

    def _replaced_elsewhere(self) -> dict[str, torch.Tensor]:
        """Return weights outside of the adapted modules that the adapters contain, such as trained biases."""
        inside = tuple(f"{key}." for key in self._modules)
        return {
            name: parameter.data.float()
            for name, parameter in self._model.named_parameters()
            if not name.startswith(inside) and id(parameter) not in self._placeholders
        }

    def _merge_module(self, key: str) -> dict[str, torch.Tensor]:
        """Read a module's weights, merge into them, and free them; return the result by its names in the model."""
        for path, owner in list(self._trained(key).named_modules()):
            for name, parameter in list(owner.named_parameters(recurse=False)):
                if id(parameter) in self._placeholders:
                    weight = self._read(unwrapped_name(key, path, name))
                    setattr(owner, name, nn.Parameter(weight, requires_grad=False))
        module = self._model.get_submodule(key)
        with merging(key):
            if self._start is not None:
                take_out_start(module, self._start)
            sample = self.check.before(module)
            merged = merge_module(module)
        self.check.after(key, sample, merged)
        found = {f"{key}.{name}": parameter.data.float() for name, parameter in merged.named_parameters()}
        result = {name: found[name] for name in self._modules[key]}  # running experts changes the order
        for parameter in merged.parameters():
            parameter.data = torch.empty(0)
        return result

    def _settle_tied(self, touched: set[str]) -> dict[str, torch.Tensor]:
        """Merge the tied weights that the adapters change, and decide whether they are still equal.

        If an adapter changed only one of the two, both are written, and the result is untied: that is how the live
        model computes.
        """
        early: dict[str, torch.Tensor] = {}
        for pair in self._tied.items():
            if touched.isdisjoint(pair):
                continue
            for key in [key for key, names in self._modules.items() if not names.keys().isdisjoint(pair)]:
                early |= self._merge_module(key)
                del self._modules[key]
            early |= {name: self._replaced.pop(name) for name in pair if name in self._replaced}
            early |= {name: self._read(name) for name in pair if name not in early}
            if torch.equal(early[pair[0]], early[pair[1]]):
                early = {name: tensor for name, tensor in early.items() if name not in pair or name in self._stored}
            else:
                self.untied = True
        return early


def _placeholders(model: Any) -> None:
    """Give a model on the meta device CPU weights that take no memory; tied weights stay one parameter."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            empty = nn.Parameter(torch.zeros(()).expand(parameter.shape), requires_grad=False)
            setattr(module, name, made.setdefault(id(parameter), empty))
