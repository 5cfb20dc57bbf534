"""Answers: what a model computed on each example of an evaluation, as a file of JSON Lines.

Each line is about one example, in their order. It has ``loss`` (the sum over the labelled tokens, in nats), ``tokens``
(how many are labelled) and ``correct`` (how many of these the model ranks first); for an example with a prompt also the
fields of ``AnsweredPrompt``.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from ftreg.core.types import AnsweredPrompt

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


def write_row(file: TextIO, loss: float, tokens: int, correct: int, answer: AnsweredPrompt | None) -> None:
    """Append the line about one example."""
    row = {"loss": loss, "tokens": tokens, "correct": correct, **(asdict(answer) if answer else {})}
    file.write(_JSON.encode(row) + "\n")
