"""Merging PEFT adapters into a base, one module at a time.

PEFT itself computes every module, whatever the adapter's type. What is ours is the order: PEFT gets a model whose
weights are placeholders without memory, and each module's weights are read from the base's files just before it is
merged. So the result is PEFT's own, in the memory of one module and the adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, load_peft_weights
from peft.tuners.lora import LoraConfig, LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import AutoModelForCausalLM

from ftreg.core.errors import FtregError, InfeasiblePlan, InputError
from ftreg.plugins.post.checkpoint import Checkpoint, TensorInfo
from ftreg.plugins.post.config import MergeConfig
from ftreg.plugins.post.skeleton import load_skeleton, model_names
from ftreg.training import quiet

Transform = Callable[[str, torch.Tensor], torch.Tensor]
"""What is done to a weight of the base, by its name in the model, before anything is added to it."""

Adapters = Sequence[tuple[Path, float]]
"""Folders of adapters, and their weights in the combination."""

# Names that PEFT's wrappers put between a module and its weights.
_WRAPPERS = frozenset({"base_layer", "original_module", "token_adapter"})

# Initializations after which the base is the base that is stored. Others (PiSSA, OLoRA, ...) take a part out of it.
_PLAIN_INIT = (True, False, "gaussian", "eva", "orthogonal")


def check_mergeable(adapters: Adapters) -> None:
    """Raise ``InfeasiblePlan`` for adapters whose type, or whose combination, cannot be merged."""
    for folder, weight in adapters:
        config = read_peft_config(folder)
        if config.is_prompt_learning:
            raise InfeasiblePlan(
                f"a {config.peft_type.value} adapter has no merge: it adds virtual tokens, not weights",
                where=str(folder),
                hint="Serve it as an adapter, or train with method lora.",
            )
        if (len(adapters) > 1 or weight != 1.0) and (not isinstance(config, LoraConfig) or config.use_dora):
            name = "DoRA" if isinstance(config, LoraConfig) else config.peft_type.value
            raise InfeasiblePlan(
                f"PEFT weighs and combines LoRA adapters only, and this one is {name}", where=str(folder)
            )


def read_peft_config(folder: Path) -> Any:
    """Read an adapter's configuration; raise ``FtregError`` for a folder that has none."""
    try:
        with quiet():
            return PeftConfig.from_pretrained(str(folder))
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise FtregError(f"the adapter's configuration cannot be read: {error}", where=str(folder)) from error


def changes_base(folder: Path) -> bool:
    """Whether loading the adapter changes the base, as with PiSSA, which moves a part of it into the adapter."""
    return getattr(read_peft_config(folder), "init_lora_weights", True) not in _PLAIN_INIT


