"""Evaluations: measures versions on held-out data and records the figures as evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ftreg.core.errors import InputError
from ftreg.core.recipe import DataConfig
from ftreg.core.specs import MetricSpec
from ftreg.core.types import DATASET, Example, Version
from ftreg.data import read_dataset
from ftreg.evaluation import Evaluation, evaluate
from ftreg.pipeline.inputs import dataset_of, resolve_data
from ftreg.pipeline.workspace import Workspace


@dataclass(frozen=True)
class HeldOut:
    """The examples that versions are measured on, and where they come from."""

    dataset: Version
    split: str
    examples: Sequence[Example]


def held_out(space: Workspace, refs: Sequence[str], *, data: str | None = None, split: str | None = None) -> HeldOut:
    """The examples to measure ``refs`` on.

    ``data`` is a file, all of whose rows are used, or a registered dataset. Without it, it is the dataset of the first
    version whose lineage has one with a test split, else with a validation split.
    """
    if data is not None:
        dataset, splits = resolve_data(space, DataConfig(path=data, validation=0.0), where="--data")
        if dataset.manifest.facts["rows"]["test"] == dataset.manifest.facts["rows"]["validation"] == 0:
            return HeldOut(dataset, "all", splits.train)
        found = [dataset]
    else:
        sources = [space.registry.source(ref) for ref in refs]
        found = [dataset for source in sources if (dataset := dataset_of(space, source))]
    for wanted in [split] if split else ["test", "validation"]:
        for dataset in found:
            if dataset.kind == DATASET and dataset.manifest.facts["rows"][wanted]:
                splits = read_dataset(space.registry.source(dataset.digest).path)
                return HeldOut(dataset, wanted, getattr(splits, wanted))
    raise InputError(
        f"no {split or 'held-out'} examples are in the lineage of {', '.join(refs)}",
        hint="Name some: --data test.jsonl",
    )


def evaluate_version(
    space: Workspace, ref: str, data: HeldOut, *, limit: int | None = None, engine: str | None = None
) -> Evaluation:
    """Measure ``ref`` on ``data`` and store the figures as evidence on its digest."""
    source = space.registry.source(ref)
    metrics = {spec.name: space.host.load(spec) for spec in space.host.specs(MetricSpec)}
    examples = data.examples[:limit]
    with space.engine(source, name=engine) as loaded:
        evaluation = evaluate(loaded, examples, metrics, progress=space.progress)
    body = {key: value for key, value in asdict(evaluation).items() if key != "answers"}
    body |= {"dataset": data.dataset.digest, "split": data.split, "examples": len(examples)}
    space.registry.add_evidence(ref, "evaluation", body)
    return evaluation
