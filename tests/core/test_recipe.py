"""The recipe's schema."""

from __future__ import annotations

import pytest

from ftreg.core.errors import RecipeError
from ftreg.core.host import PluginHost
from ftreg.core.recipe import DataConfig, TrainConfig, parse_recipe, validate
from ftreg.plugins.methods.config import PrefixConfig
from ftreg.plugins.metrics.settings import JudgeConfig
from ftreg.plugins.post.config import DropLayersConfig, MergeConfig, OnnxConfig, PruneConfig, QuantizeConfig


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


@pytest.mark.parametrize(
    ("model", "values", "message"),
    [
        (DataConfig, {"path": "d", "split_by": "part", "test": 0.2}, "test is only for a split by shares"),
        (TrainConfig, {"optimizer": "sgd", "adam_beta2": 0.9}, "adam_beta2 is only for optimizer adamw"),
        (TrainConfig, {"schedule": "constant", "warmup": 0.1}, "warmup is only for other schedules than constant"),
        (MergeConfig, {"combination": "svd", "density": 0.2}, "density is only for combinations ties, dare_linear"),
        (QuantizeConfig, {"rows": 32, "length": 64}, "rows and length are only for scheme gptq; leave them out"),
        (QuantizeConfig, {"scheme": "nf4", "bits": 4}, "bits is only for scheme gptq; leave it out"),
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


@pytest.mark.parametrize("values", [{}, {"scheme": "nf4"}, {"scheme": "gptq", "rows": 8}, {"bits": None}])
def test_what_is_recorded_is_read_back(values):
    """A configuration is recorded without what does nothing, and what is recorded makes the same configuration."""
    config = validate(QuantizeConfig, values, where="here")
    recorded = config.model_dump(mode="json")
    assert ("rows" in recorded, "double_quant" in recorded) == (config.scheme == "gptq", config.scheme == "nf4")
    again = validate(QuantizeConfig, recorded, where="here")
    assert again.model_dump(mode="json") == recorded
    assert again == config
