"""transformers: its caches, its ties, its conversions of weights, its quantizers, its exporter and its trainer.

The methods that ``LanguageTrainer`` overrides are listed and checked in ``tests/compat``.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Transpose,
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
    revert_weight_conversion,
)


def cache_from(tensors: Sequence[torch.Tensor]) -> DynamicCache:
    """Make a cache of keys and values in turn, layer by layer; the tensors are used, not copied."""
    cache = DynamicCache()
    for keys, values in zip(tensors[::2], tensors[1::2], strict=True):
        layer = DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    return cache


def cache_tensors(cache: DynamicCache) -> list[torch.Tensor]:
    """Return the keys and values of a cache in turn, layer by layer, each of shape (rows, heads, columns, size)."""
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]


def is_router(module: Any) -> bool:
    """Return whether a module chooses experts; some are linear layers by class, and return more than a tensor."""
    return type(module).__name__.endswith("Router")


def caches_keys_and_values(model: Any) -> bool:
    """Return whether all that a model remembers of the tokens before are keys and values.

    State-space models, such as Mamba and RWKV, and models that mix their layers with attention, remember a state.
    """
    if "past_key_values" not in inspect.signature(type(model).forward).parameters:
        return False
    layers = DynamicCache(config=model.config).layers
    return not any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers)


@torch.no_grad()
def cache_sizes(model: Any) -> set[tuple[int, int]]:
    """Return the number of heads and the size of a head in the cache, of each layer; one element if all are alike."""
    cache = model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=True).past_key_values
    return {(keys.shape[1], keys.shape[3]) for keys in cache_tensors(cache)[::2]}


def keeps_rows_apart(model: Any) -> bool:
    """Return whether a row's results depend on nothing but the row, given its mask and positions.

    They do not in LLM.int8(), which treats a feature that is an outlier in one row specially in all rows (Dettmers et
    al., arXiv:2208.07339), with rotary embeddings that depend on the longest row, and with caches that drop columns,
    such as sliding windows, or hold a state instead of columns.
    """
    if getattr(model, "is_loaded_in_8bit", False):
        return False
    rotary = {str(getattr(module, "rope_type", "")) for module in model.modules()}
    if any("dynamic" in each or "longrope" in each for each in rotary):
        return False
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)


def tied_weights(model: Any) -> dict[str, str]:
    """Map each weight that is tied to another one to that other one, by their names in the model."""
    return dict(getattr(model, "all_tied_weights_keys", None) or {})


def replace_quantized_layers(model: Any, settings: Any, *, stored: bool) -> None:
    """Replace those layers of a model on the meta device that ``from_pretrained`` would hold in 8 or 4 bits.

    Args:
        model: The model.
        settings: A ``BitsAndBytesConfig``.
        stored: Whether the weights are stored in 8 or 4 bits, and not quantized while they are loaded.
    """
    from transformers.quantizers import AutoHfQuantizer

    AutoHfQuantizer.from_config(settings, pre_quantized=stored).preprocess_model(model, device_map={"": "cpu"})


def computes_quantized(model: Any) -> bool:
    """Return whether a model can be computed with quantized layers.

    Mamba multiplies with the weight of its time step projection itself, instead of calling the layer; the families that
    were derived from it do not, once they are quantized.
    """
    return model.config.model_type != "mamba"


def stop_rescaling(model: Any) -> None:
    """Prevent RWKV from dividing its weights whenever it turns from training to inference, and back.

    The division, which keeps float16 from overflowing, would be saved with the weights, and fails for wrapped layers.
    """
    if hasattr(model.config, "rescale_every"):
        model.config.rescale_every = 0


class Loaded(NamedTuple):
    """What ``from_pretrained`` makes of a stored tensor.

    Attributes:
        name: The weight that it becomes, or becomes a part of, by its name in the model.
        converted: Whether its values are rearranged, as when the matrices of experts are stacked.
        turned: Whether rows and columns are exchanged.
    """

    name: str
    converted: bool
    turned: bool


def loaded_as(model: Any, stored: Iterable[str]) -> dict[str, Loaded]:
    """Map the names of stored tensors to the weights of ``model`` that they become; others are left out."""
    renamings, converters, by_pattern = _transforms(model)
    known = dict(model.named_parameters(remove_duplicate=False))
    found: dict[str, Loaded] = {}
    for each in stored:
        name, pattern = rename_source_key(each, renamings, converters, model.base_model_prefix, known)
        if name in known:
            operations = by_pattern[pattern].operations if pattern is not None else []
            turned = any(isinstance(operation, Transpose) for operation in operations)
            found[each] = Loaded(name, pattern is not None, turned)
    return found


def join_weights(model: Any, stored: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights that ``model`` joins from stored tensors while loading, such as stacks of experts.

    Args:
        model: The model; it may be on the meta device.
        stored: All tensors that these weights are joined from, by their names on disk.
    """
    renamings, converters, by_pattern = _transforms(model)
    joining: dict[str, Any] = {}
    for each in sorted(stored, key=dot_natural_key):
        name, pattern = rename_source_key(each, renamings, converters, model.base_model_prefix, {})
        joining.setdefault(name, deepcopy(by_pattern[str(pattern)])).add_tensor(name, each, pattern, stored[each])
    joined: dict[str, torch.Tensor] = {}
    for name, converter in joining.items():
        joined |= converter.convert(name, model=model, config=model.config)
    return joined


