"""Runs the real command line in a process of its own."""

from __future__ import annotations

import functools
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path
from unittest import mock

_IMPORTED = ["peft", "transformers.trainer", "ftreg.training", "ftreg.plugins.engines.transformers", "ftreg.cli.main"]


def ftreg(
    *arguments: str | Path,
    home: Path | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    code: int | None = 0,
    python: str | Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run ``ftreg`` with ``arguments``, and fail the test if it exits with another code than ``code`` (None: any).

    The process is forked from one that has imported torch and transformers already, which saves seconds. It starts as
    usual if ``env`` or ``python`` is given, since these can change what is imported.
    """
    command = list(map(str, arguments))
    if env is None and python is None:
        done = _run_forked(None, command, cwd, _environment(home))
    else:
        done = subprocess.run(
            [str(python or sys.executable), "-m", "ftreg", *command],
            cwd=cwd,
            env={**_environment(home), **(env or {})},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
    if code is not None:
        assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def ftreg_changed(
    program: str, *arguments: str | Path, home: Path, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``program``, which changes something and calls ``ftreg.cli.main``, like ``python -c``; in a forked process."""
    return _run_forked(program, list(map(str, arguments)), cwd, _environment(home))


def _environment(home: Path | None) -> dict[str, str]:
    """Return the environment of a command."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FTREG_")}
    fixed = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    return inherited | fixed | ({} if home is None else {"FTREG_HOME": str(home)})


@functools.cache
def _server() -> ForkServerContext:
    """Return the context whose processes are forked from one that has imported ``_IMPORTED``."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    return context


def _run_forked(
    program: str | None, arguments: Sequence[str], cwd: Path | None, env: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a program, or the command line, in a forked process, with its output in files."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder, "stdout"), Path(folder, "stderr")
        with mock.patch.dict(os.environ, env, clear=True):  # the first call starts the server in this environment
            process = _server().Process(target=_main, args=(program, arguments, cwd or Path.cwd(), env, outputs))
            process.start()
        process.join()
        stdout, stderr = (path.read_text(encoding="utf-8") if path.exists() else "" for path in outputs)
    assert process.exitcode is not None
    return subprocess.CompletedProcess(arguments, process.exitcode, stdout, stderr)


def _main(
    program: str | None, arguments: Sequence[str], cwd: Path, env: Mapping[str, str], outputs: tuple[Path, Path]
) -> None:
    """Be a new process of Python that runs a program or ``ftreg``, as a shell would start it."""
    for path, number in ((Path(os.devnull), 0), *zip(outputs, (1, 2), strict=True)):
        file = os.open(path, os.O_CREAT | (os.O_WRONLY if number else os.O_RDONLY))
        os.dup2(file, number)
        os.close(file)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for ends in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ends, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = ["ftreg", *arguments]
    if program is None:
        runpy.run_module("ftreg", run_name="__main__", alter_sys=True)
    else:
        exec(program, {"__name__": "__main__"})
