"""Milestones: when a run evaluates, saves and stops."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import transformers

from ftreg.core.recipe import TrainConfig
from ftreg.core.signals import Interruption
from ftreg.training.report import best_evaluation, split_history
from ftreg.training.weights import load_trainable, save_trainable, trainable

_EVALUATIONS = 10  # of a run that does not say how often
_LEAST, _MOST = 60.0, 600.0  # seconds between checkpoints, in a run that does not say how often
_SHARE = 0.02  # of the time may go into checkpoints, unless _MOST is over
_BYTES_PER_SECOND = 500e6  # of a disk, assumed until the first checkpoint has been timed

COMPLETED, EARLY = "completed", "early stopping"


class Milestones(transformers.TrainerCallback):
    """Decides after each step whether to evaluate, to save, to keep the weights as the best, and to stop.

    Decisions about evaluations depend on the trainer's log alone, which checkpoints keep, so a resumed run decides as
    the uninterrupted one would have.

    Args:
        train: The configuration.
        evaluates: Whether there is anything to evaluate on.
        best: File for the best weights, written if early stopping is on.
        interruption: A request to stop after the running step.

    Attributes:
        best: As given.
        stopped: Why the run ended: ``completed`` or ``early stopping``.
        validation_loss: That of the last evaluation; None before the first one.
    """

    def __init__(self, train: TrainConfig, *, evaluates: bool, best: Path, interruption: Interruption) -> None:
        self._train = train
        self._evaluates = evaluates
        self._interruption = interruption
        self._saving_takes = 0.0
        self._last_save = time.monotonic()
        self._saved = False
        self.best = best
        self.stopped = COMPLETED
        self.validation_loss: float | None = None

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **arguments: Any) -> None:
        """Restore the evaluation history from the checkpoint, and estimate what a checkpoint takes."""
        evaluations = split_history(state.log_history)[1]
        self.validation_loss = evaluations[-1]["loss"] if evaluations else None
        weights = sum(weight.nbytes for weight in trainable(arguments["model"]).values())
        self._saving_takes = 3 * weights / _BYTES_PER_SECOND  # Adam keeps two numbers for each weight
        self._last_save, self._saved = time.monotonic(), state.global_step > 0

    def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
        """Decide what follows the step."""
        step, total = state.global_step, state.max_steps
        if self._evaluates:
            every = _steps(self._train.eval_every or 1 / _EVALUATIONS, total)
            control.should_evaluate = step % every == 0 or step == total
        control.should_save = step < total and self._save_is_due(step, total)
        control.should_training_stop |= self.interrupted

    def _save_is_due(self, step: int, total: int) -> bool:
        if self._train.save_every is not None:
            return step % _steps(self._train.save_every, total) == 0
        waited = time.monotonic() - self._last_save
        # A run that will take longer than _MOST has its first checkpoint by the tenth of its steps.
        first = not self._saved and 10 * step >= total and waited * total / step >= _MOST
        return first or waited >= min(_MOST, max(_LEAST, self._saving_takes / _SHARE))

    @property
    def interrupted(self) -> bool:
        """Whether the run was asked to stop."""
        return self._interruption.requested

    def saved(self, seconds: float) -> None:
        """Note that a checkpoint was written, which took so many seconds."""
        self._last_save, self._saved, self._saving_takes = time.monotonic(), True, seconds

    def on_evaluate(self, _args: Any, state: Any, control: Any, **arguments: Any) -> None:
        """Keep the best weights, and stop if the loss has not improved for too long."""
        evaluations = split_history(state.log_history)[1]
        self.validation_loss = evaluations[-1]["loss"]
        if self._train.early_stopping_patience is not None and _since_best(evaluations) == 0:
            save_trainable(arguments["model"], self.best)
        control.should_training_stop |= self.is_over(state) or self.interrupted

    def is_over(self, state: Any) -> bool:
        """Return whether a run in this state has nothing left to do, and note why in ``stopped``."""
        if state.global_step >= state.max_steps:
            return True
        patience = self._train.early_stopping_patience
        if patience is None or _since_best(split_history(state.log_history)[1]) < patience:
            return False
        self.stopped = EARLY
        return True

    def restore_best(self, model: Any) -> None:
        """Load the best weights if early stopping kept some."""
        if self._train.early_stopping_patience is not None and self.best.is_file():
            load_trainable(model, self.best)


def _since_best(evaluations: list[dict[str, Any]]) -> int:
    """Return how many evaluations came after the best one; 0 if there are none."""
    best = best_evaluation(evaluations)
    return sum(entry["step"] > best["step"] for entry in evaluations) if best else 0


def _steps(every: float, total: int) -> int:
    """Return a number of steps that is given as such or, below 1, as a share of ``total``."""
    return max(1, math.ceil(every * total) if every < 1 else round(every))
