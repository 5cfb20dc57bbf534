"""The recipe's schema."""

from __future__ import annotations

import pytest

from ftreg.core.errors import RecipeError
from ftreg.core.host import PluginHost
from ftreg.core.recipe import DataConfig, TrainConfig, parse_recipe


@pytest.mark.parametrize("model", [DataConfig, TrainConfig])
def test_every_setting_is_described(model):
    """Each field of the sections ``data`` and ``train`` says what it does, for the generated reference."""
    assert [name for name, field in model.model_fields.items() if not field.description] == []


@pytest.mark.parametrize("section", ["lora", "prune"])
def test_a_section_that_the_recipe_does_not_use(section):
    """Settings of another method, or of a step that is not under ``then``, are named as such."""
    raw = {"name": "x", "base": "b", "data": "d.jsonl", "method": "full", section: {}}
    with pytest.raises(RecipeError, match=f"has settings of {section}, which this recipe does not use") as refused:
        parse_recipe(raw, model_of=PluginHost().settings_model)
    assert "the method is full" in str(refused.value.hint)
