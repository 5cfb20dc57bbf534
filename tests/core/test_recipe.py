"""The recipe's schema."""

from __future__ import annotations

import pytest

from ftreg.core.errors import RecipeError
from ftreg.core.host import PluginHost
from ftreg.core.recipe import DataConfig, DistillationConfig, TrainConfig, apply_settings, parse_recipe


@pytest.mark.parametrize("model", [DataConfig, TrainConfig, DistillationConfig])
def test_every_setting_is_described(model):
    """Each field of a section that ftreg itself reads says what it does, for the generated reference."""
    assert [name for name, field in model.model_fields.items() if not field.description] == []


@pytest.mark.parametrize("section", ["lora", "prune"])
def test_a_section_that_the_recipe_does_not_use(section):
    """Settings of another method, or of a step that is not under ``then``, are named as such."""
    raw = {"name": "x", "base": "b", "data": "d.jsonl", "method": "full", section: {}}
    with pytest.raises(RecipeError, match=f"has settings of {section}, which this recipe does not use") as refused:
        parse_recipe(raw, model_of=PluginHost().settings_model)
    assert "the method is full" in str(refused.value.hint)


RECIPE = {"name": "x", "base": "b", "data": "d.jsonl"}


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        ({}, "objective.distillation: 'distillation' is missing"),
        ({"distillation": None}, "objective.distillation: must be a mapping of keys to values, not null"),
        ("distillation", "objective: must be a mapping of keys to values, not 'distillation'"),
        ({"distillation": {"temperature": 2}}, "objective.distillation.teacher: 'teacher' is missing"),
        ({"distillation": {"teacher": "t", "temperature": 0}}, "temperature: must be greater than 0, not 0"),
        ({"distillation": {"teacher": "t", "label_weight": 1}}, "label_weight: must be less than 1, not 1"),
        ({"distillation": {"teacher": "t", "divergence": "revers"}}, "Did you mean reverse?"),
    ],
)
def test_an_objective_that_says_too_little_or_too_much(objective, said):
    """An objective without its teacher, or with values out of range, is refused with the key; it is never ignored."""
    with pytest.raises(RecipeError) as caught:
        parse_recipe({**RECIPE, "objective": objective})
    assert said in str(caught.value)


def test_settings_change_an_objective():
    """``--set`` reaches the settings of the objective, which are recorded without the name of the teacher."""
    recipe = parse_recipe(
        apply_settings(
            {**RECIPE, "objective": {"distillation": {"teacher": "t:1"}}}, {"objective.distillation.temperature": 4}
        )
    )
    assert recipe.objective is not None
    assert recipe.objective.models == {"teacher": "t:1"}
    assert recipe.objective.settings() == {"temperature": 4.0, "divergence": "forward", "label_weight": 0.5}
    assert parse_recipe(RECIPE).objective is None
