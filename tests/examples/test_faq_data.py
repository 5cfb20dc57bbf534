"""The example data keeps the promises of its README."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "examples" / "data" / "support_faq.jsonl"

Row = dict[str, str]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """The rows of the file."""
    return [json.loads(line) for line in PATH.read_text(encoding="ascii").splitlines()]


def bare(text: str) -> str:
    """``text`` without what only looks different: case, spaces, punctuation."""
    return "".join(character for character in text.lower() if character.isalnum())


def test_every_row_has_the_three_columns_filled(rows: list[Row]) -> None:
    """Each row is exactly prompt, response and intent, none empty or padded with spaces."""
    for row in rows:
        assert list(row) == ["prompt", "response", "intent"]
        assert all(value and value == value.strip() for value in row.values())


def test_the_file_is_as_large_as_its_readme_says(rows: list[Row]) -> None:
    """The README's counts of questions, intents and paraphrases are those of the file."""
    readme = (PATH.parent / "README.md").read_text(encoding="utf-8")
    intents = {row["intent"] for row in rows}
    assert f"{len(rows)} questions" in readme
    assert f"{len(intents)} intents with {len(rows) // len(intents)} paraphrases each" in readme
    assert 400 <= len(rows) <= 600
    assert len(intents) == 40


def test_no_question_is_asked_twice(rows: list[Row]) -> None:
    """No two prompts are the same but for case, spaces and punctuation, so held-out ones are really unseen."""
    assert len({bare(row["prompt"]) for row in rows}) == len(rows)


def test_each_intent_has_one_response_of_its_own_and_enough_paraphrases(rows: list[Row]) -> None:
    """An intent has one response, shared with no other intent, of 10 to 30 words, and at least 8 paraphrases."""
    responses: dict[str, set[str]] = defaultdict(set)
    prompts: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        responses[row["intent"]].add(row["response"])
        prompts[row["intent"]].append(row["prompt"])
    assert all(len(texts) == 1 for texts in responses.values())
    distinct = {bare(text) for texts in responses.values() for text in texts}
    assert len(distinct) == len(responses)
    assert all(10 <= len(text.split()) <= 30 for texts in responses.values() for text in texts)
    assert all(len(texts) >= 8 for texts in prompts.values())
