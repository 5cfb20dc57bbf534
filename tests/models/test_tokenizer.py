"""Tokenizers in model folders: which one is taken, and what is said if none can be."""

from __future__ import annotations

import pytest

from ftreg.core.errors import InputError
from ftreg.models.tokenizer import copy_tokenizer, load_tokenizer


def test_the_first_folder_with_a_tokenizer_counts(model_folder, tmp_path):
    """A folder without a vocabulary is passed over, even if it has a chat template; loading and copying agree."""
    empty, target = tmp_path / "empty", tmp_path / "target"
    empty.mkdir()
    target.mkdir()
    (empty / "chat_template.jinja").write_text("{{ messages }}")
    folder = model_folder()
    expected = load_tokenizer(folder)
    assert load_tokenizer(empty, folder).chat_template == expected.chat_template
    copy_tokenizer(target, empty, folder)
    copied = load_tokenizer(target)
    assert copied.get_vocab() == expected.get_vocab()
    assert copied.chat_template == expected.chat_template
    assert not (target / "model.safetensors").exists()


def test_the_context_limits_the_length(model_folder):
    """The tokenizer's length is lowered to the model's context, and never raised."""
    assert load_tokenizer(model_folder(), context=100).model_max_length == 100
    unlimited = load_tokenizer(model_folder()).model_max_length
    assert load_tokenizer(model_folder(), context=unlimited + 1).model_max_length == unlimited


def test_no_tokenizer(tmp_path):
    """A folder without a tokenizer, and one with damaged files, are named in the error."""
    with pytest.raises(InputError, match="has no tokenizer") as caught:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in str(caught.value)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="the tokenizer cannot be loaded"):
        load_tokenizer(tmp_path)
