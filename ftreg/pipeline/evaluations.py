"""Evaluations: measures versions on held-out examples and records the figures as evidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

from ftreg.context import Context
from ftreg.core.errors import InputError, UnknownName
from ftreg.core.host import PluginHost
from ftreg.core.recipe import DataConfig
from ftreg.core.specs import MetricSpec
from ftreg.core.types import DATASET, Example, Metric
from ftreg.data import read_dataset
from ftreg.pipeline.engines import find_engine, open_engine, require_runtime
from ftreg.pipeline.inputs import dataset_of, open_data

if TYPE_CHECKING:
    from ftreg.evaluation import Evaluation


_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class HeldOut:
    """The examples that versions are measured on.

    Attributes:
        dataset: The dataset's reference, or the file's path.
        digest: The dataset's digest.
        split: ``test``, ``validation`` or ``train``; ``all`` for a file.
        examples: The examples.
    """

    dataset: str
    digest: str
    split: str
    examples: Sequence[Example]


def held_out(context: Context, refs: Sequence[str], *, data: str | None = None, split: str | None = None) -> HeldOut:
    """Choose the examples to measure ``refs`` on.

    Args:
        context: Where to look.
        refs: The versions to measure.
        data: A file, all of whose rows are used, or a registered dataset; by default the first dataset in the versions'
            lineages that has a test split, else the first that has a validation split.
        split: The split of the dataset; by default the test split, else the validation split.

    Raises:
        UnknownName: There is no such version.
        InputError: There are no such examples.
    """
    if split is not None and split not in _SPLITS:
        raise UnknownName("split", split, _SPLITS, where="split")
    if data is not None:
        return _named(context, data, split)
    sources = [context.registry.source(ref) for ref in refs]
    found = [dataset for source in sources if (dataset := dataset_of(context, source))]
    for wanted in [split] if split else ["test", "validation"]:
        for dataset in found:
            if dataset.manifest.facts["rows"][wanted]:
                splits = read_dataset(context.registry.source(dataset.digest).path)
                return HeldOut(dataset.ref, dataset.digest, wanted, getattr(splits, wanted))
    raise InputError(
        f"no {split or 'held-out'} examples are in the lineage of {', '.join(refs)}",
        hint="Name a file or a dataset with `data`.",
    )


def _named(context: Context, data: str, split: str | None) -> HeldOut:
    """Read the examples of a file, or of a split of a registered dataset."""
    with ExitStack() as stack:
        dataset, splits = open_data(context, stack, DataConfig(path=data, validation=0.0), where="data")
    if dataset.prepared is not None or Path(data).is_file():
        if split is not None:
            raise InputError(f"{data} is a file and has no splits", where="split", hint="Leave `split` out.")
        return HeldOut(data, dataset.digest, "all", splits.train)
    wanted = split or ("test" if splits.test else "validation")
    examples = getattr(splits, wanted)
    if not examples:
        raise InputError(f"{data} has no {wanted} examples", where="data", hint="Name another split with `split`.")
    return HeldOut(data, dataset.digest, wanted, examples)


def check_evaluable(context: Context, ref: str, *, limit: int | None = None, engine: str | None = None) -> None:
    """Raise ``InputError`` if ``evaluate_version`` cannot measure ``ref``, before any model is loaded."""
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}, which leaves no examples", where="limit", hint="Give at least 1.")
    source = context.registry.source(ref)
    if source.kind == DATASET:
        raise InputError(f"{source.ref} is a dataset, not a model", hint="See `registry.list()`")
    context.host.require(find_engine(context.host, source.kind, engine))
    require_runtime(source)


def evaluate_version(
    context: Context, ref: str, data: HeldOut, *, limit: int | None = None, engine: str | None = None
) -> Evaluation:
    """Measure ``ref`` on ``data`` and store the figures as evidence on its digest; see also ``check_evaluable``."""
    from ftreg.evaluation import evaluate  # imports numpy, which is not always installed

    source = context.registry.source(ref)
    examples = data.examples[:limit]
    with open_engine(context, source, name=engine) as loaded:
        evaluation = evaluate(loaded, examples, _metrics(context.host), progress=context.progress)
    for name, reason in evaluation.failed_metrics.items():
        context.progress.say(f"metric {name} could not be computed: {reason}")
    body = {key: value for key, value in asdict(evaluation).items() if key != "answers"}
    body |= {"dataset": data.digest, "split": data.split, "examples": len(examples)}
    context.registry.add_evidence(ref, "evaluation", body)
    return evaluation


def _metrics(host: PluginHost) -> dict[str, Metric]:
    """Return all metrics by name, as functions that raise ``FtregError`` if their plugin fails."""
    return {spec.name: partial(_score, host, spec) for spec in host.specs(MetricSpec)}


def _score(host: PluginHost, spec: MetricSpec, answers: Sequence[str], references: Sequence[str]) -> float:
    """Compute one metric; raise ``PluginError`` if the result is not a finite number."""
    figure = host.call(spec, answers, references, returns=object)
    if isinstance(figure, bool) or not isinstance(figure, Real) or not math.isfinite(figure):
        raise host.broken(spec, f"it returned {figure!r}, which is not a finite number")
    return float(figure)
