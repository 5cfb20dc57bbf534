"""The Python and the recipes on the pages work."""

from __future__ import annotations

import ast
import importlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ftreg.core.recipe import parse_recipe
from ftreg.core.yaml12 import read_yaml
from tests.command import python
from tests.docs.pages import DOCS, PAGES, ROOT, Block, blocks

ALL = [block for page in PAGES for block in blocks(page)]
PYTHON = [block for block in ALL if block.language == "python"]
RECIPES = [block for block in ALL if block.language == "yaml" and "base:" in block.text]
CHAIN = next(block.text for block in blocks(DOCS / "python.md") if block.language == "python")


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_what_snippets_import_exists(block: Block) -> None:
    """Each snippet parses, and ftreg has every name that it imports from it."""
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ftreg":
            module = importlib.import_module(node.module or "")
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@pytest.mark.parametrize("block", RECIPES, ids=str)
def test_recipes_are_valid(block: Block) -> None:
    """Each recipe on a page has only keys and values that a recipe may have."""
    assert parse_recipe(read_yaml(block.text)).base


def test_the_readme_shows_the_chain_of_the_python_page() -> None:
    """The snippet in the README is the one that is run here."""
    assert CHAIN in [block.text for block in blocks(ROOT / "README.md")]


def test_the_chain_runs(tmp_path: Path, model_folder: Callable[..., Path]) -> None:
    """The chain in ten lines trains, merges, exports, evaluates, promotes and deploys."""
    rows = [{"prompt": f"Number {number}?", "response": f"It is {number}."} for number in range(12)]
    (tmp_path / "faq.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = {"name": "bot", "base": str(model_folder()), "data": "faq.jsonl", "train": {"max_steps": 2}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    # A process of its own: BentoML keeps the home that it finds when it is imported.
    environment = {"BENTOML_HOME": str(tmp_path / "bentoml")}
    done = python(CHAIN, home=tmp_path / "registry", cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    loss, tag = done.stdout.split()
    assert float(loss) > 0
    assert tag.startswith("support-bot:")
