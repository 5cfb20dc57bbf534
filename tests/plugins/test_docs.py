"""The pages about plugins: the reference matches the code, and every example runs."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftreg.core import hookspecs
from ftreg.core.errors import FtregError
from ftreg.core.host import PluginHost
from ftreg.registry import Registry
from tests.command import ftreg
from tests.plugins.fakes import distribution, environment

DOCS = Path(__file__).parents[2] / "docs"
MODULES = dict(re.findall(r"```python\n# (\w+)\.py\n(.*?)```", (DOCS / "plugins.md").read_text(), flags=re.DOTALL))
PLUGINS = {name: source for name, source in MODULES.items() if "@hookimpl" in source}


@pytest.mark.parametrize("hook", [name for name in vars(hookspecs) if name.startswith("ftreg_")])
def test_every_hook_is_documented(hook: str) -> None:
    """Each hook's docstring says when it is called, what its result means and since when it exists, with an example."""
    documented = " ".join(getattr(hookspecs, hook).__doc__.split())
    assert "Called " in documented
    assert "eturns " in documented or "result is ignored" in documented
    assert "Since 0." in documented
    assert "Example::" in documented
    assert f"### `{hook}(" in (DOCS / "hooks.md").read_text()


def test_the_readme_shows_a_tested_plugin() -> None:
    """The plugin that the README shows is one of the tested ones on the page."""
    shown = re.findall(r"```python\n# (\w+)\.py\n(.*?)```", (DOCS.parent / "README.md").read_text(), flags=re.DOTALL)
    assert shown == [("last_layer", MODULES["last_layer"])]


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install every example of docs/plugins.md as a plugin."""
    folder = tmp_path_factory.mktemp("documented")
    distribution(folder, "documented", PLUGINS)
    for name, source in MODULES.items():
        (folder / f"{name}.py").write_text(source)
    return folder


def test_every_example_is_a_sound_plugin(documented: Path) -> None:
    """Every example loads and provides what the page says."""
    listed = json.loads(ftreg("plugins", "list", "--json", env=environment(documented)).stdout)
    shown = {plugin["name"]: plugin for plugin in listed if plugin["distribution"] == "documented"}
    assert {name: plugin["reason"] for name, plugin in shown.items()} == dict.fromkeys(PLUGINS, "")
    assert {provided for plugin in shown.values() for provided in plugin["provides"]} == {
        "method last-layer",
        "step half",
        "engine plain",
        "format trivia",
        "metric brevity",
        "command newest",
        "ftreg_check_promotion",
        "ftreg_alias_moved",
    }


@pytest.fixture
def registry(documented: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """Open a registry of this process with the examples installed."""
    monkeypatch.syspath_prepend(documented)
    with Registry(tmp_path / "home", host=PluginHost()) as found:
        yield found
    for name in MODULES:
        sys.modules.pop(name, None)


def test_the_examples_do_what_the_page_says(
    registry: Registry, documented: Path, model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """The examples of method, step, engine, format, metric, command, gate and observer all work."""
    import torch
    from safetensors.torch import load_file

    from ftreg import apply, evaluate, train

    rows = [{"clue": f"Number {number}?", "answer": f"It is {number}."} for number in range(12)]
    (tmp_path / "trivia.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = {
        "name": "trivia-bot",
        "base": str(model_folder()),
        "data": {"path": str(tmp_path / "trivia.jsonl"), "test": 0.2},
        "method": "last-layer",
        "train": {"max_steps": 2, "learning_rate": 0.01},
    }
    trained = train(recipe, registry=registry)
    before = load_file(model_folder() / "model.safetensors")
    after = load_file(registry.source("trivia-bot").path / "model.safetensors")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(name.startswith("model.layers.1.") for name in moved)

    half = apply("half", "trivia-bot", registry=registry)
    assert half.name == "trivia-bot-bf16"
    assert half.size < 0.6 * trained.size

    with pytest.raises(FtregError, match="it was never evaluated"):
        registry.set_alias("trivia-bot:1", "champion")
    own = evaluate("trivia-bot", metrics=["brevity"], registry=registry)
    theirs = evaluate("trivia-bot", metrics=["brevity"], engine="plain", registry=registry)
    assert theirs.loss == pytest.approx(own.loss, rel=1e-4)
    assert list(theirs.answers) == list(own.answers)
    assert theirs.figures["brevity"] >= 0
    registry.set_alias("trivia-bot:1", "champion")

    newest = ftreg("newest", home=registry.home, env=environment(documented)).stdout.splitlines()
    assert newest[0] == "trivia-bot-bf16:1  checkpoint"
    moved_alias = ftreg("models", "alias", "trivia-bot:1", "best", home=registry.home, env=environment(documented))
    assert "trivia-bot@best is now b3:" in moved_alias.stderr
