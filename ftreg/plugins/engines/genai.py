"""Exports for onnxruntime-genai, loaded and computed with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ftreg.core.errors import InputError, MissingExtra
from ftreg.models.files import read_json
from ftreg.models.quiet import loading
from ftreg.models.tokenizer import load_tokenizer
from ftreg.plugins.engines.limits import before_end, end_tokens, fit_new_tokens


class GenaiEngine:
    """An export written by the model builder of onnxruntime-genai.

    Rows of the same length are computed together, without padding: each gets exactly what it gets alone.

    Args:
        folder: The export, with its tokenizer.
        device: ``cpu``, or another one to use the provider that the export was written for, if it is installed.

    Attributes:
        device: Where it is computed: ``cpu`` or ``cuda``.
        tokenizer: The model's tokenizer.
        ends: Token ids that end an answer.
        context: Longest sequence, in tokens.
    """

    def __init__(self, folder: Path, device: str) -> None:
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
            settings = onnxruntime_genai.Config(str(folder))
            self.device = "cuda" if _is_for_cuda(config) and device != "cpu" and _has_cuda(onnxruntime_genai) else "cpu"
            if self.device == "cpu":
                settings.clear_providers()
            self._model = onnxruntime_genai.Model(settings)

    def logits(self, batch: Sequence[Sequence[int]], *, last: int | None = None) -> list[np.ndarray]:
        """Return the logits of each row, or of its ``last`` tokens, float32 of shape (tokens, vocabulary)."""
        found: dict[int, np.ndarray] = {}
        for indexes, rows in _by_length(batch):
            generator = self.generator(rows, rows.shape[1] + 1)
            logits = generator.get_output("logits")[:, -last if last else 0 :].astype(np.float32)
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


def _is_for_cuda(config: Mapping[str, Any]) -> bool:
    """Return whether an export was written for the CUDA provider."""
    options = config.get("decoder", {}).get("session_options", {}).get("provider_options", [])
    return any("cuda" in {name.lower() for name in each} for each in options)


def _has_cuda(runtime: Any) -> bool:
    """Return whether this build of onnxruntime-genai can use a CUDA device of this machine."""
    return bool(runtime.is_cuda_available())


def _by_length(batch: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yield rows of the same length together: their indexes in ``batch``, and their ids of shape (rows, length)."""
    groups: dict[int, list[int]] = defaultdict(list)
    for index, row in enumerate(batch):
        groups[len(row)].append(index)
    for indexes in groups.values():
        yield indexes, np.array([batch[index] for index in indexes])
