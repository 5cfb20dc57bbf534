"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.tiny import make_model

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests share the cores among processes
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# How long an example takes depends on the machine.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function ``(architecture, tied, **more) -> folder`` of an untrained tiny checkpoint. Do not write."""
    made: dict[tuple[object, ...], Path] = {}

    def get(architecture: str = "llama", tied: bool = False, **more: object) -> Path:
        key = (architecture, tied, *more.items())
        if key not in made:
            folder = tmp_path_factory.mktemp(f"{architecture}-{tied}")
            made[key] = make_model(folder, architecture, tied=tied, **more)
        return made[key]

    return get


@pytest.fixture
def handlers() -> Iterator[None]:
    """Python's own handlers of the signals that end ftreg, some of which a shell or ``nohup`` may have had ignored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
