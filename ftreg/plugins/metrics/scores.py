"""Scores from a file: what people, or another tool, say of the answers."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from ftreg.core.manifest import Json
from ftreg.data.rows import place, read_rows
from ftreg.plugin import AnsweredPrompt, DataError, MetricJob, Scores, Table
from ftreg.plugins.metrics.settings import ScoresConfig

_EXAMPLE = "example"
_ANSWER = "answer"


@dataclass(frozen=True)
class _Row:
    """A row of the file: where it is, which answer it scores (None for whatever was answered), and its scores."""

    where: str
    answer: tuple[str, ...] | None
    scores: Mapping[str, float]


def scores(job: MetricJob) -> Scores:
    """Return the mean of each criterion over the answers, with the number and the range of its ratings.

    A row belongs to the example that its key names and, if the file has a column ``answer``, only to that answer, so
    that one file may hold the scores of several versions. Several rows of one answer, such as those of several people,
    are averaged.

    Raises:
        DataError: A row cannot be read, or belongs to no example, or an answer has no scores.
    """
    config = cast(ScoresConfig, job.config)
    rows, criteria = _read(config)
    found = {criterion: array("d") for criterion in criteria}
    seen: set[str] = set()
    for position, one in enumerate(job.answers, start=1):
        key = _key(one, position, config.key)
        seen.add(key)
        given = rows.get(key, [])
        matching = [row for row in given if row.answer is None or row.answer == tuple(one.answer.split())]
        if not matching and not config.partial:
            raise _unscored(config, position, key, given)
        for criterion, column in found.items():
            ratings = [row.scores[criterion] for row in matching]
            column.append(sum(ratings) / len(ratings) if ratings else math.nan)
    for key, strays in rows.items():
        if key not in seen:
            raise DataError(f"no example has {config.key} {key!r}", where=strays[0].where, hint="Remove the row.")
    if not any(not math.isnan(score) for score in found[criteria[0]]):
        raise DataError("no row scores an answer of this version", where=str(config.file))
    return Scores.of_examples(found, [_ratings(rows, found)])


def _read(config: ScoresConfig) -> tuple[dict[str, list[_Row]], Sequence[str]]:
    """Return the rows by key, and the criteria; raise ``DataError`` for the first row that cannot be used."""
    found: dict[str, list[_Row]] = {}
    criteria: Sequence[str] = config.criteria
    for number, row in read_rows(config.file):
        where = place(config.file, number)
        if isinstance(row, DataError):
            raise DataError(row.message, where=where)
        criteria = criteria or [column for column in row if column not in (config.key, _EXAMPLE, _ANSWER)]
        if not criteria:
            raise DataError("there is no column with scores", where=where)
        if (key := _text(row.get(config.key))) is None:
            hint = f"The key of the rows is the column {config.key!r}: see scores.key."
            raise DataError(f"{config.key} is missing", where=where, hint=hint)
        ratings = {criterion: _rating(row, criterion, where) for criterion in criteria}
        answer = row.get(_ANSWER)
        found.setdefault(key, []).append(_Row(where, None if answer is None else tuple(str(answer).split()), ratings))
    return found, criteria


def _rating(row: Mapping[str, Json], criterion: str, where: str) -> float:
    """Return a score of a row; CSV has numbers as text."""
    value = row.get(criterion)
    try:
        rating = math.nan if isinstance(value, bool) or value is None else float(value)
    except (TypeError, ValueError):
        rating = math.nan
    if not math.isfinite(rating):
        hint = "Name the columns with scores in scores.criteria, if this is none of them."
        raise DataError(f"{criterion} is {value!r}, which is not a number", where=where, hint=hint)
    return rating


def _key(one: AnsweredPrompt, position: int, key: str) -> str:
    """Return what rows name an example by."""
    if key == _EXAMPLE:
        return str(position)
    if (text := _text(one.fields.get(key))) is None:
        columns = ", ".join(one.fields) or "none"
        hint = f"Columns of the data beside prompt and answer: {columns}. See scores.key."
        raise DataError(f"example {position} has no column {key!r} to match scores with", hint=hint)
    return text


def _text(value: Json) -> str | None:
    """Return a key as text: a number or a text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return str(value).strip() or None


def _unscored(config: ScoresConfig, position: int, key: str, given: Sequence[_Row]) -> DataError:
    """Return the error about an answer without scores."""
    hint = "Score it, or set scores.partial to true."
    if given:
        problem = f"this is not the version's answer to example {position} ({config.key} {key!r})"
        return DataError(problem, where=given[0].where, hint=hint)
    return DataError(f"example {position} ({config.key} {key!r}) has no row", where=str(config.file), hint=hint)


def _ratings(rows: Mapping[str, Sequence[_Row]], found: Mapping[str, Sequence[float]]) -> Table:
    """Return how many ratings the file has of each criterion, how many answers have one, and their range."""

    def cells() -> Iterator[list[Json]]:
        for criterion, column in found.items():
            ratings = [row.scores[criterion] for of in rows.values() for row in of]
            answers = sum(not math.isnan(score) for score in column)
            yield [criterion, answers, len(ratings), min(ratings), max(ratings)]

    return Table("ratings", ["criterion", "answers", "ratings", "lowest", "highest"], list(cells()))
