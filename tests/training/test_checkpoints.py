"""Checkpoints: complete or not there, and written often enough, but not too often."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from ftreg.core.errors import InputError
from ftreg.core.recipe import TrainConfig
from ftreg.core.signals import Interruption
from ftreg.core.types import NullProgress
from ftreg.plugins.methods import full, lora, prefix, qlora
from ftreg.plugins.methods.config import FullConfig, LoraConfig, PrefixConfig, QloraConfig
from ftreg.training import milestones
from ftreg.training.checkpoints import UNFINISHED, commit_checkpoint, newest_checkpoint, step_of
from ftreg.training.milestones import Milestones
from tests.training.jobs import make_job

METHODS = {
    "full": (full, FullConfig()),
    "lora": (lora, LoraConfig(rank=4, dropout=0.1)),
    "qlora": (qlora, QloraConfig(rank=4, dropout=0.1)),
    "prefix": (prefix, PrefixConfig(num_virtual_tokens=4)),
}
FILES = ("optimizer.pt", "trainer_state.json", "trainable.safetensors")


class Killer(NullProgress):
    """A Progress that kills its process at a step."""

    def __init__(self, step):
        self._step = step

    def update(self, done, **facts):
        if "loss" in facts and done == self._step:
            os.kill(os.getpid(), signal.SIGKILL)


class Interrupter(NullProgress):
    """A Progress that presses Ctrl-C at a step."""

    def __init__(self, step):
        self._step = step

    def update(self, done, **facts):
        if "loss" in facts and done == self._step:
            signal.raise_signal(signal.SIGINT)


def job_of(method, folder, base, **settings):
    """A job of a method that evaluates, warms up and has two epochs."""
    shared = {"validation": 4, "max_steps": 6, "save_every": 2, "eval_every": 2, "warmup": 0.3}
    return make_job(folder, base, METHODS[method][1], **shared, **settings)


def train_until_killed(method, folder, base, step):
    """Train in a process that is killed at a step."""
    METHODS[method][0].train(replace(job_of(method, folder, base), progress=Killer(step)))


@pytest.fixture(scope="module")
def processes():
    """A way to start processes that have imported what training needs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path, model_folder, processes, method):
    """After SIGKILL every method resumes from its last checkpoint and ends in the bytes of an uninterrupted run."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = processes.Process(target=train_until_killed, args=(method, killed, model_folder(), 5))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [path.name for path in (killed / "scratch").glob("checkpoint-*")] == ["checkpoint-4"]
    METHODS[method][0].train(job_of(method, killed, model_folder(), resume=True))
    METHODS[method][0].train(job_of(method, whole, model_folder()))
    for path in (whole / "staging").iterdir():
        assert (killed / "staging" / path.name).read_bytes() == path.read_bytes(), path.name


def write_unfinished(folder: Path, step: int) -> None:
    """Write what a checkpoint consists of, under no name yet."""
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    path = folder / UNFINISHED / f"checkpoint-{step}"
    path.mkdir(parents=True)
    for name in FILES:
        (path / name).write_text(str(step))


@pytest.mark.parametrize("earlier", [2, 4, 6])
def test_a_checkpoint_is_complete_or_not_there(tmp_path, monkeypatch, earlier):
    """Wherever saving is cut short, the newest checkpoint has all of its files, all of one step."""
    for last_call in count(1):
        folder = tmp_path / str(last_call)
        write_unfinished(folder, earlier)
        commit_checkpoint(folder, earlier)
        write_unfinished(folder, 4)
        calls = count(1)

        def cut_short(act, calls=calls, last_call=last_call):
            def wrapped(*arguments, **options):
                if next(calls) == last_call:
                    raise SystemExit
                return act(*arguments, **options)

            return wrapped

        with monkeypatch.context() as patch:
            for owner, name in ((os, "fsync"), (Path, "rename"), (os, "unlink"), (os, "rmdir")):
                patch.setattr(owner, name, cut_short(getattr(owner, name)))
            try:
                commit_checkpoint(folder, 4)
            except SystemExit:
                whole = False
            else:
                whole = True
        newest = newest_checkpoint(folder)
        if newest is not None:
            assert {(newest / name).read_text() for name in FILES} == {str(step_of(newest))}
        assert newest is not None or earlier == 4  # the same step again: between two renames, neither has the name
        if whole:
            assert newest is not None
            assert [newest.name] == ["checkpoint-4"] == [path.name for path in folder.glob("checkpoint-*")]
            return


def test_without_a_checkpoint_there_is_nothing_to_resume(tmp_path, model_folder):
    """Resuming a run that left no finished checkpoint is an error."""
    job = job_of("lora", tmp_path, model_folder(), resume=True)
    write_unfinished(job.scratch, 3)
    with pytest.raises(InputError, match="no checkpoint"):
        lora.train(job)


def test_a_run_that_was_complete_is_only_saved(tmp_path, model_folder, handlers):
    """A run that was stopped after its last step goes on without another one, to the same bytes."""
    whole = job_of("lora", tmp_path / "whole", model_folder(), early_stopping_patience=9)
    lora.train(whole)
    job = job_of("lora", tmp_path / "job", model_folder(), early_stopping_patience=9)
    with pytest.raises(KeyboardInterrupt):
        lora.train(replace(job, progress=Interrupter(6)))
    assert newest_checkpoint(job.scratch).name == "checkpoint-6"
    lora.train(replace(job, resume=True, progress=Killer(7)))
    for path in whole.staging.iterdir():
        assert (job.staging / path.name).read_bytes() == path.read_bytes(), path.name


class Clock:
    """A clock that a test moves."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