class StreamedMerge:
    """Adapters on a base whose weights stay on disk until they are merged.

    Args:
        base: The base's files.
        adapters: What to merge; checked by ``check_mergeable``, and none of which ``changes_base``.
        config: How several are combined.
        transform: Changes the base's weights first; used to see them as quantized training saw them.

    Attributes:
        possible: Whether every weight that the adapters touch is stored under its own name. Where it is not, as with
            experts that the model fuses while loading, use ``merge_in_memory``.
        untied: Whether the adapters made the tied embeddings of the base differ.

    Raises:
        InputError: The adapter belongs to another base.
    """

    def __init__(
        self, base: Checkpoint, adapters: Adapters, config: MergeConfig, transform: Transform | None = None
    ) -> None:
        self._base = base
        self._transform = transform
        model = load_skeleton(base.folder)
        _placeholders(model)
        self._tied: dict[str, str] = dict(getattr(model, "all_tied_weights_keys", None) or {})
        names = dict(model.named_parameters(remove_duplicate=False))
        self._model_names = frozenset(names)
        self._placeholders = {id(parameter) for parameter in names.values()}
        self._names = model_names(model, base.tensors)
        self._stored = {name: stored for stored, name in self._names.items()}
        self._model = attach(model, adapters, config, base.folder).get_base_model()
        self._modules = {key: self._touched_by(key) for key in _tuned_modules(self._model)}
        self._replaced = self._replaced_elsewhere()
        touched = {name for each in self._modules.values() for name in each} | set(self._replaced)
        self.possible = all(self._source(name) for name in touched)
        self.untied = False
        self._early = self._settle_tied(touched) if self.possible else {}

    def plan(self) -> dict[str, TensorInfo]:
        """All tensors of the result, in the order in which ``tensors`` yields them, with the base's dtypes."""
        shapes = {name: tuple(tensor.shape) for name, tensor in (*self._early.items(), *self._replaced.items())}
        for module in self._modules.values():
            shapes |= module
        plan = {
            self._stored.get(name, name): TensorInfo(self._base.tensors[str(self._source(name))].dtype, shape)
            for name, shape in shapes.items()
        }
        return plan | {stored: info for stored, info in self._base.tensors.items() if stored not in plan}

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """All tensors of the result by their names on disk: touched ones first, in float32, then the base's others."""
        written = set()
        for name, tensor in self._touched():
            written.add(self._stored.get(name, name))
            yield self._stored.get(name, name), tensor
        for stored in self._base.tensors:
            if stored not in written:
                yield stored, self.base_tensor(stored)

    def base_tensor(self, stored: str) -> torch.Tensor:
        """A tensor of the base by its name on disk, transformed."""
        tensor = self._base.read(stored)
        if self._transform is None or stored not in self._names:
            return tensor
        return self._transform(self._names[stored], tensor)

    def source(self, stored: str) -> str | None:
        """The tensor of the base, by its name on disk, that a tensor of the result comes from."""
        return stored if stored in self._base.tensors else self._source(stored)

    def _touched(self) -> Iterator[tuple[str, torch.Tensor]]:
        """What the adapters change, by its name in the model."""
        yield from self._early.items()
        yield from self._replaced.items()
        for key in self._modules:
            yield from self._merge_module(key).items()

    def _source(self, name: str) -> str | None:
        """Where the base stores a weight of the model, tied ones under the name of either; None where it does not."""
        partners = [name, self._tied.get(name), *(target for target, source in self._tied.items() if source == name)]
        return next((self._stored[each] for each in partners if each in self._stored), None)

    def _read(self, name: str) -> torch.Tensor:
        """A weight of the base by its name in the model, in float32."""
        return self.base_tensor(str(self._source(name))).float()

    def _wrapped(self, key: str) -> nn.Module:
        """What PEFT put in the place of the module ``key``; of modules saved whole, the copy that was trained."""
        module = self._model.get_submodule(key)
        return module.modules_to_save[module.active_adapter] if hasattr(module, "modules_to_save") else module

    def _touched_by(self, key: str) -> dict[str, tuple[int, ...]]:
        """The base's weights in the module ``key`` that adapters change, and their shapes once merged."""
        parameters = self._wrapped(key).named_parameters()
        shapes = {_original(key, name): tuple(parameter.shape) for name, parameter in parameters}
        return {name: shape for name, shape in shapes.items() if name in self._model_names}

    def _replaced_elsewhere(self) -> dict[str, torch.Tensor]:
        """Weights outside of the adapted modules that the adapters bring along, such as trained biases."""
        inside = tuple(f"{key}." for key in self._modules)
        return {
            name: parameter.data.float()
            for name, parameter in self._model.named_parameters()
            if not name.startswith(inside) and id(parameter) not in self._placeholders
        }

    def _merge_module(self, key: str) -> dict[str, torch.Tensor]:
        """Read a module's weights, let PEFT merge into them, and free them; return them by their names in the model."""
        for path, owner in list(self._wrapped(key).named_modules()):
            for name, parameter in list(owner.named_parameters(recurse=False)):
                if id(parameter) in self._placeholders:
                    weight = self._read(_original(key, path, name))
                    setattr(owner, name, nn.Parameter(weight, requires_grad=False))
        merged = _unload(self._model.get_submodule(key))
        result = {f"{key}.{name}": parameter.data.float() for name, parameter in merged.named_parameters()}
        for parameter in merged.parameters():
            parameter.data = torch.empty(0)
        return result

    def _settle_tied(self, touched: set[str]) -> dict[str, torch.Tensor]:
        """Merge the tied weights that the adapters touch, and decide whether they are still the same.

        The adapter may change one of the two, as the live model does: then both are written, and the result is untied.
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


@torch.no_grad()
def merge_in_memory(folder: Path, adapters: Adapters, config: MergeConfig, transform: Transform | None = None) -> Any:
    """Merge with the whole base in memory, in float32; return the model. For what cannot be streamed."""
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, use_safetensors=True
        )
    if transform is not None:
        for name, parameter in model.named_parameters():
            parameter.data = transform(name, parameter.data)
    head = model.get_output_embeddings()
    if tied := head is not None and head.weight is model.get_input_embeddings().weight:
        # PEFT would merge into the shared weight what belongs to one of the two.
        head.weight = nn.Parameter(head.weight.clone())
    peft_model = attach(model, adapters, config, folder, streamed=False)
    with quiet():
        model = peft_model.merge_and_unload(safe_merge=True)
        same = tied and torch.equal(model.get_output_embeddings().weight, model.get_input_embeddings().weight)
        model.config.tie_word_embeddings = same
        model.tie_weights()
    return model


def attach(model: Any, adapters: Adapters, config: MergeConfig, where: Path, *, streamed: bool = True) -> PeftModel:
    """Load the adapters into ``model`` and combine them; ``InputError`` where they belong to another base.

    ``streamed`` says that the model's weights are placeholders, which nothing may be written into.
    """
    names = [f"adapter_{index}" for index in range(len(adapters))]
    with quiet(), _peft_errors(where):
        peft_model: Any = None
        for name, (folder, _) in zip(names, adapters, strict=True):
            settings = read_peft_config(folder)
            settings.inference_mode = True
            if peft_model is None:
                peft_model = get_peft_model(model, settings, adapter_name=name, low_cpu_mem_usage=streamed)
            report = peft_model.load_adapter(str(folder), name, torch_device="cpu", low_cpu_mem_usage=streamed)
            if report.unexpected_keys:
                raise ValueError(f"the base has no place for {report.unexpected_keys[0]}")
            expected = get_peft_model_state_dict(peft_model, adapter_name=name, save_embedding_layers=False)
            lacking = sorted(expected.keys() - load_peft_weights(str(folder), device="cpu").keys())
            if lacking:
                raise ValueError(f"the adapter's file lacks {lacking[0]}")
        if len(adapters) > 1 or adapters[0][1] != 1.0:
            _combine(peft_model, names, [weight for _, weight in adapters], config)
    return peft_model


def _combine(model: Any, names: Sequence[str], weights: Sequence[float], config: MergeConfig) -> None:
    """Make one adapter of several, and make it the active one."""
    density = config.density if config.combination not in ("cat", "svd", "linear") else None
    model.add_weighted_adapter(
        list(names), list(weights), "combined", combination_type=config.combination, density=density
    )
    for module in model.modules():
        # PEFT gives the combination the first adapter's use_rslora, whose scaling would then count twice.
        if isinstance(module, LoraLayer) and "combined" in module.scaling:
            module.scaling["combined"] = 1.0
    model.set_adapter("combined")


def _placeholders(model: Any) -> None:
    """Give a model on the meta device weights on the CPU that take no memory; tied ones stay one."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            empty = nn.Parameter(torch.zeros(()).expand(parameter.shape), requires_grad=False)
            setattr(module, name, made.setdefault(id(parameter), empty))


