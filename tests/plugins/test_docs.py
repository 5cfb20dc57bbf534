"""The pages about plugins are true: the reference is what the code says, and every example runs."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ftreg.core import hookspecs
from tests.command import ftreg
from tests.plugins.fakes import distribution, environment

DOCS = Path(__file__).parents[2] / "docs"
MODULES = dict(re.findall(r"```python\n# (\w+)\.py\n(.*?)```", (DOCS / "plugins.md").read_text(), flags=re.DOTALL))
PLUGINS = {name: source for name, source in MODULES.items() if "@hookimpl" in source}


def _generator():
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_up_to_date() -> None:
    """docs/hooks.md is what the code's docstrings and signatures generate."""
    assert (DOCS / "hooks.md").read_text() == _generator().page(), "run: python docs/generate.py"


@pytest.mark.parametrize("hook", [name for name in vars(hookspecs) if name.startswith("ftreg_")])
def test_every_hook_is_documented(hook: str) -> None:
    """Each hook's docstring says when it is called, what its result means and since when, and shows an example."""
    documented = " ".join(getattr(hookspecs, hook).__doc__.split())
    assert "Called " in documented
    assert "eturns " in documented or "result is ignored" in documented
    assert "Since 0." in documented
    assert "Example::" in documented
    assert f"### `{hook}(" in (DOCS / "hooks.md").read_text()


def test_the_check_fails_for_an_outdated_page(tmp_path: Path) -> None:
    """--check notices a page that differs from the code."""
    copy = tmp_path / "generate.py"
    copy.write_text((DOCS / "generate.py").read_text())
    assert subprocess.run([sys.executable, copy, "--check"]).returncode == 1
    subprocess.run([sys.executable, copy], check=True)
    assert subprocess.run([sys.executable, copy, "--check"]).returncode == 0
    (tmp_path / "hooks.md").write_text("old")
    assert subprocess.run([sys.executable, copy, "--check"]).returncode == 1


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which every example of docs/plugins.md is installed as a plugin."""
    folder = tmp_path_factory.mktemp("documented")
    distribution(folder, "documented", PLUGINS)
    for name, source in MODULES.items():
        (folder / f"{name}.py").write_text(source)
    return environment(folder)


def test_every_example_is_a_sound_plugin(documented: dict[str, str]) -> None:
    """What the page shows loads, and provides what the page says."""
    listed = json.loads(ftreg("plugins", "list", "--json", env=documented).stdout)
    shown = {plugin["name"]: plugin for plugin in listed if plugin["distribution"] == "documented"}
    assert {name: plugin["reason"] for name, plugin in shown.items()} == dict.fromkeys(PLUGINS, "")
    assert {provided for plugin in shown.values() for provided in plugin["provides"]} == {
        "method last-layer",
        "step half",
        "engine z-plain",
        "format trivia",
        "metric brevity",
        "command newest",
        "ftreg_check_promotion",
        "ftreg_alias_moved",
    }
