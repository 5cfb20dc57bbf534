"""The transformers engine: checkpoints, bitsandbytes checkpoints, and PEFT adapters over their base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, GenerationConfig

from ftreg.core.errors import FtregError
from ftreg.core.types import ADAPTER, Source
from ftreg.plugins.engines.loading import before_end, end_tokens, fit_new_tokens, load_tokenizer, loading
from ftreg.training import keep_4bit_layout

if TYPE_CHECKING:
    import numpy as np


class TransformersEngine:
    """A causal language model in PyTorch.

    Logits are those of right-padded batches under an attention mask, answers those of left-padded ones: both equal
    what each row gets alone, but for rounding.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._model = model.eval()
        self._ends = end_tokens(tokenizer, model.generation_config.to_dict(), model.config.to_dict())
        pad = tokenizer.pad_token_id
        self._pad = pad if pad is not None else (self._ends or [0])[0]
        # Learnt prefixes shift positions, which left padding upsets: their rows are answered one at a time.
        self._pads = not getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False)

    @torch.inference_mode()
    def logits(self, batch: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Return the logits of each row, float32 of shape (its length, vocabulary)."""
        ids, mask = self._padded(batch, left=False)
        output = self._model(input_ids=ids, attention_mask=mask, use_cache=not self._pads)
        return [output.logits[index, : len(row)].float().cpu().numpy() for index, row in enumerate(batch)]

    @torch.inference_mode()
    def generate(self, batch: Sequence[Sequence[int]], *, max_new_tokens: int) -> list[list[int]]:
        """Continue each prompt greedily, up to and without any of the end-of-sequence tokens."""
        if not self._pads and len(batch) > 1:
            return [answer for row in batch for answer in self.generate([row], max_new_tokens=max_new_tokens)]
        ids, mask = self._padded(batch, left=True)
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=fit_new_tokens(self.tokenizer, batch, max_new_tokens),
            eos_token_id=self._ends or None,
            pad_token_id=self._pad,
        )
        # The model's own settings (penalties, sampling) would fill in what is unset here; greedy means without them.
        self._model.generation_config = config
        output = self._model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        return [before_end(row, self._ends) for row in output[:, ids.shape[1] :].tolist()]

    def close(self) -> None:
        """Free the model and what it holds of a device's memory."""
        del self._model
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _padded(self, batch: Sequence[Sequence[int]], *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and attention mask, both of shape (rows, longest row)."""
        longest = max(len(row) for row in batch)
        if longest > self.tokenizer.model_max_length:
            raise FtregError(f"{longest} tokens do not fit in a context of {self.tokenizer.model_max_length}")
        ids = torch.full((len(batch), longest), self._pad)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(batch):
            span = slice(longest - len(row), longest) if left else slice(0, len(row))
            ids[index, span] = torch.tensor(row)
            mask[index, span] = 1
        return ids.to(self._model.device), mask.to(self._model.device)


def load(source: Source, device: str) -> TransformersEngine:
    """Load a checkpoint, or an adapter over its base; raise ``FtregError`` for files that make no model."""
    if source.kind != ADAPTER:
        return load_checkpoint(source.path, device)
    base = source.parent("base")
    model = load_model(base.path, device, base_quantization(source))
    with loading(f"{source.ref} (adapter)", source.path):
        model = PeftModel.from_pretrained(model, source.path)
    tokenizer = load_tokenizer(source.path, base.path, context=context_of(model))
    return TransformersEngine(model, tokenizer)


def load_checkpoint(folder: Path, device: str) -> TransformersEngine:
    """Load the checkpoint in ``folder``."""
    model = load_model(folder, device, None)
    return TransformersEngine(model, load_tokenizer(folder, context=context_of(model)))


def base_quantization(adapter: Source) -> dict[str, Any] | None:
    """How the base was quantized while the adapter was trained, as ``BitsAndBytesConfig`` takes it; None if not."""
    found = adapter.manifest.facts.get("base_quantization")
    return dict(found) if found else None


def pick_device(device: str, folder: Path) -> str:
    """Resolve ``auto``: the GPU if the weights in ``folder`` fit in its free memory with room to work, else the CPU."""
    if device != "auto":
        return device
    if not torch.cuda.is_available():
        return "cpu"
    needed = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return "cuda" if torch.cuda.mem_get_info()[0] > 1.3 * needed + (1 << 30) else "cpu"


def load_model(folder: Path, device: str, quantization: Mapping[str, Any] | None) -> Any:
    """Load the model in ``folder``: float32 on CPUs, which compute little else well, else as it is stored."""
    device = pick_device(device, folder)
    with loading("the model", folder):
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        stored = getattr(config, "quantization_config", None) is not None
        arguments: dict[str, Any] = {"dtype": "auto" if stored or device != "cpu" else torch.float32}
        if quantization is not None:
            arguments["quantization_config"] = BitsAndBytesConfig(**quantization)
            # What is quantized is the base in this dtype; another would give other 4-bit values.
            arguments["dtype"] = getattr(torch, quantization.get("bnb_4bit_compute_dtype", "float32"))
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            device_map={"": device},
            output_loading_info=True,
            local_files_only=True,
            use_safetensors=True,
            **arguments,
        )
    # transformers fills absent weights with random ones and only remarks on it.
    absent = sorted(report["missing_keys"]) + sorted(str(key[0]) for key in report["mismatched_keys"])
    if absent:
        raise FtregError(
            f"the checkpoint lacks {len(absent)} of the model's weights, {absent[0]} first",
            where=str(folder),
            hint="Its files are incomplete or of another model.",
        )
    keep_4bit_layout(model)
    return model


def context_of(model: Any) -> int | None:
    """The longest sequence the model takes, by its configuration."""
    found = getattr(model.config, "max_position_embeddings", None)
    return int(found) if found else None
