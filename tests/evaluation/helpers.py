"""A model that is a table of logits, so that every figure can be computed by hand, and the comparison of two models."""

from __future__ import annotations

import gc
import tempfile
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ftreg.core.types import Engine
from ftreg.evaluation import BorderParity, Parity, Probe, compute_outputs, measure_parity
from tests.tiny import make_tokenizer


class TableEngine:
    """Logits that depend on the last token only: ``table[token]`` is the row that follows ``token``."""

    def __init__(self, table: np.ndarray, tokenizer: Any = None) -> None:
        self.tokenizer = tokenizer or make_tokenizer()
        self.table = table.astype(np.float32)
        self.batches: list[list[int]] = []

    def logits(self, batch: Sequence[Sequence[int]], *, last: int | None = None) -> list[np.ndarray]:
        """Look each row up."""
        self.batches.append([len(row) for row in batch])
        return [self.table[np.array(row[-last if last else 0 :])] for row in batch]

    def generate(self, batch: Sequence[Sequence[int]], *, max_new_tokens: int) -> list[list[int]]:
        """Follow the greatest entries to token 1."""
        answers = []
        for row in batch:
            answer: list[int] = []
            token = row[-1]
            while len(answer) < max_new_tokens:
                token = int(self.table[token].argmax())
                if token == 1:
                    break
                answer.append(token)
            answers.append(answer)
        return answers

    def close(self) -> None:
        """Nothing to free."""


def compare(parent: Engine, child: Engine, probe: Probe) -> Parity:
    """Compare two loaded models on the ordinary texts of a probe."""
    return compare_all(parent, child, probe)[0]


def compare_all(parent: Engine, child: Engine, probe: Probe) -> tuple[Parity, tuple[BorderParity, ...]]:
    """Compare two loaded models on a probe."""
    with tempfile.TemporaryDirectory() as folder:
        ours = compute_outputs(parent, probe, Path(folder, "source"), what="source")
        theirs = compute_outputs(child, probe, Path(folder, "result"), what="result")
        return measure_parity(ours, theirs, probe)


def peak(work: Callable[[], object]) -> int:
    """Return the most bytes that Python objects took at any time during ``work``, which may collect garbage often."""
    gc.collect()
    gc.freeze()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        gc.unfreeze()
