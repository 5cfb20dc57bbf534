"""What validation says of a value: plain words, the value that was given, and the nearest keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from ftreg.core.errors import RecipeError
from ftreg.core.recipe import Config, apply_settings, parse_recipe, read_recipe, read_setting, validate


class Inner(Config):
    rate: float = 0.1


class Model(Config):
    count: int = Field(1, gt=0, le=9)
    share: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.5
    flag: bool = False
    name: str = Field("a", min_length=1, max_length=3, pattern="^[a-z]+$")
    mode: Literal["fast", "slow"] = "fast"
    parts: tuple[str, ...] = ()
    few: list[int] = Field([], max_length=1)
    either: int | Literal["auto"] = 1
    table: dict[str, int] = Field(default_factory=dict)
    inner: Inner = Inner()
    maybe: Inner | None = None
    path: Path | None = None


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"count": "many"}, "m.count: must be a whole number, not 'many'"),
        ({"count": 1.5}, "m.count: must be a whole number, not 1.5"),
        ({"count": None}, "m.count: must be a whole number, not null"),
        ({"count": 0}, "m.count: must be greater than 0, not 0"),
        ({"count": 10}, "m.count: must be at most 9, not 10"),
        ({"share": -1}, "m.share: must be at least 0, not -1"),
        ({"share": 1}, "m.share: must be less than 1, not 1"),
        ({"share": float("nan")}, "m.share: must be a finite number, not nan"),
        ({"share": "half"}, "m.share: must be a number, not 'half'"),
        ({"share": []}, "m.share: must be a number, not a list"),
        ({"flag": "maybe"}, "m.flag: must be true or false, not 'maybe'"),
        ({"name": 3}, "m.name: must be text, not 3"),
        ({"name": ""}, "m.name: must be at least 1 characters long, not ''"),
        ({"name": "abcd"}, "m.name: must be at most 3 characters long, not 'abcd'"),
        ({"name": "A"}, "m.name: must match the pattern ^[a-z]+$, not 'A'"),
        ({"mode": "quick"}, "m.mode: must be 'fast' or 'slow', not 'quick'"),
        ({"parts": "q_proj"}, "m.parts: must be a list, not 'q_proj'"),
        ({"few": [1, 2]}, "m.few: must have at most 1 entries, not a list"),
        ({"either": "most"}, "m.either: must be a whole number or 'auto', not 'most'"),
        ({"either": "most", "count": 0}, "m.count: must be greater than 0, not 0 (and 1 more)"),
        ({"table": 3}, "m.table: must be a mapping of keys to values, not 3"),
        ({"inner": 3}, "m.inner: must be a mapping of keys to values, not 3"),
        ({"inner": {"rte": 1}}, "m.inner.rte: unknown key 'rte'\n  Did you mean rate?"),
        ({"maybe": 3}, "m.maybe: must be a mapping of keys to values, not 3"),
        ({"maybe": {"rte": 1}}, "m.maybe.rte: unknown key 'rte'\n  Did you mean rate?"),
        ({"maybe": {"rate": "x"}}, "m.maybe.rate: must be "),
        ({"path": 3}, "m.path: must be a path, not 3"),
        ({"rate": 1}, "m.rate: unknown key 'rate'\n  Did you mean inner.rate or maybe.rate?"),
    ],
)
def test_messages(values: dict[str, Any], said: str) -> None:
    """The message is in plain words; none of pydantic's own, and none of its addresses."""
    with pytest.raises(RecipeError) as caught:
        validate(Model, values, where="m")
    message = str(caught.value)
    assert message.startswith(said)
    for inside in ("Input should", "valid", "pydantic", "http", "parsing", "_type", "instance", "Error"):
        assert inside not in message


RECIPE = {"base": "base:1", "data": "faq.jsonl"}


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("lr", "Did you mean train.learning_rate?"),
        ("learning_rate", "Did you mean train.learning_rate?"),
        ("train.lr", "Did you mean learning_rate?"),
        ("epochs", "Did you mean train.epochs?"),
        ("batch_size", "Did you mean train.batch_size?"),
        ("train.bs", "Did you mean batch_size?"),
        ("objective.distilation.teacher", "Did you mean distillation?"),
        ("objective.distillation.temprature", "Did you mean temperature?"),
        ("distillation", "Did you mean objective.distillation?"),
    ],
)
def test_keys_of_other_tools_are_understood(key: str, hint: str) -> None:
    """What other tools call a setting, or a key without its section, gets the key that was meant."""
    with pytest.raises(RecipeError) as caught:
        parse_recipe(apply_settings(RECIPE, {key: 1}))
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("data", "method", "name"),
    [
        ("faq.jsonl", None, "faq-lora"),
        ("./Data/My FAQ.v2.csv", "full", "my-faq.v2-full"),
        ("faq:3", None, "faq-lora"),
    ],
)
def test_method_and_name_have_defaults(data: str, method: str | None, name: str) -> None:
    """LoRA, and a name made of the data's and the method's."""
    recipe = parse_recipe({"base": "base:1", "data": data} | ({"method": method} if method else {}))
    assert (recipe.method, recipe.name) == (method or "lora", name)


def test_settings_are_read_as_yaml() -> None:
    """A value is what a recipe would hold."""
    assert read_setting("2:4", where="--set prune.pattern") == "2:4"
    assert read_setting("1e-4", where="--set train.learning_rate") == 1e-4
    with pytest.raises(RecipeError, match=r"--set lora\.rank: '\[1' cannot be read"):
        read_setting("[1", where="--set lora.rank")


def test_a_recipe_is_read_as_yaml_1_2(tmp_path: Path) -> None:
    """A pattern of two numbers stays text in a file too."""
    path = tmp_path / "recipe.yaml"
    path.write_text("then:\n  - prune: {pattern: 2:4}\ntags: {country: no}\n")
    assert read_recipe(path) == {"then": [{"prune": {"pattern": "2:4"}}], "tags": {"country": "no"}}
