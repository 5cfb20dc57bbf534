"""The example plugin as users have it: installed with pip, trained, merged and uninstalled."""

from __future__ import annotations

import json
import shutil
import site
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command import ftreg, python

SOURCE = Path(__file__).parents[2] / "examples" / "plugins" / "ftreg-ia3"
# Runs the command line in a process that has imported torch already, with what is installed in an environment.
INSIDE = """
import pathlib, site, sys
from ftreg.cli.main import main
site.addsitedir(str(next(pathlib.Path(sys.argv.pop(1)).glob("lib/python*/site-packages"))))
main(sys.argv[1:])
"""
ROWS = [{"prompt": f"Where is item {number}?", "response": f"On shelf {number % 4}."} for number in range(24)]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a throwaway environment on top of this one, and return its interpreter."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    inherit = f"import site; site.addsitedir({site.getsitepackages()[0]!r})\n"
    next(folder.glob("lib/python*/site-packages")).joinpath("inherit.pth").write_text(inherit)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def installed(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], None]:
    """Install the plugin into the throwaway environment; the value is a function that uninstalls it."""
    copy = shutil.copytree(SOURCE, tmp_path_factory.mktemp("source") / "ftreg-ia3")
    _pip(environment, "install", "--no-index", "--no-deps", "--no-build-isolation", str(copy))
    return lambda: _pip(environment, "uninstall", "--yes", "ftreg-ia3")


def _pip(environment: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--python", str(environment), "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_method_from_another_distribution(
    environment: Path, installed: Callable[[], None], model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """The plugin is listed, trains, is recorded as producer, and is merged; its versions outlive its uninstallation."""
    home = tmp_path / "home"
    data = tmp_path / "items.jsonl"
    data.write_text("\n".join(map(json.dumps, ROWS)))
    train = ["train", "--base", model_folder(), "--data", data, "--method", "ia3", "--name", "items"]
    train += ["--set", "train.max_steps=4", "--set", "train.learning_rate=0.1"]

    def run(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = python(INSIDE, environment.parents[1], *arguments, home=home)
        assert done.returncode == code, done.stderr
        return done

    plugin, method = json.loads(ftreg("plugins", "info", "ia3", "--json", python=environment).stdout)
    assert (plugin["what"], plugin["state"], method["what"]) == ("plugin", "active", "method")
    assert (method["distribution"], method["version"]) == ("ftreg-ia3", "1.0")
    assert "target_modules" in method["config"]["properties"]

    run(*train)
    run("merge", "items", "--name", "items-merged")
    adapter = json.loads(run("models", "show", "items", "--json").stdout)
    producer = adapter["producer"]
    assert (producer["name"], producer["distribution"], producer["version"]) == ("ia3", "ftreg-ia3", "1.0")
    _check_merge(model_folder(), home, adapter["digest"], run)

    installed()
    unknown = run(*train, code=2)
    assert "no method named 'ia3'" in unknown.stderr
    assert "lora" in unknown.stderr
    assert "items:1" in run("models", "list").stdout
    run("verify")


def _check_merge(base: Path, home: Path, adapter: str, run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """Check that the merged version equals PEFT's live adapter in plain transformers, and differs from the base."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folders = {}
    for ref in (adapter, "items-merged"):
        folders[ref] = home.parent / ref.replace(":", "-")
        run("export", ref, "--to", folders[ref])
    tokens = torch.arange(5, 25).unsqueeze(0)
    with torch.inference_mode():
        merged = AutoModelForCausalLM.from_pretrained(folders["items-merged"])(tokens).logits
        model = AutoModelForCausalLM.from_pretrained(base)
        plain = model(tokens).logits
        live = PeftModel.from_pretrained(model, folders[adapter])(tokens).logits
    assert torch.allclose(merged, live, atol=1e-4)
    assert not torch.allclose(merged, plain, atol=1e-3)
