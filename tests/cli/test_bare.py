"""The bare install, without any extra: every command works or says which extra it needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ftreg.core.manifest import Producer
from ftreg.registry import Draft, Registry
from tests.cli.walk import commands

BLOCKED = {
    *(
        "accelerate",
        "bentoml",
        "bitsandbytes",
        "huggingface_hub",
        "jinja2",
        "matplotlib",
        "numpy",
        "onnx",
        "onnxruntime",
    ),
    *(
        "onnxruntime_genai",
        "onnxscript",
        "packaging",
        "peft",
        "prometheus_client",
        "pyarrow",
        "safetensors",
        "starlette",
    ),
    *("tokenizers", "torch", "transformers"),
}
ABSENT = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Absent())
"""

# What is typed, and the extra that it needs; None if it works without one.
TYPED: dict[str, str | None] = {
    "quickstart": "ftreg[train,onnx,serve]",
    "init tiny --data rows.jsonl": "ftreg[train]",
    "data check rows.jsonl": None,
    "data check rows.jsonl --base base": "ftreg[train]",
    "data stats rows.jsonl": None,
    "data preview rows.jsonl --base base": "ftreg[train]",
    "data stdlib stdlib.jsonl": None,
    "train --base base --data rows.jsonl": "ftreg[train]",
    "distill base --teacher base --data rows.jsonl": "ftreg[train]",
    "run recipe.yaml": "ftreg[train]",
    "merge base": "ftreg[train]",
    "quantize base": "ftreg[train]",
    "prune base": "ftreg[train]",
    "export base": "ftreg[train]",
    "export base --to out": None,
    "apply prune base": "ftreg[train]",
    "eval base --data rows.jsonl": "ftreg[train]",
    "compare base --data rows.jsonl": "ftreg[train]",
    "deploy bot --variant base": "ftreg[train]",
    "serve base": "ftreg[train]",
    "models list": None,
    "models show base": None,
    "models log": None,
    "models tag base stage=test": None,
    "models alias base champion": None,
    "models golden spare goldens.jsonl": None,
    "models policy spare --require golden": None,
    "models restore base": None,
    "lineage base": None,
    "replay tuned": "ftreg[train]",
    "bisect base --data rows.jsonl": "ftreg[train]",
    "du": None,
    "verify": None,
    "gc --dry-run": None,
    "plugins list": None,
    "plugins info lora": None,
    "settings train": None,
    "settings init": "ftreg[train]",
    "completion bash": None,
    "models delete spare:1": None,
}
ELSEWHERE = {  # what experiments need is not heavy, and tested where there is a record; so are gates and replays
    "experiment status",
    "experiment report",
    "experiment set",
    "experiment promote",
    "experiment rollback",
    "plugins release",
    "models evict",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, model_folder: Callable[..., Path]) -> Path:
    """A folder with data, a recipe, and a registry that holds a base; no extra can be imported in it."""
    folder = tmp_path_factory.mktemp("bare")
    (folder / "sitecustomize.py").write_text(ABSENT)
    rows = [{"prompt": f"question {i}", "response": f"answer {i}"} for i in range(20)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "goldens.jsonl").write_text(json.dumps({"prompt": "question 1", "contains": "answer"}) + "\n")
    (folder / "recipe.yaml").write_text("base: base\ndata: rows.jsonl\n")
    with Registry(folder / "home") as registry:
        imported = Producer("import", "folder", "core", "ftreg", "", {})
        trained = Producer("method", "lora", "methods", "ftreg", "0.1.0", {})
        for name, producer in {"base": imported, "spare": imported, "tuned": trained}.items():
            with registry.staging() as staging:
                registry.copy_in(model_folder(), staging.files)
                draft = Draft(
                    folder=staging.files, kind="checkpoint", producer=producer, capabilities=("full-precision",)
                )
                registry.publish(name, draft)
    return folder


RUN_ALL = """
import contextlib, io, json, sys
from ftreg.cli.main import main
results = {}
for typed in json.loads(sys.argv[1]):
    error = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(error):
        try:
            main(typed.split())
        except SystemExit as end:
            results[typed] = (end.code or 0, error.getvalue())
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, tuple[int, str]]:
    """The exit code and the messages of each command, one after the other in one process."""
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL, json.dumps(list(TYPED))],
        env=environment(folder),
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, tuple[int, str]] = json.loads(done.stdout)
    return found


def environment(folder: Path) -> dict[str, str]:
    """The environment in which no extra is installed, and the registry is the folder's."""
    return {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{Path.cwd()}", "FTREG_HOME": str(folder / "home")}


@pytest.mark.parametrize("typed", TYPED)
def test_commands_work_or_name_the_extra(results: dict[str, tuple[int, str]], typed: str) -> None:
    """The exit code is 0, or 2 with one message that can be pasted into a shell."""
    extra = TYPED[typed]
    code, message = results[typed]
    assert code == (2 if extra else 0), message
    if extra:
        assert f"pip install '{extra}'" in message
        assert message.count("error:") == 1
        assert "this needs" not in message
        assert "bug in ftreg" not in message


def test_every_command_is_typed() -> None:
    """A new command has to be tried here too."""
    import click

    leaves = {path.removeprefix("ftreg ") for path, found in commands() if not isinstance(found, click.Group)}
    typed = {leaf for leaf in leaves for line in TYPED if line.startswith(leaf)}
    assert leaves - typed == ELSEWHERE


def test_python_names_the_extra_too(folder: Path) -> None:
    """The functions can be imported; what they need and cannot have is a MissingExtra, not a ModuleNotFoundError."""
    code = (
        "import ftreg\n"
        "from ftreg.core.errors import MissingExtra\n"
        "for name in ftreg.__all__: getattr(ftreg, name)\n"
        "for call in (lambda: ftreg.evaluate('base', 'rows.jsonl'), lambda: ftreg.deploy('bot', {'base': 1})):\n"
        "    try:\n"
        "        call()\n"
        "    except MissingExtra as error:\n"
        "        print(error.hint)\n"
        "try:\n"
        "    ftreg.init('tiny', 'rows.jsonl')\n"
        "except MissingExtra as error:\n"
        "    print(error.message)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(folder), cwd=folder, capture_output=True, text=True
    )
    assert done.stdout.count("pip install 'ftreg[train]'") == 2, done.stderr
    assert "`ftreg.api.training.init()` needs " in done.stdout


def test_the_command_that_needs_an_extra_is_named(results: dict[str, tuple[int, str]]) -> None:
    """A bare import inside a function is reported with the command that does the same."""
    assert "error: ftreg init needs " in results["init tiny --data rows.jsonl"][1]