def _original(*names: str) -> str:
    """The name in the base model of what PEFT has wrapped, from the parts of its name."""
    return ".".join(part for part in ".".join(filter(None, names)).split(".") if part not in _WRAPPERS)


def _tuned_modules(model: nn.Module) -> list[str]:
    """Names of the outermost modules that PEFT wraps."""
    found: list[str] = []
    for name, module in model.named_modules():
        wrapped = hasattr(module, "unload_and_optionally_merge_module") or isinstance(module, BaseTunerLayer)
        if wrapped and not any(name.startswith(f"{outer}.") for outer in found):
            found.append(name)
    return found


def _unload(module: Any) -> nn.Module:
    """Merge one module that PEFT wraps, refusing results that are not finite, and return what it wraps."""
    with quiet(), torch.no_grad():
        try:
            if hasattr(module, "unload_and_optionally_merge_module"):
                found: nn.Module = module.unload_and_optionally_merge_module(
                    merge=True, safe_merge=True, adapter_names=None
                )
                return found
            module.merge(safe_merge=True)
            return module.get_base_layer()
        except ValueError as error:
            raise FtregError(f"the merge fails: {error}") from error
        except RuntimeError as error:  # NotImplementedError is one
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise InfeasiblePlan(f"PEFT cannot merge these {type(module).__name__} modules: {error}") from error


@contextmanager
def _peft_errors(base: Path) -> Iterator[None]:
    """Turn what PEFT raises over an adapter that does not fit into an ``InputError``."""
    try:
        yield
    except (ValueError, RuntimeError, KeyError) as error:
        if isinstance(error, torch.OutOfMemoryError | NotImplementedError):
            raise
        missing = isinstance(error, KeyError)  # PEFT looks modules_to_save up by name
        reason = f"the adapter's file lacks {error}" if missing else " ".join(str(error).split())[:300]
        raise InputError(
            f"the adapter does not fit this base: {reason}",
            where=str(base),
            hint="It was trained on another base, or its files are damaged.",
        ) from error
