"""The generated references are what the code says."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ftreg
from ftreg import training
from ftreg.core.host import PluginHost
from ftreg.core.recipe import Recipe, StepCall
from ftreg.core.specs import MethodSpec, StepSpec
from ftreg.registry import Registry
from tests.cli.walk import commands
from tests.docs.pages import DOCS

SCRIPT = DOCS / "generate.py"


def generate(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the script that writes the references."""
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)


def test_the_references_are_up_to_date() -> None:
    """Every generated part of docs/ is what the code generates."""
    done = generate("--check")
    assert done.returncode == 0, done.stderr


def test_the_check_finds_and_mends_an_outdated_page(tmp_path: Path) -> None:
    """--check names a page that differs from the code; without it the page is written, and what is around it stays."""
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- generated: settings full -->\nold\n<!-- generated: end -->\nafter\n")
    done = generate("--check", page)
    assert done.returncode == 1
    assert "page.md" in done.stderr
    assert generate(page).returncode == 0
    assert generate("--check", page).returncode == 0
    text = page.read_text()
    assert "`full.dtype`" in text
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")


def test_every_command_is_on_its_page() -> None:
    """docs/cli.md has a section for each command and group."""
    headings = re.findall(r"^##+ (ftreg.*)$", (DOCS / "cli.md").read_text(), re.MULTILINE)
    assert headings == [path for path, _ in commands()]


def test_every_method_and_step_is_on_its_page() -> None:
    """docs/recipe.md has the settings of each built-in method and step."""
    host = PluginHost(only=())
    names = [spec.name for kind in (MethodSpec, StepSpec) for spec in host.specs(kind)]
    text = (DOCS / "recipe.md").read_text()
    assert [name for name in names if f"<!-- generated: settings {name} -->" not in text] == []


def test_every_key_of_a_recipe_is_on_its_page() -> None:
    """The tables that are written by hand name the keys of a recipe, and those of a step under ``then``."""
    text = (DOCS / "recipe.md").read_text()
    keys = set(re.findall(r"^\| `(\w+)` \|", text.split("## Keys")[1].split("\n## ")[0], re.MULTILINE))
    assert keys == set(Recipe.model_fields) - {"method_config"}
    of_a_step = set(re.findall(r"^\| `(\w+)` \|", text.split("## then")[1].split("\n### ")[0], re.MULTILINE))
    assert of_a_step == set(StepSpec.keys)
    assert len(of_a_step) == len(set(StepCall.model_fields) - {"step", "config"})


@pytest.mark.parametrize("name", [name for name in ftreg.__all__ if inspect.isfunction(getattr(ftreg, name))])
def test_every_function_is_on_its_page(name: str) -> None:
    """docs/python.md has each function that ftreg exports."""
    assert f"\n### `{name}`\n" in (DOCS / "python.md").read_text()


def test_every_method_of_the_registry_is_on_its_page() -> None:
    """docs/python.md has each public method and property of ``Registry``."""
    text = (DOCS / "python.md").read_text().split("## `Registry`")[1]
    assert [name for name in vars(Registry) if not name.startswith("_") and f"### `{name}`" not in text] == []


def test_every_function_for_methods_is_on_its_page() -> None:
    """docs/training.md has each function that ``ftreg.training`` exports."""
    functions = [name for name in training.__all__ if inspect.isfunction(getattr(training, name))]
    text = (DOCS / "training.md").read_text()
    assert [name for name in functions if f"### `{name}`" not in text] == []


def test_the_figures_of_a_run_are_on_their_page() -> None:
    """docs/training.md explains each figure that ``report.totals`` and ``peak_memory`` name."""
    import torch

    from ftreg.training.report import peak_memory, totals

    step = {"loss": 1.0, "seconds": 1.0, "tokens": 2, "labelled_tokens": 1, "epoch": 1.0}
    names = {*totals([step], []), *peak_memory(torch.device("cpu"))}
    table = (DOCS / "training.md").read_text().split("## Names")[1].split("\n## ")[0]
    assert names <= set(re.findall(r"`(\w+)`", table))
