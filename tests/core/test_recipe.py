"""The recipe's schema."""

from __future__ import annotations

import pytest

from ftreg.core.errors import RecipeError
from ftreg.core.host import PluginHost
from ftreg.core.recipe import (
    DataConfig,
    DistillationConfig,
    TrainConfig,
    apply_settings,
    parse_recipe,
    validate,
)
from ftreg.plugins.methods.config import PrefixConfig
from ftreg.plugins.metrics.settings import JudgeConfig
from ftreg.plugins.post.config import DropLayersConfig, MergeConfig, OnnxConfig, PruneConfig, QuantizeConfig


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


@pytest.mark.parametrize(
    ("model", "values", "message"),
    [
        (DataConfig, {"path": "d", "split_by": "part", "test": 0.2}, "test is only for a split by shares"),
        (TrainConfig, {"optimizer": "sgd", "adam_beta2": 0.9}, "adam_beta2 is only for optimizer adamw"),
        (TrainConfig, {"schedule": "constant", "warmup": 0.1}, "warmup is only for other schedules than constant"),
        (MergeConfig, {"combination": "svd", "density": 0.2}, "density is only for combinations ties, dare_linear"),
        (QuantizeConfig, {"rows": 32, "length": 64}, "rows and length are only for schemes gptq and awq; leave"),
        (QuantizeConfig, {"scheme": "nf4", "bits": 4}, "bits is only for scheme gptq; leave it out"),
        (QuantizeConfig, {"scheme": "awq", "bits": 4}, "bits is only for scheme gptq; leave it out"),
        (QuantizeConfig, {"double_quant": False}, "double_quant is only for scheme nf4"),
        (PruneConfig, {"rows": 8}, "rows is only for criterion wanda"),
        (PruneConfig, {"pattern": "2:4", "scope": "global"}, "scope is only for criterion magnitude without a pattern"),
        (PruneConfig, {"criterion": "wanda", "scope": "layer"}, "scope is only for criterion magnitude"),
        (DropLayersConfig, {"layers": [1], "rows": 8}, "rows is only for choosing layers by count"),
        (OnnxConfig, {"block_size": 64}, "block_size is only for precisions int8 and int4"),
        (OnnxConfig, {"runtime": "transformers", "provider": "cuda"}, "provider is only for runtime genai"),
        (PrefixConfig, {"hidden_size": 64}, "hidden_size is only for a prefix with projection"),
        (JudgeConfig, {"url": "http://a", "model": "m", "retries": 0, "backoff": 2}, "backoff is only for one retry"),
    ],
)
def test_settings_that_would_do_nothing(model, values, message):
    """A setting that does nothing beside the others is refused, also if its value is the default."""
    with pytest.raises(RecipeError, match=message):
        validate(model, values, where="here")


@pytest.mark.parametrize(
    "values", [{}, {"scheme": "nf4"}, {"scheme": "gptq", "rows": 8}, {"scheme": "awq"}, {"bits": None}]
)
def test_what_is_recorded_is_read_back(values):
    """A configuration is recorded without what does nothing, and what is recorded makes the same configuration."""
    config = validate(QuantizeConfig, values, where="here")
    recorded = config.model_dump(mode="json")
    assert ("rows" in recorded) == (config.scheme in ("gptq", "awq"))
    assert ("double_quant" in recorded) == (config.scheme == "nf4")
    again = validate(QuantizeConfig, recorded, where="here")
    assert again.model_dump(mode="json") == recorded
    assert again == config


def test_awq_computes_in_16_bits():
    """Float32, which gptqmodel's AWQ cannot pack, is refused."""
    with pytest.raises(RecipeError, match="scheme awq computes in 16 bits"):
        validate(QuantizeConfig, {"scheme": "awq", "dtype": "float32"}, where="here")


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
