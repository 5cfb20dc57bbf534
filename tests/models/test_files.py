"""JSON files of model folders: read, or refused with their path."""

from __future__ import annotations

import pytest

from ftreg.core.errors import InputError
from ftreg.models.files import clean_config, read_json, write_json


def test_round_trip(tmp_path):
    """What is written is read back."""
    value = {"a": [1, 2.5, None], "name": "Bär"}
    write_json(tmp_path / "config.json", value)
    assert read_json(tmp_path / "config.json") == value


@pytest.mark.parametrize(
    ("content", "message"), [("{", "cannot be read as JSON"), ("[1]", "does not hold a JSON object")]
)
def test_damaged_files(content, message, tmp_path):
    """Files that do not hold a JSON object are refused, optional ones too."""
    path = tmp_path / "config.json"
    path.write_text(content)
    for optional in (False, True):
        with pytest.raises(InputError, match=message) as caught:
            read_json(path, optional=optional)
        assert caught.value.where == str(path)


def test_missing_files(tmp_path):
    """A missing file is an error, or an empty object if it is optional."""
    assert read_json(tmp_path / "config.json", optional=True) == {}
    with pytest.raises(InputError, match=r"config\.json is missing"):
        read_json(tmp_path / "config.json")


def test_clean_config():
    """Local paths are removed, and the dtype has its current key, whose value takes precedence."""
    assert clean_config({"_name_or_path": "/home", "torch_dtype": "float16"}) == {"dtype": "float16"}
    assert clean_config({"torch_dtype": "float16", "dtype": "bfloat16"}) == {"dtype": "bfloat16"}
