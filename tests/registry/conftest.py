"""Fixtures of the registry's tests: a registry in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ftreg.registry import Registry


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """An empty registry without plugins."""
    with Registry(tmp_path / "home") as opened:
        yield opened
