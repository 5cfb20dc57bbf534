"""Checks of a run's settings against this machine and the data, before any model is loaded."""

from __future__ import annotations

from ftreg.core.errors import DataError, InputError
from ftreg.core.recipe import TrainConfig
from ftreg.core.types import Splits
from ftreg.training.loading import resolve_precision


def check_settings(train: TrainConfig, data: Splits) -> None:
    """Raise if a run with these settings and this data cannot begin.

    Raises:
        InputError: The device is not there, the precision does not work on it, or there are no validation examples to
            evaluate on.
        DataError: There are no training examples.
    """
    resolve_precision(train)
    if not data.train:
        raise DataError("there are no training examples", hint="Lower data.validation and data.test.")
    for setting in ("early_stopping_patience", "eval_every"):
        if getattr(train, setting) is not None and not data.validation:
            raise InputError(
                f"{setting} needs validation examples, and there are none",
                where=f"train.{setting}",
                hint=f"Set data.validation to a share such as 0.1, or take {setting} out.",
            )
