"""Serving with transformers: batches of rows that come and go, and adapters that share one copy of their base.

Rows for different LoRA adapters are computed in one batch: the base once for all, each adapter's update for its rows,
chosen by PEFT's ``adapter_names``; no adapter is ever switched on or off between requests.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from peft import PeftModel, PeftType
from peft.utils import ModulesToSaveWrapper
from peft.utils.constants import EMBEDDING_LAYER_NAMES
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from ftreg.core.errors import FtregError
from ftreg.core.types import ADAPTER, Batch, ServedModel, ServingEngine, Source
from ftreg.plugins.engines.loading import describe_model, end_tokens, load_tokenizer, loading
from ftreg.plugins.engines.ragged import RaggedBatch, RowByRow
from ftreg.plugins.engines.sharing import share
from ftreg.plugins.engines.transformers import base_quantization, context_of, load_model

_BASE = "__base__"
"""What PEFT calls the model without any adapter."""


def serve(sources: Sequence[Source], device: str) -> list[ServingEngine]:
    """Load versions to serve them: one engine for each copy of weights.

    Raises:
        FtregError: A version's files make no model, or not one that can be served.
    """
    engines: list[ServingEngine] = []
    try:
        for group in share(sources):
            engines.append(_load(group, device))  # noqa: PERF401 those that are loaded are closed if another fails
    except BaseException:
        for engine in engines:
            engine.close()
        raise
    return engines


class TransformersServing:
    """Models that share weights, in PyTorch; the ``Decoder`` of its batches.

    Rows share a cache where every layer keeps all columns and the model takes positions as they are given. With sliding
    windows, recurrent layers, rotary embeddings that depend on the longest row, positions of the model's own making, or
    LLM.int8(), rows are computed one after the other.

    Args:
        model: The model, or a PEFT model.
        models: What it holds, by digest.
        names: The adapters' names, by digest; None where there is one model, and nothing to choose.
    """

    def __init__(self, model: Any, models: Mapping[str, ServedModel], names: Mapping[str, str] | None) -> None:
        self.models = models
        self._names = names
        base = model.get_base_model() if isinstance(model, PeftModel) else model
        self._prefixed = model if _virtual_tokens(model) else None
        # A learnt prefix is where a cache starts; from there on, the base computes alone.
        self._model = base if self._prefixed is not None else model
        self._model.eval()
        arguments = inspect.signature(base.forward).parameters
        if "past_key_values" not in arguments:
            raise FtregError(f"{type(base).__name__} has no cache of keys and values, without which it is not served")
        self._keeps = "logits_to_keep" in arguments
        self._ragged = "position_ids" in arguments and _keeps_rows_apart(base)

    def batch(self) -> Batch:
        """An empty batch."""
        return RaggedBatch(self) if self._ragged else RowByRow(self)

    @torch.inference_mode()
    def start(self, rows: int) -> tuple[Any, int]:
        """An empty cache, or that of the learnt prefix."""
        cache = (
            self._prefixed.get_prompt(rows) if self._prefixed is not None else DynamicCache(config=self._model.config)
        )
        if not self._ragged:
            return cache, 0
        return (_tensors(cache), cache.get_seq_length()) if self._prefixed is not None else ([], 0)

    @torch.inference_mode()
    def forward(
        self, digests: Sequence[str], ids: np.ndarray, mask: np.ndarray, positions: np.ndarray, cache: Any
    ) -> tuple[np.ndarray, Any]:
        """Continue each row for the model of its digest."""
        device = self._model.device
        arguments: dict[str, Any] = {"input_ids": torch.from_numpy(ids).to(device), "use_cache": True}
        if self._ragged:
            arguments["attention_mask"] = torch.from_numpy(mask).to(device)
            arguments["position_ids"] = torch.from_numpy(positions).to(device)
        if self._keeps:
            arguments["logits_to_keep"] = 1
        if self._names is not None:
            arguments["adapter_names"] = [self._names[digest] for digest in digests]
        output = self._model(past_key_values=_cache(cache) if self._ragged else cache, **arguments)
        longer = output.past_key_values
        return output.logits[:, -1].float().cpu().numpy(), _tensors(longer) if self._ragged else longer

    def zeros(self, like: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        """A tensor of zeros."""
        return like.new_zeros(shape)

    def close(self) -> None:
        """Free the models and what they hold of a device's memory."""
        self._model = self._prefixed = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _load(group: Sequence[Source], device: str) -> TransformersServing:
    """Load versions that share weights: the base once, and the adapters over it."""
    adapters = [source for source in group if source.kind == ADAPTER]
    base = adapters[0].parent("base") if adapters else group[0]
    model = load_model(base.path, device, base_quantization(adapters[0]) if adapters else None)
    context = context_of(model)
    configs = model.generation_config.to_dict(), model.config.to_dict()
    for adapter in adapters:
        model = _add_adapter(model, adapter)
    models = {}
    for source in group:
        tokenizer = load_tokenizer(source.path, base.path, context=context)
        models[source.digest] = describe_model(tokenizer, end_tokens(tokenizer, *configs), _virtual_tokens(model))
    if len(group) == 1:
        return TransformersServing(model, models, None)
    names = {source.digest: _name(source) if source.kind == ADAPTER else _BASE for source in group}
    _fill_saved_layers(model, [_name(adapter) for adapter in adapters])
    return TransformersServing(model, models, names)


