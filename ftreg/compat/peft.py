"""PEFT: the modules that it wraps, merged one at a time, and adapters side by side in one batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from peft.utils.constants import EMBEDDING_LAYER_NAMES
from torch import nn

from ftreg.compat.transformers import is_router

BASE_NAME = "__base__"
"""The ``adapter_names`` entry for a row without an adapter."""

# Names that PEFT's wrappers put between a module and its weights.
_WRAPPERS = frozenset({"base_layer", "original_module", "token_adapter"})


# Training


def unsuitable_layers(model: nn.Module) -> list[str]:
    """Return the names of linear layers that LoRA cannot update: routers, and layers that a Mamba block bypasses.

    Mamba's fused kernels read the weight of the output projection during training, and the weight of the time step
    projection is multiplied with directly: an update would have no effect, and PEFT refuses most of them.
    """
    found: list[str] = []
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear) and is_router(module):
            found.append(path)
        if hasattr(module, "A_log") and hasattr(module, "D"):  # the parameters of a state-space block
            found += [f"{path}.{name}" for name, _ in module.named_children() if name in ("dt_proj", "out_proj")]
    return found


def lora_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the layers that LoRA updates, with their names."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


# Merging


def wrapped_modules(model: nn.Module) -> list[str]:
    """Return the names of the outermost modules that PEFT has wrapped."""
    found: list[str] = []
    for name, module in model.named_modules():
        wrapped = hasattr(module, "unload_and_optionally_merge_module") or isinstance(module, BaseTunerLayer)
        if wrapped and not any(name.startswith(f"{outer}.") for outer in found):
            found.append(name)
    return found


def trained_part(module: Any) -> nn.Module:
    """Return the part of a wrapped module that its adapter trained: the copy, for modules that are saved whole."""
    return module.modules_to_save[module.active_adapter] if hasattr(module, "modules_to_save") else module


def unwrapped_name(*names: str) -> str:
    """Return the base model's name of a wrapped module or weight, given as parts of its present name."""
    return ".".join(part for part in ".".join(filter(None, names)).split(".") if part not in _WRAPPERS)


@torch.no_grad()
def merge_module(module: Any) -> nn.Module:
    """Merge one wrapped module and return what it wraps.

    Raises:
        ValueError: The result is not finite.
        RuntimeError: PEFT cannot merge modules of this type (``NotImplementedError`` is one).
    """
    if hasattr(module, "unload_and_optionally_merge_module"):
        found: nn.Module = module.unload_and_optionally_merge_module(merge=True, safe_merge=True, adapter_names=None)
        return found
    module.merge(safe_merge=True)
    return module.get_base_layer()


@torch.no_grad()
def take_out_start(module: Any, start: str) -> None:
    """Take out of a LoRA layer's base weight what the initialization ``start`` moved into its adapter before training.

    The adapter keeps its trained weights.

    Args:
        module: A wrapped module whose base layer has the weights that training started from.
        start: ``pissa`` or ``olora``.
    """
    for name in module.lora_A if isinstance(module, LoraLayer) else ():
        first, second = module.lora_A[name].weight, module.lora_B[name].weight
        trained = first.data, second.data
        if start == "pissa":
            module.pissa_init(name, start)
        else:
            module.olora_init(name)
        first.data, second.data = trained


def reset_scaling(model: nn.Module, name: str) -> None:
    """Set the scaling of the LoRA adapter ``name`` to 1.

    ``add_weighted_adapter`` puts all scalings into the combined weights, but copies ``use_rslora`` from the first
    adapter, whose scaling would then count twice.
    """
    for _, layer in lora_layers(model):
        if name in layer.scaling:
            layer.scaling[name] = 1.0


# Serving


def virtual_tokens(model: Any) -> int:
    """Return the length of the model's trained prefix; 0 if it has none."""
    config = model.active_peft_config if isinstance(model, PeftModel) else None
    return int(config.num_virtual_tokens) if config is not None and config.is_prompt_learning else 0


def prefix_cache(model: PeftModel, rows: int) -> Any:
    """Return a transformers cache that holds the trained prefix for ``rows`` rows."""
    return model.get_prompt(rows)


def replaced_layers(model: Any, config: Any) -> dict[str, nn.Module]:
    """Return the layers of a base model that an adapter with this configuration replaces, by full name."""
    saved: Sequence[str] = config.modules_to_save or ()
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    tied = config.ensure_weight_tying and model.config.tie_word_embeddings
    return {
        name: layer
        for name, layer in model.named_modules()
        if any(name.endswith(each) for each in saved) or (tied and layer in ends)
    }


def tie_head(model: PeftModel, name: str) -> None:
    """Make the embedding that adapter ``name`` trained its output head too, if it was trained with the two tied.

    PEFT does this only for the first adapter on a base; the others would silently use the base's head.
    """
    config, base = model.peft_config[name], model.get_base_model()
    if not getattr(config, "ensure_weight_tying", False) or not base.config.tie_word_embeddings:
        return
    # PEFT ties only layers of these names.
    if not any(saved.rpartition(".")[2] in EMBEDDING_LAYER_NAMES for saved in config.modules_to_save or ()):
        return
    embedding, head = base.get_input_embeddings().modules_to_save[name], base.get_output_embeddings()
    if not isinstance(head, ModulesToSaveWrapper):
        base.set_output_embeddings(ModulesToSaveWrapper(head, name, tied_module=embedding))
    elif name not in head.modules_to_save:
        head.update(name, tied_module=embedding)


def share_replaced_layers(model: nn.Module, names: Iterable[str]) -> None:
    """Give adapters that do not replace a layer which another one replaces the base's own layer there.

    Otherwise PEFT fails for their rows in a mixed batch, or gives the base's layer to all rows.
    """
    names = list(names)
    for layer in model.modules():
        if isinstance(layer, ModulesToSaveWrapper):
            for name in names:
                if name not in layer.modules_to_save:
                    layer.modules_to_save[name] = layer.original_module
                    layer.update(name)
