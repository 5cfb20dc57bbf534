"""The standard library's docstrings as text."""

from __future__ import annotations

from ftreg.data import stdlib_docstrings


def test_the_docstrings_are_many_unique_and_in_one_order() -> None:
    """There are thousands of distinct texts, of modules, classes and methods, and none of the tests."""
    examples = stdlib_docstrings()
    texts = [example.text for example in examples]
    assert len(texts) > 3000
    assert len(set(texts)) == len(texts)
    assert all(
        text is not None and len(text) >= 60 and not example.messages
        for text, example in zip(texts, examples, strict=True)
    )
    joined = "\0".join(map(str, texts))
    assert "Dict subclass for counting hashable items" in joined
    assert "JSON (JavaScript Object Notation)" in joined
    assert [example.text for example in stdlib_docstrings()] == texts
