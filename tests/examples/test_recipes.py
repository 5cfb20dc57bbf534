"""The example recipes can be planned."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftreg.api.training import load_recipe
from ftreg.core.host import PluginHost
from ftreg.pipeline.plan import make_plan

RECIPES = sorted((Path(__file__).parents[2] / "examples" / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipe_is_sound(path: Path) -> None:
    """Its keys and values are known, its steps can follow one another, and the data that it names is there."""
    host = PluginHost(only=())
    plan = make_plan(host, load_recipe(path, host=host), where=path.name)
    data = Path(plan.recipe.data.path)
    assert data.is_file() or data.name == "stdlib.jsonl"  # which ``ftreg data stdlib`` writes
