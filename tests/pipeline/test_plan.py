"""Plans: which result each step of a recipe works on, and what is refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftreg.api.training import load_recipe
from ftreg.core.errors import FtregError, InfeasiblePlan, RecipeError, UnknownName
from ftreg.core.host import PluginHost
from ftreg.core.recipe import Recipe, apply_settings, parse_recipe
from ftreg.pipeline.plan import Plan, make_plan

RAW = {"name": "bot", "base": "base:1", "data": "rows.jsonl", "method": "lora"}


@pytest.fixture(scope="module")
def host() -> PluginHost:
    """Create a host with the built-in plugins only."""
    return PluginHost(only=())


def planned(host: PluginHost, *then: object, **changes: object) -> Plan:
    """Plan a recipe with these steps."""
    return make_plan(host, parse_recipe({**RAW, "then": list(then), **changes}))


@pytest.mark.parametrize(
    ("then", "sources"),
    [
        (["merge"], [-1]),
        (["merge", "prune", "quantize"], [-1, 0, 1]),
        (["merge", {"quantize": {"scheme": "nf4"}}, {"export": {"format": "onnx"}}], [-1, 0, 0]),
        (["merge", "prune", {"onnx": {"from": "merge"}}], [-1, 0, 0]),
        (["merge", {"merge": {"from": "lora", "name": "again"}}], [-1, -1]),
    ],
)
def test_a_step_takes_the_newest_result_that_it_can(host: PluginHost, then: list, sources: list[int]) -> None:
    """A step works on the newest result whose kind and capabilities fit, or on the one that it names."""
    assert [step.source for step in planned(host, *then).steps] == sources


@pytest.mark.parametrize(
    ("then", "error", "message"),
    [
        (["quantize"], InfeasiblePlan, "Put '- merge' before it"),
        (["merge", "quantize", {"prune": {"from": "quantize"}}], InfeasiblePlan, "full-precision"),
        (["merge", {"prune": {"from": "merg"}}], UnknownName, "Did you mean merge"),
        (["merge", {"prune": {"sparsity": 3}}], RecipeError, "then\\[1\\].prune.sparsity"),
        (["merge", {"prune": {}, "quantize": {}}], RecipeError, "not a step"),
        (["merge", {"export": {"format": "gguf"}}], UnknownName, "gguf"),
        (["merge", {"prune": {"name": "A B"}}], RecipeError, "A B"),
    ],
)
def test_impossible_steps_are_named(host: PluginHost, then: list, error: type[FtregError], message: str) -> None:
    """An impossible or misspelt step is refused with its place in the recipe."""
    with pytest.raises(error, match=message):
        planned(host, *then)


def test_settings_are_typed_like_the_recipe() -> None:
    """Settings are put into sections that may not be there yet, and the recipe itself stays as it was."""
    raw = apply_settings(dict(RAW), {"lora.rank": 32, "train.learning_rate": 2e-4, "lora.target_modules": ["q", "v"]})
    recipe = parse_recipe(raw)
    assert recipe.method_config == {"rank": 32, "target_modules": ["q", "v"]}
    assert recipe.train.learning_rate == 2e-4
    assert "lora" not in RAW


def test_section_of_another_method_is_refused() -> None:
    """Settings for a method that the recipe does not use are refused."""
    with pytest.raises(RecipeError, match="unknown key 'prefix'"):
        parse_recipe({**RAW, "prefix": {"num_virtual_tokens": 4}})


def test_paths_in_a_recipe_are_relative_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data and base folders are relative to the recipe's file, not to the current folder."""
    (tmp_path / "rows.jsonl").write_text("{}")
    (tmp_path / "recipe.yaml").write_text("name: bot\nbase: ./model\ndata: rows.jsonl\nmethod: lora\n")
    monkeypatch.chdir("/")
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert (recipe.data.path, recipe.base) == (str(tmp_path / "rows.jsonl"), str(tmp_path / "model"))
    assert load_recipe(tmp_path / "recipe.yaml", {"base": "base:1"}).base == "base:1"
    assert isinstance(recipe, Recipe)


def test_settings_of_a_step_stand_under_its_name() -> None:
    """``--set prune.pattern=2:4`` reaches the steps of that name, and 2:4 means half of the weights."""
    raw = {**RAW, "then": ["merge", {"prune": {"sparsity": 0.5}}, {"prune": {"name": "second"}}]}
    recipe = parse_recipe(apply_settings(raw, {"prune.pattern": "2:4"}))
    assert [call.config for call in recipe.then] == [{}, {"sparsity": 0.5, "pattern": "2:4"}, {"pattern": "2:4"}]
    plan = make_plan(PluginHost(only=()), recipe)
    assert plan.steps[2].config.sparsity == 0.5
    with pytest.raises(RecipeError, match="must be a mapping of settings"):
        parse_recipe({**raw, "prune": 3})