def _add_adapter(model: Any, adapter: Source) -> PeftModel:
    """Load an adapter beside those that the model has."""
    with loading(f"{adapter.ref} (adapter)", adapter.path):
        if isinstance(model, PeftModel):
            model.load_adapter(adapter.path, adapter_name=_name(adapter))
        else:
            model = PeftModel.from_pretrained(model, adapter.path, adapter_name=_name(adapter))
        _tie_head(model, _name(adapter))
    config = model.peft_config[_name(adapter)]
    if config.is_prompt_learning and config.peft_type != PeftType.PREFIX_TUNING:
        raise FtregError(f"{adapter.ref} is an adapter of type {config.peft_type.value}, which is not served")
    return model


def _name(adapter: Source) -> str:
    """An adapter's name in PEFT, which takes no dots and colons: its digest's hexadecimal part."""
    return adapter.digest.rpartition(":")[2]


def _tie_head(model: PeftModel, name: str) -> None:
    """Make an adapter's embedding its output head too, where the adapter was trained so.

    PEFT (0.21) does this for the first adapter on a base only; the head of others would silently be the base's.
    """
    config, base = model.peft_config[name], model.get_base_model()
    if not getattr(config, "ensure_weight_tying", False) or not base.config.tie_word_embeddings:
        return
    # PEFT ties layers of these names alone.
    if not any(saved.rpartition(".")[2] in EMBEDDING_LAYER_NAMES for saved in config.modules_to_save or ()):
        return
    embedding, head = base.get_input_embeddings().modules_to_save[name], base.get_output_embeddings()
    if not isinstance(head, ModulesToSaveWrapper):
        base.set_output_embeddings(ModulesToSaveWrapper(head, name, tied_module=embedding))
    elif name not in head.modules_to_save:
        head.update(name, tied_module=embedding)


def _fill_saved_layers(model: Any, names: Sequence[str]) -> None:
    """Let adapters that leave a layer alone, which another replaces, share the base's own.

    PEFT otherwise knows no layer for them there and fails, or gives the base's layer to all rows of the batch.
    """
    for layer in model.modules():
        if isinstance(layer, ModulesToSaveWrapper):
            for name in names:
                if name not in layer.modules_to_save:
                    layer.modules_to_save[name] = layer.original_module
                    layer.update(name)


def _virtual_tokens(model: Any) -> int:
    """The length of the model's learnt prefix; 0 without one."""
    config = model.active_peft_config if isinstance(model, PeftModel) else None
    return int(config.num_virtual_tokens) if config is not None and config.is_prompt_learning else 0


def _keeps_rows_apart(model: Any) -> bool:
    """Whether no layer's cache and product, and no position's embedding, depends on anything but the row itself."""
    # LLM.int8() takes a feature that is an outlier in one row apart in all rows (Dettmers et al., arXiv:2208.07339).
    if getattr(model, "is_loaded_in_8bit", False):
        return False
    rotary = {str(getattr(module, "rope_type", "")) for module in model.modules()}
    if any("dynamic" in each or "longrope" in each for each in rotary):
        return False
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)


def _cache(tensors: Sequence[torch.Tensor]) -> DynamicCache:
    """The cache of keys and values in turn, layer by layer; the tensors are used, not copied."""
    cache = DynamicCache()
    for keys, values in zip(tensors[::2], tensors[1::2], strict=True):
        layer = DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    return cache


def _tensors(cache: DynamicCache) -> list[torch.Tensor]:
    """The keys and values of a cache in turn, layer by layer."""
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
