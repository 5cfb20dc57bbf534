"""Start-up time: commands that only list or print help import no heavy library."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "transformers", "peft", "bentoml", "onnxruntime", "numpy"}
PROBE = """
import sys
try:
    {statement}
finally:
    sys.stderr.write("loaded: " + " ".join(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""


def _loaded(statement: str, home: Path) -> set[str]:
    """Return the top-level modules that a fresh interpreter has imported after ``statement``."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(statement=statement)],
        env={**os.environ, "FTREG_HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.rsplit("loaded: ", 1)[1].split())


def _command(*arguments: str) -> str:
    return f"from ftreg.cli.main import main; main({list(arguments)!r})"


@pytest.mark.parametrize(
    "statement",
    [
        "import ftreg",
        "import ftreg.plugin",
        _command("--help"),
        _command("models", "list"),
        _command("plugins", "list", "--json"),
        _command("plugins", "list", "--kind", "method"),
        _command("plugins", "info", "methods"),
        _command("plugins", "info", "lora"),
        _command("plugins", "info", "merge"),
    ],
)
def test_light_commands_load_no_heavy_library(statement: str, tmp_path: Path) -> None:
    """Importing the package, help and lists import neither torch nor the libraries around it."""
    loaded = _loaded(statement, tmp_path)
    assert "ftreg" in loaded
    assert loaded & HEAVY == set()


def test_help_loads_no_other_library_either(tmp_path: Path) -> None:
    """Help imports none of pydantic, rich, sqlite3, yaml and blake3."""
    assert _loaded(_command("--help"), tmp_path) & {"pydantic", "rich", "sqlite3", "yaml", "blake3"} == set()
