"""Serving with transformers: batches whose rows come and go, and adapters that share one copy of their base.

Rows for different LoRA adapters are computed in one batch: the base once for all, each adapter's update for its rows,
chosen by PEFT's ``adapter_names``; no adapter is switched on or off between requests.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from peft import PeftModel, PeftType
from transformers import DynamicCache

from ftreg.compat.peft import BASE_NAME, prefix_cache, share_replaced_layers, tie_head, virtual_tokens
from ftreg.compat.transformers import cache_from, cache_tensors, keeps_rows_apart
from ftreg.core.errors import InputError
from ftreg.core.types import ADAPTER, Batch, ServedModel, ServingEngine, Source
from ftreg.models.inference import load_for_inference
from ftreg.models.loading import context_length
from ftreg.models.quantization import base_quantization
from ftreg.models.quiet import loading
from ftreg.models.tokenizer import load_tokenizer
from ftreg.plugins.engines.limits import describe_model, end_tokens
from ftreg.plugins.engines.ragged import RaggedBatch, RowByRow
from ftreg.plugins.engines.sharing import share


def serve(sources: Sequence[Source], device: str) -> list[ServingEngine]:
    """Load versions to serve them: one engine for each copy of weights.

    Raises:
        InputError: A version's files cannot be loaded, or hold a model that cannot be served.
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

    Rows share a cache if every layer keeps all columns and the model takes positions as they are given. With sliding
    windows, recurrent layers, rotary embeddings that depend on the longest row, positions that the model computes
    itself, or LLM.int8(), rows are computed one after the other.

    Args:
        model: The model, or a PEFT model.
        models: What it holds, by digest.
        names: The adapters' names in PEFT, by digest; None if the engine holds a single model.

    Attributes:
        model: The model that is computed with; None once the engine is closed.
    """

    def __init__(self, model: Any, models: Mapping[str, ServedModel], names: Mapping[str, str] | None) -> None:
        self.models = models
        self._names = names
        base = model.get_base_model() if isinstance(model, PeftModel) else model
        self._prefixed = model if virtual_tokens(model) else None
        # A trained prefix is where a cache starts; from there on, the base computes alone.
        self.model = base if self._prefixed is not None else model
        self.model.eval()
        arguments = inspect.signature(base.forward).parameters
        if "past_key_values" not in arguments:
            raise InputError(
                f"{type(base).__name__} cannot be served: its forward pass takes no cache of keys and values"
            )
        self._keeps = "logits_to_keep" in arguments
        self._ragged = "position_ids" in arguments and keeps_rows_apart(base)

    def batch(self) -> Batch:
        """Return an empty batch."""
        return RaggedBatch(self) if self._ragged else RowByRow(partial(RaggedBatch, self))

    @torch.inference_mode()
    def start(self, rows: int) -> tuple[Any, int]:
        """Return the cache before the first token, and its length: empty, or the trained prefix."""
        prefix = prefix_cache(self._prefixed, rows) if self._prefixed is not None else None
        if self._ragged:
            return (cache_tensors(prefix), prefix.get_seq_length()) if prefix is not None else ([], 0)
        return (prefix if prefix is not None else DynamicCache(config=self.model.config)), 0

    @torch.inference_mode()
    def forward(
        self, digests: Sequence[str], ids: np.ndarray, mask: np.ndarray, positions: np.ndarray, cache: Any
    ) -> tuple[np.ndarray, Any]:
        """Continue each row for the model of its digest."""
        device = self.model.device
        arguments: dict[str, Any] = {"input_ids": torch.from_numpy(ids).to(device), "use_cache": True}
        if self._ragged:
            arguments["attention_mask"] = torch.from_numpy(mask).to(device)
            arguments["position_ids"] = torch.from_numpy(positions).to(device)
        if self._keeps:
            arguments["logits_to_keep"] = 1
        if self._names is not None:
            arguments["adapter_names"] = [self._names[digest] for digest in digests]
        output = self.model(past_key_values=cache_from(cache) if self._ragged else cache, **arguments)
        longer = output.past_key_values
        return output.logits[:, -1].float().cpu().numpy(), cache_tensors(longer) if self._ragged else longer

    def zeros(self, like: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        """Return a tensor of zeros."""
        return like.new_zeros(shape)

    def close(self) -> None:
        """Free the models and their memory on the device."""
        self.model = self._prefixed = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _load(group: Sequence[Source], device: str) -> TransformersServing:
    """Load versions that share weights: the base once, and the adapters over it."""
    adapters = [source for source in group if source.kind == ADAPTER]
    base = adapters[0].parent("base") if adapters else group[0]
    model = load_for_inference(base.path, device, base_quantization(adapters[0]) if adapters else None)
    context = context_length(model)
    configs = model.generation_config.to_dict(), model.config.to_dict()
    for adapter in adapters:
        model = _add_adapter(model, adapter)
    models = {}
    for source in group:
        tokenizer = load_tokenizer(source.path, base.path, context=context)
        models[source.digest] = describe_model(tokenizer, end_tokens(tokenizer, *configs), virtual_tokens(model))
    if len(group) == 1:
        return TransformersServing(model, models, None)
    names = {source.digest: _name(source) if source.kind == ADAPTER else BASE_NAME for source in group}
    share_replaced_layers(model, [_name(adapter) for adapter in adapters])
    return TransformersServing(model, models, names)


def _add_adapter(model: Any, adapter: Source) -> PeftModel:
    """Load an adapter next to those that the model has."""
    with loading(f"{adapter.ref} (adapter)", adapter.path):
        if isinstance(model, PeftModel):
            model.load_adapter(adapter.path, adapter_name=_name(adapter))
        else:
            model = PeftModel.from_pretrained(model, adapter.path, adapter_name=_name(adapter))
        tie_head(model, _name(adapter))
    config = model.peft_config[_name(adapter)]
    if config.is_prompt_learning and config.peft_type != PeftType.PREFIX_TUNING:
        raise InputError(f"{adapter.ref} is an adapter of type {config.peft_type.value}, which cannot be served")
    return model


def _name(adapter: Source) -> str:
    """Return an adapter's name in PEFT, which allows no dots and colons: its digest's hexadecimal part."""
    return adapter.digest.rpartition(":")[2]
