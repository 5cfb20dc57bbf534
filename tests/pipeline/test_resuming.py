"""The folder of a run: held by one process, kept when the run fails, removed when it succeeds."""

from __future__ import annotations

import pytest

from ftreg.core.errors import InputError, RegistryBusy
from ftreg.core.types import NullProgress
from ftreg.pipeline.resuming import run_folder


class Listener(NullProgress):
    """A Progress that keeps what is said."""

    def __init__(self):
        self.said = []

    def say(self, message):
        self.said.append(message)


@pytest.fixture
def progress():
    """What the run says."""
    return Listener()


@pytest.fixture
def interrupted(tmp_path):
    """The folder of a run that was interrupted after step 7."""
    folder = tmp_path / "runs" / "key"
    (folder / "checkpoint-7").mkdir(parents=True)
    return folder


def test_one_process_at_a_time(interrupted, progress):
    """A run that is going on is not started a second time, and its checkpoints stay; afterwards it can be."""
    with run_folder(interrupted, "bot", resume=True, progress=progress):
        with (
            pytest.raises(RegistryBusy, match="another process"),
            run_folder(interrupted, "bot", resume=False, progress=progress),
        ):
            pass
        assert (interrupted / "checkpoint-7").is_dir()
    assert not interrupted.exists()
    with run_folder(interrupted, "bot", resume=False, progress=progress):
        pass


def test_an_interrupted_run_is_not_dropped_silently(interrupted, progress):
    """Starting over says that there is something to resume, and keeps it until the new run has a checkpoint."""
    with pytest.raises(RuntimeError), run_folder(interrupted, "bot", resume=False, progress=progress):
        raise RuntimeError
    assert "step 7; now it starts over" in progress.said[0]
    assert "`resume=True`" in progress.said[0]
    assert "step 7 was kept" in progress.said[1]
    with run_folder(interrupted, "bot", resume=True, progress=progress) as folder:
        assert (folder / "checkpoint-7").is_dir()
    assert len(progress.said) == 2


def test_a_failure_without_a_checkpoint_leaves_nothing(tmp_path, progress):
    """A run that fails before its first checkpoint leaves no folder, and nothing to resume."""
    folder = tmp_path / "runs" / "key"
    with pytest.raises(RuntimeError), run_folder(folder, "bot", resume=False, progress=progress):
        raise RuntimeError
    assert not folder.exists()
    with (
        pytest.raises(InputError, match="no interrupted run"),
        run_folder(folder, "bot", resume=True, progress=progress),
    ):
        pass
    assert not folder.exists()
    assert progress.said == []
