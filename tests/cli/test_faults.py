"""Faults from outside through the real command line: interrupts, a full disk, missing packages, no memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftreg import Registry
from ftreg.cli.session import Session
from ftreg.core.errors import OutOfMemory
from tests.command import ftreg


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Forty questions and answers."""
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": f"question {i}", "response": f"answer {i}"}) + "\n" for i in range(40))
    )
    return path


def train_command(base: Path, rows: Path, *more: str) -> list[str]:
    """A long training run that writes a checkpoint after every second step."""
    flags = [
        "--base",
        str(base),
        "--data",
        str(rows),
        "--method",
        "lora",
        "--name",
        "bot",
        "--set",
        "train.batch_size=2",
    ]
    return ["train", *flags, "--set", "train.save_every=2", *more]


def test_interrupted_training_can_be_resumed(tmp_path: Path, rows: Path, model_folder: Callable[..., Path]) -> None:
    """Ctrl-C ends a run with 130 and publishes nothing; --resume goes on to the bytes of a run never stopped."""
    home = tmp_path / "home"
    steps = ("--set", "train.max_steps=60", "--set", "train.epochs=50")
    command = [sys.executable, "-m", "ftreg", *train_command(model_folder(), rows, *steps)]
    environment = {**os.environ, "FTREG_HOME": str(home), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(home.glob("runs/*/checkpoint-*")):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=120)
    assert process.returncode == 130, message
    assert "--resume" in message
    assert "interrupted" in message
    with Registry(home) as registry:
        assert registry.list() == []
    resumed = json.loads(ftreg(*train_command(model_folder(), rows, *steps), "--resume", "--json", home=home).stdout)
    straight = json.loads(ftreg(*train_command(model_folder(), rows, *steps), "--json", home=tmp_path / "other").stdout)
    assert resumed["digest"] == straight["digest"]
    assert not list(home.glob("runs/*"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("mounting a file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_is_said_and_nothing_is_published(
    small_disk: Path, rows: Path, model_folder: Callable[..., Path]
) -> None:
    """A disk that fills up during the work ends it with one message, and the registry stays as it was."""
    ftreg("models", "list", home=small_disk / "home")
    done = ftreg(*train_command(model_folder(), rows, "--set", "train.max_steps=4"), home=small_disk / "home", code=1)
    assert "full" in done.stderr
    assert done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr
    with Registry(small_disk / "home") as registry:
        assert registry.list() == []
        assert registry.verify().ok


def test_missing_package_names_the_extra(tmp_path: Path, rows: Path, model_folder: Callable[..., Path]) -> None:
    """A method whose package is not installed says which pip install brings it, before anything is done."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\n"
        "real = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'bitsandbytes' else real(name, *a)\n"
    )
    command = ["qlora" if part == "lora" else part for part in train_command(model_folder(), rows)]
    done = ftreg(*command, home=tmp_path / "home", env={"PYTHONPATH": f"{tmp_path}:{Path.cwd()}"}, code=2)
    assert "bitsandbytes" in done.stderr
    assert "pip install 'ftreg[train]'" in done.stderr


def test_the_bare_install_names_the_extra(tmp_path: Path, rows: Path, model_folder: Callable[..., Path]) -> None:
    """Where nothing but the core is installed, the functions can be imported, and training says what it needs."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in {'numpy', 'torch', 'transformers', 'peft', 'bentoml', 'packaging'}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
    )
    env = {"PYTHONPATH": f"{tmp_path}:{Path.cwd()}"}
    code = "from ftreg import train, deploy, merge, evaluate"
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, **env}).returncode == 0
    done = ftreg(*train_command(model_folder(), rows), home=tmp_path / "home", env=env, code=2)
    assert "pip install 'ftreg[train]'" in done.stderr


def test_out_of_memory_says_what_to_change() -> None:
    """An allocation that fails on the device becomes an error that names the settings to lower."""
    import torch

    known = Session().explain(torch.OutOfMemoryError("CUDA out of memory"))
    assert isinstance(known, OutOfMemory)
    assert "batch_size" in str(known)
