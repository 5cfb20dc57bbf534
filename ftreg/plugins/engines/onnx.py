"""The onnx engine: ONNX Runtime with a KV cache, or onnxruntime-genai for folders that its builder wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from ftreg.core.errors import InputError
from ftreg.core.types import Source
from ftreg.models.files import read_json
from ftreg.models.quiet import loading
from ftreg.models.tokenizer import load_tokenizer
from ftreg.plugins.engines.genai import GenaiEngine
from ftreg.plugins.engines.limits import before_end, end_tokens, fit_new_tokens

_PART = 512
"""Tokens of each row that are read at a time."""

_CUDA = "CUDAExecutionProvider"

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}


def load(source: Source, device: str) -> OnnxEngine | GenaiEngine:
    """Load an ONNX export.

    Raises:
        InputError: The folder is not an ONNX export with a KV cache, or cannot be loaded.
        MissingExtra: The export needs onnxruntime-genai, which is not installed.
    """
    folder = source.path
    if (folder / "genai_config.json").exists():
        return GenaiEngine(folder, device)
    if not (folder / "model.onnx").exists():
        raise InputError(
            f"{source.ref} is not an ONNX export: it has no model.onnx",
            where=str(folder),
            hint="Make one from a checkpoint: `ftreg.export('NAME', format='onnx')`",
        )
    return OnnxEngine(folder, device)


class OnnxEngine:
    """A decoder graph with past keys and values as inputs, and present ones as outputs, in ONNX Runtime.

    The graph's inputs are ``input_ids``, ``attention_mask``, optionally ``position_ids``, and for each layer a past key
    and a past value of shape (rows, heads, past length, head size), which may be empty; its first output is ``logits``.

    Args:
        folder: The export, with its tokenizer and configuration.
        device: ``cpu``, or another one to use the CUDA provider if it is installed.

    Attributes:
        device: Where it is computed: ``cpu`` or ``cuda``.
        tokenizer: The model's tokenizer.
        ends: Token ids that end an answer.
        takes_positions: Whether ``position_ids`` is an input.
    """

    def __init__(self, folder: Path, device: str) -> None:
        config = read_json(folder / "config.json", optional=True)
        context = config.get("max_position_embeddings") or config.get("n_positions")
        self.tokenizer = load_tokenizer(folder, context=context)
        self.ends = end_tokens(self.tokenizer, read_json(folder / "generation_config.json", optional=True), config)
        with loading("the ONNX model", folder):
            self._session = onnxruntime.InferenceSession(folder / "model.onnx", providers=_providers(device))
        self.device = "cuda" if _CUDA in self._session.get_providers() else "cpu"
        self._inputs = {value.name: value for value in self._session.get_inputs()}
        self._past = [name for name in self._inputs if name not in ("input_ids", "attention_mask", "position_ids")]
        self._present = [value.name for value in self._session.get_outputs()[1:]]
        if "input_ids" not in self._inputs or len(self._past) != len(self._present) or not self._past:
            raise InputError(
                "the graph is not a decoder with a KV cache",
                where=str(folder / "model.onnx"),
                hint=f"Inputs: {list(self._inputs)}",
            )
        self.takes_positions = "position_ids" in self._inputs

    def logits(self, batch: Sequence[Sequence[int]], *, last: int | None = None) -> list[np.ndarray]:
        """Return the logits of each row, or of its ``last`` tokens, float32 of shape (tokens, vocabulary)."""
        longest = max(len(row) for row in batch)
        ids, mask = np.zeros((2, len(batch), longest), dtype=np.int64)
        for index, row in enumerate(batch):
            ids[index, : len(row)] = row
            mask[index, : len(row)] = 1
        positions = np.arange(longest)[None].repeat(len(batch), 0)
        starts = [max(0, len(row) - (last or len(row))) for row in batch]
        # The graph computes the logits of every token that it reads: in parts, so that a long row's are not all held.
        found: list[list[np.ndarray]] = [[] for _ in batch]
        past = self.empty(len(batch))
        for start in range(0, longest, _PART):
            part = slice(start, start + _PART)
            logits, past = self.run(ids[:, part], mask[:, : part.stop], positions[:, part], past)
            for index, row in enumerate(batch):
                wanted = slice(max(starts[index] - start, 0), max(len(row) - start, 0))
                found[index].append(logits[index, wanted].astype(np.float32))
        return [np.concatenate(parts) for parts in found]

    def generate(self, batch: Sequence[Sequence[int]], *, max_new_tokens: int) -> list[list[int]]:
        """Continue each prompt greedily, up to and without any of the end-of-sequence tokens."""
        steps = fit_new_tokens(self.tokenizer, batch, max_new_tokens)
        longest = max(len(row) for row in batch)
        ids, mask = np.zeros((2, len(batch), longest), dtype=np.int64)
        for index, row in enumerate(batch):
            ids[index, longest - len(row) :] = row
            mask[index, longest - len(row) :] = 1
        positions = np.maximum(mask.cumsum(axis=1) - 1, 0)
        past = self.empty(len(batch))
        written = np.zeros((len(batch), 0), dtype=np.int64)
        while written.shape[1] < steps and not np.isin(written, self.ends).any(axis=1).all():
            logits, past = self.run(ids, mask, positions, past)
            ids = logits[:, -1].argmax(axis=-1)[:, None]
            written = np.concatenate([written, ids], axis=1)
            mask = np.concatenate([mask, np.ones_like(ids)], axis=1)
            positions = positions[:, -1:] + 1
        return [before_end(row, self.ends) for row in written.tolist()]

    def close(self) -> None:
        """Free the session."""
        del self._session

    def run(
        self, ids: np.ndarray, mask: np.ndarray, positions: np.ndarray, past: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Run one forward pass.

        Args:
            ids: Token ids, of shape (rows, length).
            mask: 1 for the columns that hold a token of the row, of shape (rows, past length + length).
            positions: The tokens' positions in their rows, of shape (rows, length).
            past: The keys and values of the tokens before.

        Returns:
            Logits of shape (rows, length, vocabulary), and the present keys and values.
        """
        feed = {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": positions,
            **dict(zip(self._past, past, strict=True)),
        }
        outputs = self._session.run(None, {name: value for name, value in feed.items() if name in self._inputs})
        return outputs[0], outputs[1:]

    def empty(self, rows: int) -> list[np.ndarray]:
        """Return the cache of ``rows`` rows before the first token."""
        inputs = [self._inputs[name] for name in self._past]
        return [np.zeros((rows, int(each.shape[1]), 0, int(each.shape[3])), dtype=_TYPES[each.type]) for each in inputs]


def _providers(device: str) -> list[str]:
    """Return the installed execution providers of ONNX Runtime for ``device``, the preferred one first."""
    if device == "cpu" or _CUDA not in onnxruntime.get_available_providers():
        return ["CPUExecutionProvider"]
    return [_CUDA, "CPUExecutionProvider"]
