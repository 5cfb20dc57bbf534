"""The protocol of objectives: what the trainer needs to know of the loss that it minimizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from ftreg.core.manifest import Json
from ftreg.training.batches import Collator, Row


@dataclass(frozen=True)
class BatchLoss:
    """The loss of a batch.

    A run's loss is the sum over many batches divided by the sum of their counts (``Objective.count``), so how rows are
    distributed over batches and processes does not change it.

    Attributes:
        total: The loss summed over what the objective counts; a scalar that gradients flow through.
        figures: Further sums over the same, by name, such as the parts of the loss; scalars without gradients. Their
            means are logged beside the loss.
    """

    total: torch.Tensor
    figures: Mapping[str, torch.Tensor] = field(default_factory=dict)


class Objective(Protocol):
    """What a run minimizes, for one model.

    ``fit`` makes it from the job, calls ``check`` once before the first step, and the trainer then calls ``count`` and
    ``loss`` with batches of rows.
    """

    def check(self, rows: Sequence[Row], collator: Collator, *, packed: bool) -> None:
        """Prepare for the model and the data, whose first few rows may be computed.

        Args:
            rows: The rows of the run, one example each.
            collator: Turns rows into batches.
            packed: Whether the run joins several rows into one.

        Raises:
            InputError: The objective cannot be computed with this model and these rows.
        """

    def count(self, batch: Mapping[str, Any]) -> int:
        """Return how many items the loss of a batch is a sum over, such as its labelled positions."""

    def loss(self, model: Any, batch: Mapping[str, Any]) -> BatchLoss:
        """Compute the loss of a batch.

        Args:
            model: The model as the trainer passes it. It may be wrapped (by DDP or FSDP) to synchronize gradients, so
                the loss has to call this object and not the model inside it.
            batch: A batch on the model's device.
        """

    def facts(self) -> dict[str, Json]:
        """Return how the loss is computed, for the report; what ``check`` has found counts."""
