"""Running lm-eval's tasks on a loaded version."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any

import torch
from lm_eval.evaluator import evaluate

from ftreg.compat.lm_eval import quiet
from ftreg.core.errors import FtregError, InputError
from ftreg.core.manifest import Json
from ftreg.evaluation.harness.config import HarnessConfig
from ftreg.evaluation.harness.model import EngineModel
from ftreg.evaluation.harness.tasks import Loaded, seeded


def run_tasks(model: EngineModel, loaded: Loaded, config: HarnessConfig, limit: int | None) -> list[dict[str, Json]]:
    """Run what a name stands for.

    Args:
        model: The version.
        loaded: The tasks.
        config: How to run them.
        limit: Use only the first so many examples of each task.

    Returns:
        For each task, and for each group with figures of its own: ``name``, ``version``, ``num_fewshot``, ``examples``
        and ``figures``, of which each has ``metric``, ``filter``, ``value``, ``stderr`` and ``higher_is_better``.

    Raises:
        InputError: A prompt does not fit, or a chat template is needed and there is none.
        FtregError: lm-eval, or a task's own code, fails.
    """
    if config.apply_chat_template and not model.tokenizer.chat_template:
        raise InputError("the model has no chat template", where="lm-eval.apply_chat_template")
    try:
        with quiet(), seeded(config.seed), torch.random.fork_rng():
            torch.manual_seed(config.seed)
            found = evaluate(
                model,
                {"tasks": loaded.tasks, "groups": loaded.groups},
                limit=limit,
                bootstrap_iters=config.bootstrap_iters,
                log_samples=False,
                system_instruction=config.system_instruction,
                apply_chat_template=config.apply_chat_template,
                fewshot_as_multiturn=config.apply_chat_template and config.fewshot_as_multiturn,
            )
    except (FtregError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # what lm-eval, or a task's own code, raises
        reason = " ".join(str(error).split())[:400]
        raise FtregError(f"{loaded.name} failed in lm-eval: {type(error).__name__}: {reason}") from error
    return list(_results(found))


def _results(found: Mapping[str, Any]) -> Iterator[dict[str, Json]]:
    """Yield the results of each group, then those of each task."""
    for name, values in {**found.get("groups", {}), **found["results"]}.items():
        better = found["higher_is_better"].get(name) or {}
        figures = list(_figures(values, better))
        if figures:
            yield {
                "name": name,
                "version": str(found["versions"].get(name, "")),
                "num_fewshot": found["n-shot"].get(name),
                "examples": found["n-samples"][name]["effective"] if name in found["n-samples"] else None,
                "figures": figures,
            }


def _figures(values: Mapping[str, Any], better: Mapping[str, bool | None]) -> Iterator[dict[str, Json]]:
    """Yield the figures of a task, which lm-eval keeps under ``metric,filter`` and ``metric_stderr,filter``."""
    for key, value in values.items():
        metric, comma, kind = key.partition(",")
        if comma and not metric.endswith("_stderr") and isinstance(value, Real):
            yield {
                "metric": metric,
                "filter": kind,
                "value": _finite(value),
                "stderr": _finite(values.get(f"{metric}_stderr,{kind}")),
                "higher_is_better": better.get(metric),
            }


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, Real) and math.isfinite(value) else None
