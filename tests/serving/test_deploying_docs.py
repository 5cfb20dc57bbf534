"""docs/deploying.md names what there is."""

from __future__ import annotations

import re
from pathlib import Path

from ftreg.serving.deployment import Limits
from ftreg.serving.planning import DeploymentSpec

DOCS = Path(__file__).parent.parent.parent / "docs"


def test_every_key_is_documented() -> None:
    """The tables of keys and of limits name every key of the models, and no other."""
    table = (DOCS / "deploying.md").read_text().split("## What is in a Bento")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.M)) == set(DeploymentSpec.model_fields)
    limits = (DOCS / "serving-api.md").read_text().split("## Limits")[1]
    assert set(re.findall(r"^\| `(\w+)` \|", limits, re.M)) == set(Limits.model_fields)
