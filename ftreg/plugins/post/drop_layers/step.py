"""Step ``drop-layers``: removes whole decoder layers, which makes a model smaller and its decoding faster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from ftreg.core.manifest import Json
from ftreg.core.types import CHECKPOINT, Artifact, StepJob
from ftreg.models.blocks import find_blocks
from ftreg.models.checkpoint import Checkpoint, copy_config
from ftreg.models.depth import Shortened, check_numbers, shorten
from ftreg.models.facts import describe
from ftreg.models.inference import load_for_inference
from ftreg.models.skeleton import load_skeleton
from ftreg.models.tensors import write_weights
from ftreg.models.tokenizer import copy_tokenizer
from ftreg.plugins.post.calibration import calibration_rows
from ftreg.plugins.post.config import DropLayersConfig
from ftreg.plugins.post.drop_layers.comparison import check_equal
from ftreg.plugins.post.drop_layers.influence import block_influences
from ftreg.plugins.post.tolerance import without_share


def check(folder: Path, config: DropLayersConfig) -> None:
    """Raise ``InfeasiblePlan`` if the layers cannot be removed from the model in ``folder``."""
    if config.layers is not None:
        shorten(Checkpoint(folder), config.layers)
    else:
        assert config.count is not None
        check_numbers(range(config.count), len(find_blocks(load_skeleton(folder))[1]))


def apply(job: StepJob) -> Artifact:
    """Remove layers of ``job.source``; check that the result computes what the source computes without them.

    Raises:
        InfeasiblePlan: The checkpoint is quantized, its layers cannot be removed, or they have to be chosen and the
            lineage has no data.
        InputError: Files are damaged.
        FtregError: The result does not compute what the source without the layers computes.
    """
    assert isinstance(job.config, DropLayersConfig)
    source = Checkpoint(job.source.path)
    source.require_full_precision("drop-layers")
    dropped, measured = _choose(job, job.config)
    shorter = shorten(source, dropped)
    _write(job, source, shorter)
    job.progress.begin("comparing the result with the source without these layers")
    check_equal(source.folder, dropped, job.staging)
    job.progress.end()
    count = len(shorter.kept) + len(dropped)
    facts = {
        **describe(job.staging),
        "dropped_layers": dropped,
        "layers_before": count,
        "layers_after": len(shorter.kept),
        "parameters_before": describe(source.folder)["parameters"],
        "bytes_before": source.size,
        "bytes_after": Checkpoint(job.staging).size,
    }
    return Artifact(kind=CHECKPOINT, facts=facts, tolerance=without_share(len(dropped) / count), measured=measured)


def _choose(job: StepJob, config: DropLayersConfig) -> tuple[list[int], dict[str, Json]]:
    """Return the numbers of the layers to remove, in order, and the influences that they were chosen by."""
    if config.layers is not None:
        return sorted(config.layers), {}
    text = calibration_rows(
        job, config, needed_by="choosing layers by their influence", instead="Or name the layers: `layers=[3]`."
    )
    influences = block_influences(load_for_inference(job.source.path, "auto", None), text, job.progress)
    lowest = sorted(range(len(influences)), key=lambda number: influences[number])[: config.count]
    return sorted(lowest), {"block_influence": [round(each, 6) for each in influences]}


def _write(job: StepJob, source: Checkpoint, shorter: Shortened) -> None:
    """Write the shortened checkpoint, one tensor at a time."""

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        for done, (name, old) in enumerate(shorter.tensors.items(), start=1):
            yield name, source.read(old)
            job.progress.update(done)

    job.progress.begin("dropping layers", len(shorter.tensors), unit="tensors")
    write_weights(job.staging, {name: source.tensors[old] for name, old in shorter.tensors.items()}, tensors())
    job.progress.end()
    copy_config(job.staging, source, **shorter.config)
    copy_tokenizer(job.staging, source.folder)