def take_weights_apart(model: Any, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors that ``save_pretrained`` stores for weights of ``model``: the inverse of ``join_weights``."""
    return dict(revert_weight_conversion(model, dict(weights)))


def _transforms(model: Any) -> tuple[list[WeightRenaming], list[WeightConverter], dict[str, WeightConverter]]:
    """Return what loading does to stored tensors: renamings, conversions, and the conversions by source pattern."""
    transforms = get_model_conversion_mapping(model)
    converters = [each for each in transforms if isinstance(each, WeightConverter)]
    by_pattern = {pattern: each for each in converters for pattern in each.source_patterns}
    return [each for each in transforms if isinstance(each, WeightRenaming)], converters, by_pattern


def export_decoder(model: Any) -> Any:
    """Trace a model as the ONNX program that continues a cache by any number of tokens.

    Args:
        model: A causal language model in evaluation mode.

    Returns:
        The exporter's result, whose ``save_pretrained(folder)`` writes ``model.onnx`` and ``config.json``.

    Raises:
        RuntimeError, ValueError, NotImplementedError, OnnxExporterError: The model cannot be traced.
    """
    from transformers.exporters import OnnxConfig, OnnxExporter

    # A sample mask of ones only would drop the mask from the graph; so the first row is padded.
    ids = torch.tensor([[0, 0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6, 7]]) % model.config.vocab_size
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]])
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    # The model's own cache would drop what is outside its windows, for the length of the sample only. One that keeps
    # every column leaves the windows to the attention mask, which is right at any length.
    cache = DynamicCache()
    takes_positions = "position_ids" in inspect.signature(model.forward).parameters

    def inputs(read: slice, columns: slice) -> dict[str, Any]:
        placed = {"position_ids": positions[:, read]} if takes_positions else {}
        step = {"input_ids": ids[:, read], "attention_mask": mask[:, columns], **placed}
        return {**step, "past_key_values": cache, "use_cache": True}

    with torch.no_grad():
        model(**inputs(slice(4), slice(4)))
    if any(type(layer) is not DynamicLayer for layer in cache.layers):
        raise NotImplementedError("its state is not a cache of keys and values")
    exported = OnnxExporter().export(model, inputs(slice(4, None), slice(None)), OnnxConfig(dynamic=True))
    for node in exported.program.graph.all_nodes():
        node.metadata_props.clear()  # stack traces, with local paths
    for value in exported.program.graph.inputs:
        for place, size in enumerate(value.shape):
            if str(getattr(size, "value", size)).isdigit():  # a known size under a symbol's name, such as "32"
                value.shape[place] = int(getattr(size, "value", size))
    return exported


def planned_steps(trainer: Any) -> int:
    """Return the number of optimizer steps of the trainer's whole run."""
    return int(trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())[-1])


def to_device(trainer: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return a batch with its tensors on the trainer's device, as the trainer moves those of its training steps."""
    moved: dict[str, Any] = trainer._prepare_inputs(dict(batch))
    return moved


def use_one_gpu(arguments: Any) -> None:
    """Prevent a trainer with these ``TrainingArguments`` from splitting batches over all visible GPUs."""
    arguments._n_gpu = min(arguments.n_gpu, 1)
