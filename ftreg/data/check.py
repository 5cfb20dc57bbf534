"""Checking: problems that may harm training although every row can be read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ftreg.core.errors import DataError
from ftreg.core.manifest import Json, canonical_json
from ftreg.core.recipe import DataConfig
from ftreg.core.types import Example
from ftreg.data.encode import Encoded, Encoder
from ftreg.data.load import BadRow, DataFile
from ftreg.data.split import split_examples
from ftreg.data.store import to_json
from ftreg.data.template import special_tokens


@dataclass(frozen=True)
class Finding:
    """Something worth a look.

    Attributes:
        kind: Its identifier, such as ``duplicate``.
        message: What was found, in a sentence.
        rows: Numbers of the rows concerned; empty if it does not concern single rows.
    """

    kind: str
    message: str
    rows: tuple[int, ...] = ()


def check_content(data: DataFile, config: DataConfig) -> list[Finding]:
    """Look for repeated rows, and for held-out prompts that the train split has too.

    Args:
        data: The file.
        config: How the rows are split.

    Raises:
        DataError: The rows cannot be split that way.
    """
    findings = []
    if copies := tuple(data.rows[index] for index in repeated(data.examples)):
        findings.append(Finding("duplicate", f"{_count(copies, 'repeats', 'repeat')} an earlier one", copies))
    if leaked := _leaked(data, config):
        findings.append(
            Finding(
                "leakage",
                f"{_count(leaked, 'is', 'are')} held out, with a prompt that is also in the train split",
                leaked,
            )
        )
    return findings


def check_tokens(data: DataFile, encoder: Encoder) -> tuple[list[Finding], list[BadRow]]:
    """Look for problems of the rows with a base's tokenizer and chat template.

    Returns:
        The findings, and the rows that the template refuses.
    """
    encoded: list[Encoded] = []
    rows, bad = [], []
    for row, result in zip(data.rows, encoder.encode_each(data.examples), strict=True):
        if isinstance(result, DataError):
            bad.append(BadRow(row, result.message))
        else:
            encoded.append(result)
            rows.append(row)
    return [*_about_tokenizer(encoder), *_about_rows(encoder, encoded, rows, data)], bad


def repeated(examples: Sequence[Example]) -> list[int]:
    """Return the indices of examples with the content of an earlier one, whatever their other columns."""
    seen: set[bytes] = set()
    found = []
    for index, example in enumerate(examples):
        key = canonical_json({**to_json(example), "fields": None})
        if key in seen:
            found.append(index)
        seen.add(key)
    return found


def _leaked(data: DataFile, config: DataConfig) -> tuple[int, ...]:
    """Return the held-out rows whose prompt is also in the train split."""
    if not data.examples:
        return ()
    splits = split_examples(data.examples, config)
    row_of = {id(example): row for row, example in zip(data.rows, data.examples, strict=True)}
    known = {_prompt_key(example) for example in splits.train}
    held_out = [*splits.validation, *splits.test]
    return tuple(sorted(row_of[id(example)] for example in held_out if _prompt_key(example) in known))


def _prompt_key(example: Example) -> Json:
    """Return what identifies a prompt: a text itself, or a chat up to its last turn."""
    return example.text if example.text is not None else example.messages[:-1]


def _about_tokenizer(encoder: Encoder) -> Iterator[Finding]:
    tokenizer = encoder.tokenizer
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        yield Finding(
            "pad-is-eos",
            f"the tokenizer pads with its end-of-sequence token {tokenizer.eos_token!r}; ftreg still trains "
            "on that token, but tools that mask padding by token id do not",
        )
    if "strftime_now" in encoder.template.source:
        yield Finding(
            "dated-template", "the chat template inserts today's date, so the training data changes from day to day"
        )


def _about_rows(encoder: Encoder, encoded: Sequence[Encoded], rows: Sequence[int], data: DataFile) -> Iterator[Finding]:
    limit = encoder.max_length
    if cut := _rows_where((item.cut > 0 and item.labelled > 0 for item in encoded), rows):
        yield Finding(
            "cut", f"{_count(cut, 'is', 'are')} longer than {limit} tokens: the end of the answer is cut off", cut
        )
    if lost := _rows_where((not item.labelled for item in encoded), rows):
        yield Finding(
            "nothing-labelled", f"{_count(lost, 'is', 'are')} left out: the answer starts beyond {limit} tokens", lost
        )
    if skipped := _rows_where((item.skipped > 0 for item in encoded), rows):
        yield Finding(
            "answers-skipped",
            f"{_count(skipped, 'has', 'have')} earlier answers that are not trained on: the chat template renders them "
            "differently when later turns follow",
            skipped,
        )
    control = re.compile("|".join(map(re.escape, sorted(special_tokens(encoder.tokenizer)))))
    if marked := _rows_where((any(map(control.search, _texts(example))) for example in data.examples), data.rows):
        yield Finding("control-tokens", f"{_count(marked, 'has', 'have')} special tokens in the text itself", marked)
    unknown, eos = encoder.tokenizer.unk_token_id, encoder.tokenizer.eos_token_id
    if unknown is not None and unknown != eos:
        counts = [item.input_ids.count(unknown) for item in encoded]
        total = sum(len(item.input_ids) for item in encoded)
        if any(counts):
            yield Finding(
                "unknown-tokens",
                f"{sum(counts) / total:.2%} of the tokens are unknown to the tokenizer",
                _rows_where(map(bool, counts), rows),
            )


def _texts(example: Example) -> list[str]:
    return [example.text] if example.text is not None else [turn.content for turn in example.messages]


def _rows_where(conditions: Iterable[bool], rows: Sequence[int]) -> tuple[int, ...]:
    return tuple(row for row, condition in zip(rows, conditions, strict=True) if condition)


def _count(rows: Sequence[int], one: str, many: str) -> str:
    return f"1 row {one}" if len(rows) == 1 else f"{len(rows)} rows {many}"
