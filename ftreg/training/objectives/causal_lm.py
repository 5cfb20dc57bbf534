"""Objective ``causal_lm``: cross-entropy of the labels; what a run minimizes if its recipe names no objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.nn import functional

from ftreg.core.manifest import Json
from ftreg.training.batches import Collator, Row
from ftreg.training.logits import LabelledLogits
from ftreg.training.objectives.base import BatchLoss


class CausalLM:
    """Cross-entropy, in nats, of the next token at the labelled positions.

    Args:
        model: The model to train.
    """

    def __init__(self, model: Any) -> None:
        self._logits = LabelledLogits(model)

    def check(self, rows: Sequence[Row], collator: Collator, *, packed: bool) -> None:
        """Find out where the head can compute labelled positions only, and whether packed examples stay apart."""
        self._logits.check(rows, collator)
        if packed:
            self._logits.check_packing(rows, collator)

    def count(self, batch: Mapping[str, Any]) -> int:
        """Return the number of labelled positions."""
        return len(batch["targets"])

    def loss(self, model: Any, batch: Mapping[str, Any]) -> BatchLoss:
        """Return the cross-entropy summed over the labelled positions."""
        logits = self._logits(model, batch)
        return BatchLoss(functional.cross_entropy(logits.float(), batch["targets"], reduction="sum"))

    def facts(self) -> dict[str, Json]:
        """Return where logits are computed."""
        return {"logits": self._logits.where}
