"""A plugin for tests: an engine that answers with the end of the prompt, and a metric; both count their calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ftreg.core.recipe import Config
from ftreg.core.types import MetricJob, Source
from ftreg.plugin import EngineSpec, MetricSpec, hookimpl
from tests.evaluation.helpers import TableEngine
from tests.tiny import make_tokenizer

CALLS: Counter[str] = Counter()


class Echo(TableEngine):
    """An engine for versions of kind ``echo``."""

    def __init__(self, source: Source, device: str) -> None:
        CALLS["engine"] += 1
        super().__init__(np.zeros((320, 320)), make_tokenizer())

    def generate(self, batch: Sequence[Sequence[int]], *, max_new_tokens: int) -> list[list[int]]:
        """Answer each prompt with its own words."""
        return [list(row[1:-4]) for row in batch]


class Settings(Config):
    """Settings of the metric."""

    letter: str = "e"


def letters(job: MetricJob) -> float:
    """Count a letter in all answers."""
    CALLS["metric"] += 1
    return sum(one.answer.count(job.config.letter) for one in job.answers)


@hookimpl
def ftreg_engines() -> list[EngineSpec]:
    """The engine, under two names."""
    here = f"{__name__}:Echo"
    return [EngineSpec(name=name, summary="s", impl=here, kinds=("echo",)) for name in ("echo", "other")]


@hookimpl
def ftreg_metrics() -> list[MetricSpec]:
    """The metric."""
    return [MetricSpec(name="letters", summary="s", impl=f"{__name__}:letters", config=f"{__name__}:Settings")]