def saves(monkeypatch, *, step_takes, steps, saving_takes, gigabytes=0.0):
    """When, in seconds, a run by default saves, given what steps and checkpoints take and how much is trained."""
    clock = Clock()
    monkeypatch.setattr(milestones, "time", clock)
    weights = {"weight": SimpleNamespace(nbytes=gigabytes * 1e9)}
    monkeypatch.setattr(milestones, "trainable", lambda _: weights)
    decide = Milestones(TrainConfig(), evaluates=False, best=Path(), interruption=Interruption())
    state = SimpleNamespace(global_step=0, max_steps=steps, log_history=[])
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    decide.on_train_begin(None, state, control, model=None)
    found = []
    for step in range(1, steps + 1):
        clock.now += step_takes
        state.global_step = step
        decide.on_step_end(None, state, control)
        if control.should_save:
            clock.now += saving_takes
            decide.saved(saving_takes)
            found.append(clock.now)
    return found


def test_short_runs_write_no_checkpoint(monkeypatch):
    """A run of less than a minute is not slowed down."""
    assert saves(monkeypatch, step_takes=0.05, steps=1000, saving_takes=0.1) == []


def test_cheap_checkpoints_are_written_each_minute(monkeypatch):
    """Checkpoints that take next to nothing are written each minute, not after each step."""
    found = saves(monkeypatch, step_takes=0.5, steps=600, saving_takes=0.1)
    assert len(found) == 4
    assert found[0] == pytest.approx(60, abs=1)


@pytest.mark.parametrize("steps", [600, 5_000, 50_000])
@pytest.mark.parametrize(("saving_takes", "gigabytes"), [(0.1, 0.01), (5, 1), (60, 14), (0.1, 14), (60, 0.01)])
def test_long_runs_lose_ten_minutes_at_most(monkeypatch, steps, saving_takes, gigabytes):
    """Between checkpoints are ten minutes at most, and the first is there by the first tenth of the run."""
    found = saves(monkeypatch, step_takes=2, steps=steps, saving_takes=saving_takes, gigabytes=gigabytes)
    assert found[0] <= max(steps * 2 / 10, 60) + saving_takes + 2
    assert all(after - before <= 600 + saving_takes + 2 for before, after in zip([0, *found], found, strict=False))
    assert len(found) <= 1 + found[-1] / min(600, max(60, saving_takes / 0.02))
