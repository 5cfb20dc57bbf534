"""Objective ``distillation``: a student learns the probabilities that a teacher gives to each next token.

Hinton et al., "Distilling the Knowledge in a Neural Network" (arXiv:1503.02531), for the temperature; Gu et al.,
"MiniLLM" (arXiv:2306.08543), for the reverse divergence, here at the tokens of the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional

from ftreg.core.manifest import Json
from ftreg.core.recipe import DistillationConfig
from ftreg.training.batches import Collator, Row
from ftreg.training.logits import LabelledLogits
from ftreg.training.objectives.base import BatchLoss


class Distillation:
    """The divergence of a student from a teacher, mixed with the loss on the labels.

    With the student's logits s, the teacher's t, temperature T and label weight a, the loss at a position is
    a CE(label, s) + (1 - a) T^2 KL(softmax(t / T) || softmax(s / T)), or the KL the other way round, in nats. The
    factor T^2 keeps the gradients of both parts in proportion at every temperature.

    The logits of both models are held at the labelled positions only, (labelled positions, vocabulary) each.

    Args:
        model: The student.
        teacher: A model with the same vocabulary, on the same device. Its head may be wider or narrower than the
            student's if one of the two is padded; what only one of them has is left out of the divergence.
        config: The settings.
    """

    def __init__(self, model: Any, teacher: Any, config: DistillationConfig) -> None:
        self._config = config
        self._teacher = teacher.eval().requires_grad_(False)
        self._teacher.config.use_cache = False
        self._student_logits = LabelledLogits(model)
        self._teacher_logits = LabelledLogits(teacher, what="the teacher")

    def check(self, rows: Sequence[Row], collator: Collator, *, packed: bool) -> None:
        """Find out, for both models, where logits can be computed, and whether packed examples stay apart."""
        for logits in (self._student_logits, self._teacher_logits):
            logits.check(rows, collator)
            if packed:
                logits.check_packing(rows, collator)

    def count(self, batch: Mapping[str, Any]) -> int:
        """Return the number of labelled positions."""
        return len(batch["targets"])

    def loss(self, model: Any, batch: Mapping[str, Any]) -> BatchLoss:
        """Return the loss summed over the labelled positions, and its two parts as figures."""
        with torch.inference_mode():  # first, while no activations of the student are held
            taught = self._teacher_logits(self._teacher, batch)
        logits = self._student_logits(model, batch).float()
        share = self._config.label_weight
        label_loss = functional.cross_entropy(logits if share else logits.detach(), batch["targets"], reduction="sum")
        divergence = self._divergence(logits, taught)
        figures = {"label_loss": label_loss.detach(), "divergence": divergence.detach()}
        return BatchLoss(share * label_loss + (1 - share) * divergence, figures)

    def facts(self) -> dict[str, Json]:
        """Return where the logits of student and teacher are computed."""
        return {"logits": self._student_logits.where, "teacher_logits": self._teacher_logits.where}

    def _divergence(self, logits: torch.Tensor, taught: torch.Tensor) -> torch.Tensor:
        """Return T^2 times the divergence, summed over the positions, of logits (positions, vocabulary)."""
        width = min(logits.shape[-1], taught.shape[-1])
        temperature = self._config.temperature
        student = functional.log_softmax(logits[:, :width] / temperature, dim=-1)
        teacher = functional.log_softmax(taught[:, :width].float() / temperature, dim=-1)
        # kl_div(input, target) is KL(target || input).
        given, wanted = (student, teacher) if self._config.divergence == "forward" else (teacher, student)
        return temperature**2 * functional.kl_div(given, wanted, reduction="sum", log_target=True)
