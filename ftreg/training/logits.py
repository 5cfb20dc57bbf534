"""The logits of the labelled positions, without computing those of the others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from ftreg.core.errors import InputError
from ftreg.data import IGNORED
from ftreg.training.batches import Collator, Row, join_rows

_INPUTS = ("input_ids", "attention_mask", "position_ids")
_LENGTH = 48  # tokens of a row that the checks use
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}


class LabelledLogits:
    """Computes a model's logits at a batch's labelled positions.

    The output head is the widest layer of a language model, and most positions of a fine-tuning batch (prompts and
    padding) have no label. Therefore the head computes the labelled positions only: while the model runs, its input is
    reduced to them. Everything before and after the head is the model's own code, so scaled or capped logits and
    wrapped models are right as well. If ``check`` finds that a model does not allow this, all logits are computed.

    Args:
        model: The model, not wrapped for several processes.
        what: What it is, for errors.

    Attributes:
        selective: Whether the head computes labelled positions only.
    """

    def __init__(self, model: Any, what: str = "the model") -> None:
        self._model = model
        self._what = what
        self._head = model.get_output_embeddings()
        self.selective = self._head is not None

    @property
    def where(self) -> str:
        """Where the head computes, in words for a report."""
        return "labelled positions" if self.selective else "all positions"

    def __call__(self, model: Any, batch: Mapping[str, Any]) -> torch.Tensor:
        """Return the logits (labelled positions, vocabulary) of a batch made by ``Collator``.

        Args:
            model: What to call: the model itself, or what wraps it to synchronize its gradients.
            batch: The batch, on the model's device.
        """
        return self._compute(model, _inputs(batch), batch["labelled"])

    def _compute(self, model: Any, inputs: Mapping[str, torch.Tensor], labelled: torch.Tensor) -> torch.Tensor:
        length = inputs["input_ids"].shape[1]
        if not self.selective:
            return _select(model(**inputs).logits, length, labelled)
        with _selecting(self._head, length, labelled):
            logits: torch.Tensor = model(**inputs).logits
        return logits

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
            full = self._compute(self._model, inputs, labelled)
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
            apart = [self._compute(self._model, inputs, _every(inputs)) for inputs in alone]
        if together is None or not _close(together, torch.cat(apart)):
            raise InputError(
                f"packed examples would attend to each other in {self._what}, with its architecture or method",
                where="train.batching: packed",
                hint="Set train.batching to grouped.",
            )

    def _attempt(self, inputs: Mapping[str, torch.Tensor], labelled: torch.Tensor) -> torch.Tensor | None:
        """Return the model's logits, or None if it cannot process such inputs."""
        try:
            return self._compute(self._model, inputs, labelled)
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
