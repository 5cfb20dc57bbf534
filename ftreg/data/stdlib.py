"""English text that needs no download: the docstrings of Python's standard library."""

from __future__ import annotations

import ast
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from ftreg.core.errors import FtregError
from ftreg.core.types import Example

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_LEFT_OUT = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"})
_SHORTEST = 60  # characters; a third of the docstrings are shorter, and hold little English


def stdlib_docstrings() -> list[Example]:
    """Return the docstrings of the running Python's standard library, in the order of files and lines, each once.

    Tests and the shortest docstrings are left out. Python 3.11 has 5,430 of them with 1.65 million characters.

    Raises:
        FtregError: This Python was installed without the source files of its standard library.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    texts = dict.fromkeys(text for path in _sources(folder) for text in _docstrings(path))
    if not texts:
        raise FtregError(
            "this Python was installed without the source files of its standard library", where=str(folder)
        )
    return [Example(text=text) for text in texts]


def _sources(folder: Path) -> list[Path]:
    paths = (path for path in folder.rglob("*.py") if not _LEFT_OUT & set(path.relative_to(folder).parts))
    return sorted(paths, key=lambda path: path.relative_to(folder).as_posix())


def _docstrings(path: Path) -> Iterator[str]:
    """Yield the docstrings of one source file; nothing for a file that this Python cannot parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in _definitions(tree):
        text = ast.get_docstring(node)
        if text and len(text) >= _SHORTEST:
            yield text


def _definitions(node: ast.AST) -> Iterator[ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield the nodes that can have a docstring, in the order of lines; expressions, most of a tree, are skipped."""
    if isinstance(node, _DOCUMENTED):
        yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.expr):
            yield from _definitions(child)
