"""Comparisons: which examples are shown to people."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ftreg.api.evaluation import Comparison, Evaluation
from ftreg.core.types import AnsweredPrompt


def _positions(comparison: Comparison, count: int) -> list[int]:
    return [example.position for example in comparison.telling_examples(count)]


def _comparison(*outcomes: str) -> Comparison:
    """Versions that answer as expected where their string has a ``+``."""
    results = {
        f"bot:{number}": Evaluation(
            loss=1.0,
            perplexity=2.7,
            token_accuracy=0.5,
            tokens=9,
            examples=len(outcome),
            metrics={},
            failed_metrics={},
            answers=[AnsweredPrompt("q", "yes", "yes" if mark == "+" else "no") for mark in outcome],
        )
        for number, outcome in enumerate(outcomes, start=1)
    }
    return Comparison("data:1", "test", results)


def test_what_differs_comes_first_and_a_failure_second() -> None:
    """Of three examples one shows what was gained, one where the newest version is wrong, one the most common case."""
    comparison = _comparison(
        "---+++++",
        "+---++++",
        "++-+++++",
    )
    assert _positions(comparison, 3) == [0, 2, 4]
    assert _positions(comparison, 0) == []
    assert _positions(_comparison("+", "+"), 3) == [0]
    assert _positions(_comparison("", ""), 3) == []


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=30), st.integers(0, 40))
def test_examples_are_shown_once_and_a_failure_always(outcomes: list[tuple[bool, bool]], count: int) -> None:
    """As many as asked for, none twice; with two or more, one in which the last version fails, if there is one."""
    columns = ["".join("+" if outcome[version] else "-" for outcome in outcomes) for version in (0, 1)]
    chosen = _positions(_comparison(*columns), count)
    assert len(chosen) == len(set(chosen)) == min(count, len(outcomes))
    if count >= 2 and any(not outcome[-1] for outcome in outcomes):
        assert any(not outcomes[position][-1] for position in chosen)


def test_white_space_does_not_count() -> None:
    """An answer that differs in white space alone is as expected."""
    assert AnsweredPrompt("q", "a  b", " a b\n").as_expected
    assert not AnsweredPrompt("q", "a b", "ab").as_expected


def test_the_answers_of_each_version_stand_side_by_side() -> None:
    """An example comes with the answer of each version, under the reference that was given."""
    (example,) = _comparison("+-", "++").telling_examples(1)
    assert example.position == 1
    assert {ref: answer.answer for ref, answer in example.answers.items()} == {"bot:1": "no", "bot:2": "yes"}
