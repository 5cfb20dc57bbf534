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
import threading
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from unittest import mock

_IMPORTED = ["peft", "transformers.trainer", "ftreg.training", "ftreg.plugins.engines.transformers", "ftreg.cli.main"]
_READ_AT_START = {"PYTHONPATH", "OMP_NUM_THREADS", "HF_HOME"}
_STARTING = threading.Lock()


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
    usual if ``python`` is given, or a variable in ``env`` that matters before that.
    """
    command, environment = list(map(str, arguments)), _environment(home, env)
    if python is None and not _READ_AT_START & (env or {}).keys():
        done = _run_forked(None, command, cwd, environment)
    else:
        done = subprocess.run(
            [str(python or sys.executable), "-m", "ftreg", *command],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
    if code is not None:
        assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def python(
    program: str,
    *arguments: str | Path,
    home: Path | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program as ``python -c`` does, in a process that is forked like that of ``ftreg``."""
    return _run_forked(program, list(map(str, arguments)), cwd, _environment(home, env))


def _environment(home: Path | None, env: Mapping[str, str] | None) -> dict[str, str]:
    """Return the environment of a command: the same for all, except for ``env``."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FTREG_")}
    fixed = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    return inherited | fixed | ({} if home is None else {"FTREG_HOME": str(home)}) | dict(env or {})


@functools.cache
def _server() -> ForkServerContext:
    """Start the process that others are forked from, and return its context."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    with mock.patch.dict(os.environ, _environment(None, None), clear=True):
        forkserver.ensure_running()
    return context


def _run_forked(
    program: str | None, arguments: Sequence[str], cwd: Path | None, env: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a program, or the command line, in a forked process, with its output in files."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder, "stdout"), Path(folder, "stderr")
        with _STARTING:
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
