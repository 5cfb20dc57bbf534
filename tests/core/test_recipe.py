"""The recipe's schema."""

from __future__ import annotations

import pytest

from ftreg.core.recipe import DataConfig, TrainConfig


@pytest.mark.parametrize("model", [DataConfig, TrainConfig])
def test_every_setting_is_described(model):
    """Each field of the sections ``data`` and ``train`` says what it does, for the generated reference."""
    assert [name for name, field in model.model_fields.items() if not field.description] == []
