"""lm-eval's tasks: found by name, loaded with their data, checked, and identified by what they ask."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from inspect import getsource
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3
from lm_eval.api.group import Group
from lm_eval.api.task import Task
from lm_eval.defaults import DEFAULT_RANDOM_SEED
from lm_eval.tasks import TaskManager

from ftreg.compat.lm_eval import quiet
from ftreg.core.errors import FtregError, InputError, UnknownName
from ftreg.evaluation.harness.config import HarnessConfig
from ftreg.evaluation.harness.model import read_generation

_ORIGIN = ("custom_dataset", "dataset_kwargs", "dataset_name", "dataset_path", "metadata")
"""Keys of a task's configuration that say where it and its data come from; its version is counted apart."""


@dataclass(frozen=True)
class Loaded:
    """What a name stands for: a task, the tasks of a group, or those with a tag.

    Attributes:
        name: The name.
        tasks: The tasks by name, configured.
        groups: The groups, whose figures are made of those of their tasks.
    """

    name: str
    tasks: dict[str, Task]
    groups: dict[str, Group]

    def digest(self, limit: int | None) -> str:
        """Return the BLAKE3 of all that the figures depend on beside the model: configurations, and examples' rows.

        Where the data is does not count: the same rows in another place are the same task.
        """
        hasher = blake3()
        for group in self.groups.values():
            hasher.update(_line([group.name, group.child_names, group.aggregate_metric_list]))
        for name, task in self.tasks.items():
            config = {key: value for key, value in task.dump_config().items() if key not in _ORIGIN}
            hasher.update(_line([name, task.VERSION, config]))
            shown = (task.fewshot_docs() or []) if task.config.num_fewshot else []
            for row in (*islice(task.eval_docs, limit), None, *shown):
                hasher.update(_line(row))
        return f"b3:{hasher.hexdigest()}"


def load_tasks(names: Sequence[str], folder: Path | None, config: HarnessConfig) -> list[Loaded]:
    """Load tasks, groups or tags of lm-eval with their data.

    Args:
        names: Their names.
        folder: A folder with further tasks (``*.yaml``), which take precedence over lm-eval's.
        config: How to run them.

    Raises:
        UnknownName: No task, group or tag has that name.
        InputError: A task cannot be loaded, its data cannot be reached, or it needs what engines do not do.
    """
    with quiet():
        manager = _manager(names, folder)
        for name in names:
            if name not in manager.task_index:
                raise UnknownName("task of lm-eval", name, manager.all_tasks, where="suite")
        return [_load(manager, name, config) for name in names]


def _manager(names: Sequence[str], folder: Path | None) -> TaskManager:
    """Index the tasks in ``folder``, and lm-eval's own (15,000, in some 10 s) unless all names are found there."""
    if folder is not None:
        own = TaskManager(include_path=folder, include_defaults=False)
        if set(names) <= set(own.all_subtasks):
            return own
    return TaskManager(include_path=folder)


def _load(manager: TaskManager, name: str, config: HarnessConfig) -> Loaded:
    try:
        with seeded(config.seed):
            found = manager.load([name])
    except FtregError:
        raise
    except ConnectionError as error:
        raise InputError(
            f"the data of {name} is on the Hugging Face Hub, which cannot be reached: {error}",
            where="suite",
            hint="Connect to the internet, unset HF_HUB_OFFLINE, or copy the folder HF_HOME of a machine that has it.",
        ) from error
    except Exception as error:  # what a task's own files and code raise
        raise InputError(f"{name} cannot be loaded: {_reason(error)}", where="suite") from error
    loaded = Loaded(name, dict(sorted(found["tasks"].items())), dict(sorted(found.get("groups", {}).items())))
    for task_name, task in loaded.tasks.items():
        _check(task_name, task)
        _configure(task, config)
    return loaded


def _check(name: str, task: Task) -> None:
    """Raise ``InputError`` if a task needs what engines do not do."""
    if getattr(task, "UNSAFE_CODE", False):
        raise InputError(f"{name} runs code that the model writes, which ftreg does not", where="suite")
    if getattr(task, "MULTIMODAL", False):
        raise InputError(f"{name} shows images or sounds, which engines do not read", where="suite")
    if task.OUTPUT_TYPE == "generate_until":
        try:
            read_generation(task.config.generation_kwargs or {})
        except InputError as error:
            raise InputError(f"{name} cannot be run: {error.message}", where="suite", hint=error.hint) from None


def _configure(task: Task, config: HarnessConfig) -> None:
    """Set how many examples precede each question, by lm-eval's rule: a task that says 0 stays without."""
    own = task.get_config("num_fewshot")
    if own is None or (config.num_fewshot is not None and own != 0):
        task.set_config(key="num_fewshot", value=config.num_fewshot or 0)
    task.set_fewshot_seed(seed=config.seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Python's and numpy's generators as lm-eval does, and restore their states afterwards."""
    states = random.getstate(), np.random.get_state()
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"


def _line(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, default=_plain).encode() + b"\n"


def _plain(value: Any) -> Any:
    """Return what JSON can hold for a value of a configuration; for a function its source."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if not callable(value):
        return str(value)
    try:
        return getsource(value)
    except (OSError, TypeError):
        return getattr(value, "__qualname__", type(value).__qualname__)
