"""Specs refuse invalid fields when they are created."""

from __future__ import annotations

from typing import Any

import pytest

from ftreg.core.errors import PluginError
from ftreg.core.recipe import Recipe
from ftreg.core.specs import EngineSpec, FormatSpec, MethodSpec, Requirement, Spec, StepSpec

GOOD = {"name": "mine", "summary": "Does it.", "impl": "my_package.module:function"}


@pytest.mark.parametrize("name", ["ia3", "prompt-response", "exact_match", "int8", "onnx"])
def test_good_names(name: str) -> None:
    """Names in common use are valid."""
    assert MethodSpec(**{**GOOD, "name": name}).name == name


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (MethodSpec, "name", ""),
        (MethodSpec, "name", "LoRA"),
        (MethodSpec, "name", "a.b"),
        (MethodSpec, "name", "-a"),
        (MethodSpec, "name", 3),
        (MethodSpec, "summary", ""),
        (MethodSpec, "summary", "two\nlines"),
        (MethodSpec, "impl", "my_package.module.function"),
        (MethodSpec, "impl", "my_package:"),
        (MethodSpec, "impl", "../evil:f"),
        (MethodSpec, "impl", None),
        (MethodSpec, "config", ""),
        (MethodSpec, "check", "my_package.module.function"),
        (StepSpec, "check", ""),
        (MethodSpec, "requires", ("torch",)),
        (MethodSpec, "requires", Requirement("torch", "torch")),
        (MethodSpec, "accepts", "checkpoint"),
        (MethodSpec, "trains", "gradient-checkpointing"),
        (MethodSpec, "capabilities", "mergeable"),
        (MethodSpec, "capabilities", ("mergeable",)),
        (StepSpec, "needs", "mergeable"),
        (StepSpec, "suffix", "A/B"),
        (StepSpec, "suffix", "merged-"),
        (EngineSpec, "kinds", "onnx"),
        (FormatSpec, "columns", "question"),
    ],
)
def test_bad_fields(kind: type[Spec], field: str, value: Any) -> None:
    """An invalid field is refused at once, with its value in the message."""
    with pytest.raises(PluginError) as raised:
        kind(**{**GOOD, field: value})
    assert repr(value) in str(raised.value) or field in str(raised.value)


def test_no_method_has_the_name_of_a_recipe_key() -> None:
    """Every key of a recipe is reserved, since a method's settings are in a section with the method's name."""
    assert set(Recipe.model_fields) == MethodSpec.reserved
