"""transformers: the layout of its caches, its ties, its quantizers, its exporter and its trainer.

The methods that ``LanguageTrainer`` overrides are listed and checked in ``tests/compat``.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


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


def layers_in_four_bits(model: Any, settings: Any) -> list[str]:
    """Return the names of the layers that ``from_pretrained`` holds in 4 bits.

    Args:
        model: A model on the meta device; its layers are replaced.
        settings: A ``BitsAndBytesConfig``.
    """
    from bitsandbytes.nn import Linear4bit
    from transformers.quantizers import AutoHfQuantizer

    AutoHfQuantizer.from_config(settings).preprocess_model(model, device_map={"": "cpu"})
    return [name for name, module in model.named_modules() if isinstance(module, Linear4bit)]


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
