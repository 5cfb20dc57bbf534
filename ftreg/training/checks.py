"""Checks of a run's settings against this machine and the data, before any model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ftreg.core.errors import DataError, InfeasiblePlan, InputError
from ftreg.core.recipe import TrainConfig
from ftreg.core.types import Splits
from ftreg.models.architectures import check_causal
from ftreg.models.tokenizer import load_tokenizer
from ftreg.training.loading import resolve_precision


def check_settings(train: TrainConfig, data: Splits) -> None:
    """Raise if a run with these settings and this data cannot begin.

    Raises:
        InputError: The device is missing, it does not support the precision, or a setting needs validation examples and
            there are none.
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


def check_teacher(teacher: Sequence[Path], base: Path, *, where: str) -> None:
    """Raise if a model cannot be the teacher of another one; only configurations and tokenizers are read.

    Args:
        teacher: The folder of a checkpoint, or those of an adapter and its base.
        base: The folder of the student.
        where: What names the teacher, for errors.

    Raises:
        InputError: The teacher is not a causal language model, or has no tokenizer.
        InfeasiblePlan: Their vocabularies differ.
    """
    check_causal(teacher[-1])
    ours, theirs = _tokens(base), _tokens(*teacher)
    different = [number for number in ours.keys() | theirs.keys() if ours.get(number) != theirs.get(number)]
    if different:
        first = min(different)
        raise InfeasiblePlan(
            f"teacher and base have different vocabularies: token {first} is {_said(ours.get(first))} in the base and "
            f"{_said(theirs.get(first))} in the teacher; {len(different)} tokens differ",
            where=where,
            hint="Distillation compares probabilities token by token. Choose a teacher of the base's family.",
        )


def _tokens(*folders: Path) -> dict[int, str]:
    """Return the tokens of a model's tokenizer by their ids."""
    return {number: token for token, number in load_tokenizer(*folders).get_vocab().items()}


def _said(token: str | None) -> str:
    return "missing" if token is None else repr(token)
