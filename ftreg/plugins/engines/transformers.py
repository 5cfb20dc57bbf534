"""The transformers engine: checkpoints, bitsandbytes checkpoints, and PEFT adapters over their base."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from transformers import GenerationConfig

from ftreg.compat.peft import virtual_tokens
from ftreg.core.errors import InputError
from ftreg.core.types import Source
from ftreg.models.files import model_folders
from ftreg.models.inference import load_for_inference, load_version
from ftreg.models.loading import context_length
from ftreg.models.tokenizer import load_tokenizer
from ftreg.plugins.engines.limits import before_end, end_tokens, fit_new_tokens

if TYPE_CHECKING:
    import numpy as np


class TransformersEngine:
    """A causal language model in PyTorch.

    Logits are those of right-padded batches under an attention mask, answers those of left-padded ones: both equal
    what each row gets alone, up to rounding.

    Attributes:
        device: Where it is computed, such as ``cpu`` or ``cuda``.
        tokenizer: The model's tokenizer.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.device = str(model.device.type)
        self.tokenizer = tokenizer
        self._model = model.eval()
        self._ends = end_tokens(tokenizer, model.generation_config.to_dict(), model.config.to_dict())
        pad = tokenizer.pad_token_id
        self._pad = pad if pad is not None else (self._ends or [0])[0]
        # A trained prefix shifts positions, which left padding does not allow for: its rows are answered one at a time.
        self._pads = not virtual_tokens(model)
        plain = model.get_base_model() if isinstance(model, PeftModel) else model
        self._keeps = "logits_to_keep" in inspect.signature(plain.forward).parameters

    @torch.inference_mode()
    def logits(self, batch: Sequence[Sequence[int]], *, last: int | None = None) -> list[np.ndarray]:
        """Return the logits of each row, or of its ``last`` tokens, float32 of shape (tokens, vocabulary)."""
        ids, mask = self._padded(batch, left=False)
        starts = [max(0, len(row) - (last or len(row))) for row in batch]
        first = min(starts) if self._keeps else 0  # the columns before it are not needed
        kept = {"logits_to_keep": ids.shape[1] - first} if self._keeps else {}
        logits = self._model(input_ids=ids, attention_mask=mask, use_cache=not self._pads, **kept).logits
        return [
            logits[index, start - first : len(row) - first].float().cpu().numpy()
            for index, (start, row) in enumerate(zip(starts, batch, strict=True))
        ]

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
        """Free the model and its memory on the device."""
        del self._model
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _padded(self, batch: Sequence[Sequence[int]], *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Return token ids and attention mask, both of shape (rows, longest row)."""
        longest = max(len(row) for row in batch)
        if longest > self.tokenizer.model_max_length:
            raise InputError(f"{longest} tokens do not fit in a context of {self.tokenizer.model_max_length}")
        ids = torch.full((len(batch), longest), self._pad)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(batch):
            span = slice(longest - len(row), longest) if left else slice(0, len(row))
            ids[index, span] = torch.tensor(row)
            mask[index, span] = 1
        return ids.to(self._model.device), mask.to(self._model.device)


def load(source: Source, device: str) -> TransformersEngine:
    """Load a checkpoint, or an adapter over its base.

    Raises:
        InputError: The version's files, or its base's, cannot be loaded.
    """
    return _engine(load_version(source, device), model_folders(source))


def load_checkpoint(folder: Path, device: str) -> TransformersEngine:
    """Load the checkpoint in ``folder``; raise ``InputError`` if its files cannot be loaded."""
    return _engine(load_for_inference(folder, device, None), (folder,))


def _engine(model: Any, folders: Sequence[Path]) -> TransformersEngine:
    """Return the engine of a loaded model, with the tokenizer that is in one of its folders."""
    return TransformersEngine(model, load_tokenizer(*folders, context=context_length(model)))
