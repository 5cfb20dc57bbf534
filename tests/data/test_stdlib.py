"""The standard library's docstrings as text."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftreg.data import stdlib_docstrings


def test_the_docstrings_are_many_and_unique() -> None:
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


def test_they_are_in_the_order_of_files_and_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order does not depend on the file system; a text that appears twice counts once, and tests do not count."""
    first, second, third = (f"{name} docstring that is long enough to hold some English, as most of them are."
                            for name in ("First", "Second", "Third"))  # fmt: skip
    (tmp_path / "test").mkdir()
    for name, code in {
        "b.py": f'"""{third}"""\ndef known():\n    """{first}"""\n',
        "a.py": f'"""{first}"""\ndef known():\n    """{second}"""\n',
        "test/c.py": '"""A docstring of the tests, which is long enough to hold some English, like the others."""\n',
    }.items():
        (tmp_path / name).write_text(code)
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    assert [example.text for example in stdlib_docstrings()] == [first, second, third]
