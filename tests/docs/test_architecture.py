"""ARCHITECTURE.md names what there is."""

from __future__ import annotations

import re
import tomllib

from tests.docs.pages import ROOT

TEXT = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")


def test_files_exist() -> None:
    """Every module that the text names is there."""
    named = set(re.findall(r"`([\w/]+\.py)`", TEXT))
    packages = [ROOT / "ftreg", *(path for path in (ROOT / "ftreg").iterdir() if path.is_dir())]
    assert named
    assert [name for name in named if not any((package / name).is_file() for package in packages)] == []


def test_the_tree_is_complete() -> None:
    """The tree of components has every package and module of ftreg, and no other."""
    tree = TEXT.split("ftreg/\n")[1].split("```")[0]
    named = {name.rstrip("/") for name in re.findall(r"^  (\w[\w.]*/?) ", tree, re.MULTILINE)}
    found = {path.name for path in (ROOT / "ftreg").iterdir() if not path.name.startswith(("_", "."))}
    assert named == found - {"py.typed"}


def test_the_order_of_imports_is_that_of_the_linter() -> None:
    """The arrows show the layers that import-linter checks."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(one["layers"] for one in contracts if one.get("containers") == ["ftreg"])
    shown = re.search(r"`(cli → [^`]*)`", TEXT)
    assert shown is not None
    assert shown[1].split(" → ") == layers
