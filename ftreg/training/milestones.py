"""Milestones: when a run evaluates, saves and stops."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import transformers

from ftreg.core.recipe import TrainConfig
from ftreg.training.report import best_evaluation, split_history
from ftreg.training.weights import load_trainable, save_trainable

_EVALUATIONS = 10  # of a run that does not say how often
_SECONDS_BETWEEN_SAVES = 600.0  # of a run that does not say how often

COMPLETED, EARLY, INTERRUPTED = "completed", "early stopping", "interrupted"


class Milestones(transformers.TrainerCallback):
    """Decides after each step whether to evaluate, to save, to keep the weights as the best, and to stop.

    What it knows of the past it reads from the trainer's log, which checkpoints keep, so a resumed run decides as the
    interrupted one would have.

    Args:
        train: The configuration.
        evaluates: Whether there is anything to evaluate on.
        best: File for the best weights, written where early stopping is on.

    Attributes:
        stopped: Why the run ended: completed, early stopping or interrupted.
        validation_loss: The newest one.
    """

    def __init__(self, train: TrainConfig, *, evaluates: bool, best: Path) -> None:
        self._train = train
        self._evaluates = evaluates
        self._best = best
        self._last_save = time.monotonic()
        self._interrupted = False
        self.stopped = COMPLETED
        self.validation_loss: float | None = None

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Know of the evaluations before an interruption."""
        evaluations = split_history(state.log_history)[1]
        self.validation_loss = evaluations[-1]["loss"] if evaluations else None

    def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
        """Decide what follows the step."""
        step, total = state.global_step, state.max_steps
        if self._evaluates:
            every = _steps(self._train.eval_every or 1 / _EVALUATIONS, total)
            control.should_evaluate = step % every == 0 or step == total
        if self._interrupted and step < total:
            self.stopped = INTERRUPTED
            control.should_training_stop = True
        control.should_save = step < total and (self._interrupted or self._save_is_due(step, total))

    def _save_is_due(self, step: int, total: int) -> bool:
        if self._train.save_every is None:
            return time.monotonic() - self._last_save > _SECONDS_BETWEEN_SAVES
        return step % _steps(self._train.save_every, total) == 0

    def on_save(self, *_: Any, **__: Any) -> None:
        """Note when."""
        self._last_save = time.monotonic()

    def on_evaluate(self, _args: Any, state: Any, control: Any, **arguments: Any) -> None:
        """Keep the best weights, and stop where there was no better loss for too long."""
        evaluations = split_history(state.log_history)[1]
        self.validation_loss = evaluations[-1]["loss"]
        patience = self._train.early_stopping_patience
        best = best_evaluation(evaluations)
        if patience is None or best is None:
            return
        since = sum(entry["step"] > best["step"] for entry in evaluations)
        if since == 0:
            save_trainable(arguments["model"], self._best)
        if since >= patience and state.global_step < state.max_steps:
            self.stopped = EARLY
            control.should_training_stop = True

    def restore_best(self, model: Any) -> None:
        """Put the best weights back, where early stopping kept them."""
        if self._train.early_stopping_patience is not None and self._best.is_file():
            load_trainable(model, self._best)

    @contextlib.contextmanager
    def graceful_interrupt(self) -> Iterator[None]:
        """While this lasts, Ctrl-C ends the run after the step, with a checkpoint; a second one ends it at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.getsignal(signal.SIGINT)

        def note(*_: Any) -> None:
            self._interrupted = True
            signal.signal(signal.SIGINT, previous)

        signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)


def _steps(every: float, total: int) -> int:
    """A number of steps, given as such or as a share of ``total``."""
    return max(1, math.ceil(every * total) if every < 1 else round(every))
