"""Answers: what a model computed on each example of an evaluation, as a file of JSON Lines.

Each line is about one example, in their order. It has ``loss`` (the sum over the labelled tokens, in nats), ``tokens``
(how many are labelled) and ``correct`` (how many of these the model ranks first); for an example with a prompt also the
fields of ``AnsweredPrompt``.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from ftreg.core.types import AnsweredPrompt

Examples = Mapping[str, Sequence[float]]
"""The score of each answer by figure, NaN for an answer without one."""

_JSON = json.JSONEncoder(ensure_ascii=False)
_SCORES = ("loss", "tokens", "correct")


@dataclass(frozen=True)
class AnswerFile(Collection[AnsweredPrompt]):
    """The answers in a file, read whenever they are iterated over, so that they take no memory.

    Attributes:
        file: The file.
        count: How many answers it holds; plain texts have none.
    """

    file: Path
    count: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[AnsweredPrompt]:
        with self.file.open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                if "answer" in row:
                    yield AnsweredPrompt(**{key: value for key, value in row.items() if key not in _SCORES})

    def __contains__(self, answer: object) -> bool:
        return any(one == answer for one in self)

    def token_scores(self) -> Examples:
        """Return the loss, the labelled tokens and the correct ones of each example, plain texts included."""
        return _columns(self.file, _SCORES)


def write_scores(file: Path, examples: Examples) -> None:
    """Write the scores of answers, a line for each answer; NaN becomes null."""
    with file.open("w", encoding="utf-8") as out:
        for row in zip(*examples.values(), strict=True):
            scores = {name: None if math.isnan(score) else score for name, score in zip(examples, row, strict=True)}
            out.write(_JSON.encode(scores) + "\n")


def read_scores(file: Path) -> Examples:
    """Read what ``write_scores`` wrote."""
    with file.open(encoding="utf-8") as lines:
        names = list(json.loads(next(lines)))
    return _columns(file, names)


def _columns(file: Path, names: Sequence[str]) -> Examples:
    """Read columns of numbers from JSON Lines."""
    columns = {name: array("d") for name in names}
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            for name, column in columns.items():
                column.append(math.nan if row[name] is None else row[name])
    return columns


def write_row(file: TextIO, loss: float, tokens: int, correct: int, answer: AnsweredPrompt | None) -> None:
    """Append the line about one example."""
    row = {"loss": loss, "tokens": tokens, "correct": correct, **(asdict(answer) if answer else {})}
    file.write(_JSON.encode(row) + "\n")
