"""The onnx engine: onnxruntime-genai for folders that its builder wrote, otherwise ONNX Runtime with a KV cache."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from ftreg.core.errors import InputError, MissingExtra
from ftreg.core.types import Source
from ftreg.models.files import read_json
from ftreg.models.quiet import loading
from ftreg.models.tokenizer import load_tokenizer
from ftreg.plugins.engines.limits import before_end, end_tokens, fit_new_tokens

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
        return GenaiEngine(folder)
    if not (folder / "model.onnx").exists():
        raise InputError(
            f"{source.ref} is not an ONNX export: it has no model.onnx",
            where=str(folder),
            hint="Make one from a checkpoint: ftreg export NAME --format onnx",
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

    def logits(self, batch: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Return the logits of each row, float32 of shape (its length, vocabulary)."""
        longest = max(len(row) for row in batch)
        ids, mask = np.zeros((2, len(batch), longest), dtype=np.int64)
        for index, row in enumerate(batch):
            ids[index, : len(row)] = row
            mask[index, : len(row)] = 1
        logits, _ = self.run(ids, mask, np.arange(longest)[None].repeat(len(batch), 0), self.empty(len(batch)))
        return [logits[index, : len(row)].astype(np.float32) for index, row in enumerate(batch)]

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


class GenaiEngine:
    """An export written by the model builder of onnxruntime-genai.

    Rows of the same length are computed together, without padding: each gets exactly what it gets alone.

    Args:
        folder: The export, with its tokenizer.

    Attributes:
        tokenizer: The model's tokenizer.
        ends: Token ids that end an answer.
        context: Longest sequence, in tokens.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import onnxruntime_genai
        except ImportError:
            raise MissingExtra("this ONNX export", "onnxruntime_genai", "ftreg[onnx]") from None
        self._runtime = onnxruntime_genai
        config = read_json(folder / "genai_config.json").get("model", {})
        self.context = int(config.get("context_length", 2048))
        self.tokenizer = load_tokenizer(folder, context=self.context)
        self.ends = end_tokens(self.tokenizer, config)
        with loading("the ONNX model", folder):
            self._model = onnxruntime_genai.Model(str(folder))

    def logits(self, batch: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Return the logits of each row, float32 of shape (its length, vocabulary)."""
        found: dict[int, np.ndarray] = {}
        for indexes, rows in _by_length(batch):
            generator = self.generator(rows, rows.shape[1] + 1)
            logits = generator.get_output("logits").astype(np.float32)
            found.update(zip(indexes, logits, strict=True))
        return [found[index] for index in range(len(batch))]

    def generate(self, batch: Sequence[Sequence[int]], *, max_new_tokens: int) -> list[list[int]]:
        """Continue each prompt greedily, up to and without any of the end-of-sequence tokens."""
        steps = fit_new_tokens(self.tokenizer, batch, max_new_tokens)
        found: dict[int, list[int]] = {}
        for indexes, rows in _by_length(batch):
            length = rows.shape[1]
            generator = self.generator(rows, length + steps)
            while not generator.is_done():
                generator.generate_next_token()
            for place, index in enumerate(indexes):
                found[index] = before_end(generator.get_sequence(place)[length : length + steps].tolist(), self.ends)
        return [found[index] for index in range(len(batch))]

    def close(self) -> None:
        """Free the model."""
        del self._model

    def generator(self, rows: np.ndarray, max_length: int, *, grow: bool = False) -> Any:
        """Make a greedy generator and let it read a batch of prompts.

        Args:
            rows: Token ids, of shape (rows, length).
            max_length: Longest row with its answer, in tokens.
            grow: Let the cache grow with the rows, instead of allocating ``max_length`` columns at once.

        Raises:
            InputError: The rows are longer than the context.
        """
        if rows.shape[1] > self.context:
            raise InputError(f"{rows.shape[1]} tokens do not fit in a context of {self.context}")
        params = self._runtime.GeneratorParams(self._model)
        params.set_search_options(
            batch_size=len(rows), max_length=min(max_length, self.context), do_sample=False, repetition_penalty=1.0,
            min_length=0, no_repeat_ngram_size=0, past_present_share_buffer=not grow,
        )  # fmt: skip
        generator = self._runtime.Generator(self._model, params)
        generator.append_tokens(rows.astype(np.int32))
        return generator


def _by_length(batch: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yield rows of the same length together: their indexes in ``batch``, and their ids of shape (rows, length)."""
    groups: dict[int, list[int]] = defaultdict(list)
    for index, row in enumerate(batch):
        groups[len(row)].append(index)
    for indexes in groups.values():
        yield indexes, np.array([batch[index] for index in indexes])


def _providers(device: str) -> list[str]:
    """Return the installed execution providers of ONNX Runtime for ``device``, the preferred one first."""
    cuda = "CUDAExecutionProvider"
    if device == "cpu" or cuda not in onnxruntime.get_available_providers():
        return ["CPUExecutionProvider"]
    return [cuda, "CPUExecutionProvider"]
