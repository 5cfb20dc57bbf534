"""Values in recipes and ``--set`` are read by the core schema of YAML 1.2."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml

from ftreg.core.yaml12 import read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2:4", "2:4"),
        ("12:30:45", "12:30:45"),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("1e-4", 0.0001),
        ("2.0e-4", 0.0002),
        (".5", 0.5),
        ("3", 3),
        ("-3", -3),
        ("010", 10),
        ("0o17", 15),
        ("0xff", 255),
        ("1_000", "1_000"),
        ("2026-03-03", "2026-03-03"),
        ("'3'", "3"),
        ("-.inf", -math.inf),
        ("[q_proj, v_proj]", ["q_proj", "v_proj"]),
        ("{scheme: nf4, double_quant: no}", {"scheme": "nf4", "double_quant": "no"}),
        ("base: &b {x: 1}\ncopy: {<<: *b}", {"base": {"x": 1}, "copy": {"x": 1}}),
    ],
)
def test_values(text: str, value: Any) -> None:
    """Numbers are numbers, and what only YAML 1.1 takes for a number, a boolean or a date is text."""
    found = read_yaml(text)
    assert (found, type(found)) == (value, type(value))


def test_pyyaml_itself_stays_as_it_is() -> None:
    """Others in the same process still read YAML 1.1."""
    assert yaml.safe_load("2:4") == 124


def test_objects_are_not_built() -> None:
    """A tag that names a Python object is an error."""
    with pytest.raises(yaml.YAMLError):
        read_yaml("!!python/object/apply:os.getcwd []")
