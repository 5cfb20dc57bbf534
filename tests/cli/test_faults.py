"""Faults from outside through the real command line: interrupts, a full disk, missing packages, no memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from ftreg import Registry
from ftreg.cli.session import Session
from ftreg.core.errors import OutOfMemory
from tests.command import ftreg, python


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Forty questions and answers."""
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": f"question {i}", "response": f"answer {i}"}) + "\n" for i in range(40))
    )
    return path


STOPPED = """
import os, sys
from ftreg.cli.main import main
from ftreg.training import trainer

commit = trainer.commit_checkpoint

def commit_and_stop(*arguments):
    trainer.commit_checkpoint = commit
    commit(*arguments)
    os.kill(os.getpid(), int(sys.argv[1]))

trainer.commit_checkpoint = commit_and_stop
main(sys.argv[2:])
"""


def train_command(base: Path, rows: Path, *more: str) -> list[str]:
    """A training run that writes a checkpoint after every second step."""
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


def last_step(home: Path) -> int:
    """The step of the newest checkpoint of the only run; 0 if there is none."""
    return max((int(path.name.removeprefix("checkpoint-")) for path in home.glob("runs/*/checkpoint-*")), default=0)


def stop_after_a_checkpoint(home: Path, arguments: Sequence[str], number: signal.Signals) -> str:
    """Train until the next checkpoint, where a signal stops the run, and return its messages."""
    done = python(STOPPED, number, *arguments, home=home)
    expected = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}
    assert done.returncode == expected[number], done.stderr
    with Registry(home) as registry:
        assert registry.list() == []
    return done.stderr


def test_a_stopped_training_goes_on_where_it_was(tmp_path: Path, rows: Path, model_folder: Callable[..., Path]) -> None:
    """A run stopped by each signal in turn publishes nothing; resumed, it ends in the same bytes."""
    home = tmp_path / "home"
    command = train_command(model_folder(), rows, "--set", "train.max_steps=20")
    message = stop_after_a_checkpoint(home, command, signal.SIGINT)
    assert "interrupted" in message
    assert f"step {last_step(home)} was kept" in message
    assert "--resume" in message
    for number in (signal.SIGTERM, signal.SIGHUP):
        message = stop_after_a_checkpoint(home, [*command, "--resume"], number)
        assert "terminated" in message
        assert f"step {last_step(home)} was kept" in message
        assert list(home.glob("tmp/*")) == []
    stop_after_a_checkpoint(home, [*command, "--resume"], signal.SIGKILL)
    assert 2 < last_step(home) < 20
    resumed = json.loads(ftreg(*command, "--resume", "--json", home=home).stdout)
    straight = json.loads(ftreg(*command, "--json", home=tmp_path / "other").stdout)
    assert resumed["digest"] == straight["digest"]
    assert not list(home.glob("runs/*"))


def test_sigterm_while_tokenizing_cleans_up(tmp_path: Path, rows: Path, model_folder: Callable[..., Path]) -> None:
    """SIGTERM before there is anything to save ends the command with 143, one line, and nothing left behind."""
    home = tmp_path / "home"
    program = (
        "import signal, sys\n"
        "from ftreg.cli.main import main\n"
        "from ftreg.data import Encoder\n"
        "Encoder.encode_all = lambda *_: signal.raise_signal(signal.SIGTERM)\n"
        "main(sys.argv[1:])\n"
    )
    done = python(program, *train_command(model_folder(), rows), home=home)
    assert done.returncode == 143, done.stderr
    assert done.stderr.strip().splitlines()[-1] == "error: terminated; nothing was published"
    assert "--resume" not in done.stderr
    assert [*home.glob("tmp/*"), *home.glob("runs/*")] == []


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize(("wrapper", "code"), [((), 129), (("nohup",), 0)])
def test_sighup_ends_a_command_unless_it_is_ignored(tmp_path: Path, wrapper: tuple[str, ...], code: int) -> None:
    """SIGHUP ends the command with 129; under ``nohup`` the command goes on to its end."""
    script = (
        "import signal, sys\n"
        "from ftreg.cli.main import main\n"
        "from ftreg.registry import Registry\n"
        "Registry.summaries = lambda *_, **__: signal.raise_signal(signal.SIGHUP) or []\n"
        "main(['--home', sys.argv[1], 'models', 'list'])\n"
    )
    command = [*wrapper, sys.executable, "-c", script, str(tmp_path / "home")]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == code, done.stderr
    assert ("terminated" in done.stderr) == (code != 0)


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
    """A full disk ends the work with one message, and the registry stays as it was."""
    ftreg("models", "list", home=small_disk / "home")
    done = ftreg(*train_command(model_folder(), rows, "--set", "train.max_steps=4"), home=small_disk / "home", code=1)
    assert "full" in done.stderr
    assert done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr
    with Registry(small_disk / "home") as registry:
        assert registry.list() == []
        assert registry.verify().ok


def test_missing_package_names_the_extra(tmp_path: Path, rows: Path, model_folder: Callable[..., Path]) -> None:
    """A method whose package is not installed says what to install, before anything is done."""
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
    """With only the core installed, the functions can be imported, and training says what it needs."""
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
