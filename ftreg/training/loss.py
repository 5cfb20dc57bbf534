"""The loss: cross-entropy over the labelled positions, without computing logits for the others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional

from ftreg.core.errors import InputError
from ftreg.data import IGNORED
from ftreg.training.batches import Collator, Row, join_rows

_INPUTS = ("input_ids", "attention_mask", "position_ids")
_LENGTH = 48  # tokens of a row that the checks use
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}


class LabelledLoss:
    """Summed cross-entropy over a batch's labelled positions.

    The output head is the widest layer of a language model, and most positions of a fine-tuning batch (prompts and
    padding) have no label. Therefore the head computes the labelled positions only: while the model runs, its input is
    reduced to them. Everything before and after the head is the model's own code, so scaled or capped logits and
    wrapped models are right as well. If ``check`` finds that a model does not allow this, all logits are computed.

    Attributes:
        selective: Whether the head computes labelled positions only.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._head = model.get_output_embeddings()
        self.selective = self._head is not None

    def __call__(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Return the summed loss, in nats, of a batch made by ``Collator``."""
        logits = self._logits(_inputs(batch), batch["labelled"])
        return functional.cross_entropy(logits.float(), batch["targets"], reduction="sum")

    def _logits(self, inputs: Mapping[str, torch.Tensor], labelled: torch.Tensor) -> torch.Tensor:
        """Return the logits (labelled positions, vocabulary)."""
        length = inputs["input_ids"].shape[1]
        if not self.selective:
            return _select(self._model(**inputs).logits, length, labelled)
        with _selecting(self._head, length, labelled):
            return self._model(**inputs).logits

    @torch.no_grad()
    def check(self, rows: Sequence[Row], collator: Collator) -> None:
        """Compare selective and full logits on a few short rows, and stay selective only if they are the same.

        Args:
            rows: Rows of the run; the first few are used.
            collator: Turns rows into batches.
        """
        if not self.selective:
            return
        inputs = _inputs(collator([_head_of(row) for row in rows[:2]]), self._model.device)
        labelled = torch.arange(0, inputs["input_ids"].numel(), 3, device=self._model.device)
        with _evaluating(self._model):
            selected = self._attempt(inputs, labelled)
            self.selective = False
            full = self._logits(inputs, labelled)
            self.selective = selected is not None and _close(selected, full)

    @torch.no_grad()
    def check_packing(self, rows: Sequence[Row], collator: Collator) -> None:
        """Raise ``InputError`` if packed examples see each other in this model.

        Args:
            rows: Rows of one example each; the logits of the first few, packed and apart, are compared.
            collator: Turns rows into batches.
        """
        singles = [_head_of(row) for row in rows[:3]]
        packed = _inputs(collator([join_rows(singles)]), self._model.device)
        with _evaluating(self._model):
            together = self._attempt(packed, _every(packed))
            alone = [_inputs(collator([row]), self._model.device) for row in singles]
            apart = [self._logits(inputs, _every(inputs)) for inputs in alone]
        if together is None or not _close(together, torch.cat(apart)):
            raise InputError(
                "with this architecture or method, packed examples would attend to each other",
                where="train.batching: packed",
                hint="Set train.batching to grouped.",
            )

    def _attempt(self, inputs: Mapping[str, torch.Tensor], labelled: torch.Tensor) -> torch.Tensor | None:
        """Return what ``_logits`` returns, or None if the model cannot process such inputs."""
        try:
            return self._logits(inputs, labelled)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, IndexError, ValueError, TypeError):
            return None


def _inputs(batch: Mapping[str, Any], device: torch.device | None = None) -> dict[str, torch.Tensor]:
    """Return the part of a batch that the model's forward takes."""
    return {name: batch[name].to(device) for name in _INPUTS if name in batch}


def _every(inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the indices of all positions of a batch."""
    return torch.arange(inputs["input_ids"].numel(), device=inputs["input_ids"].device)


def _select(states: torch.Tensor, length: int, labelled: torch.Tensor) -> torch.Tensor:
    """Select ``labelled`` from ``states`` (batch, positions, ...), whose first positions may be virtual tokens."""
    return states[:, -length:].flatten(0, 1).index_select(0, labelled)


@contextlib.contextmanager
def _selecting(head: Any, length: int, labelled: torch.Tensor) -> Iterator[None]:
    """While this lasts, ``head`` computes the labelled positions only."""
    handle = head.register_forward_pre_hook(
        lambda _, arguments: (_select(arguments[0], length, labelled), *arguments[1:])
    )
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """While this lasts, ``model`` is in eval mode."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _head_of(row: Row) -> Row:
    """Return the beginning of a row."""
    size = min(_LENGTH, len(row.input_ids))
    positions = None if row.position_ids is None else row.position_ids[:size]
    return Row(row.input_ids[:size], [*row.targets[: size - 1], IGNORED], positions)


def _close(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Return whether two sets of logits are the same except for rounding."""
    if first.shape != second.shape:
        return False
    error = (first.float() - second.float()).norm() / second.float().norm().clamp_min(1e-12)
    return bool(error < _TOLERANCE.get(second.dtype, 1e-3))
