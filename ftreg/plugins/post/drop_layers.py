"""Step ``drop-layers``: removes whole decoder layers, which makes a model smaller and its decoding faster.

Without layers that are named, those of lowest block influence are removed (Men et al., "ShortGPT", 2024,
https://arxiv.org/abs/2403.03853): one minus the cosine of the hidden states that enter a layer and those that leave it,
averaged over the tokens of the calibration text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ftreg.compat.transformers import caches_keys_and_values
from ftreg.core.errors import FtregError
from ftreg.core.types import CHECKPOINT, Artifact, Progress, StepJob
from ftreg.models.blocks import find_blocks, hidden_states_of, written_by
from ftreg.models.checkpoint import Checkpoint, copy_config
from ftreg.models.depth import check_numbers, shorten
from ftreg.models.facts import describe
from ftreg.models.quiet import quiet
from ftreg.models.skeleton import load_skeleton
from ftreg.models.tensors import write_weights
from ftreg.models.tokenizer import copy_tokenizer
from ftreg.plugins.engines.transformers import load_for_inference
from ftreg.plugins.post.calibration import calibration_rows
from ftreg.plugins.post.config import DropLayersConfig
from ftreg.plugins.post.tolerance import without_share

_BATCH = 4
"""Rows of calibration text that are computed together."""

_LARGEST = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest difference of the logits of the result and of the source without the layers, relative to their norm."""


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
    influences = None if job.config.layers is not None else _measure_influences(job, job.config)
    dropped = sorted(job.config.layers or _lowest(influences or [], job.config.count or 0))
    shorter = shorten(source, dropped)
    plan = {name: source.tensors[old] for name, old in shorter.tensors.items()}
    write_weights(job.staging, plan, ((name, source.read(old)) for name, old in shorter.tensors.items()))
    copy_config(job.staging, source, **shorter.config)
    copy_tokenizer(job.staging, job.source.path)
    check_equal(source.folder, dropped, job.staging)
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
    return Artifact(
        kind=CHECKPOINT,
        facts=facts,
        tolerance=without_share(len(dropped) / count),
        measured={} if influences is None else {"block_influence": [round(each, 6) for each in influences]},
    )


def _measure_influences(job: StepJob, config: DropLayersConfig) -> list[float]:
    """Return the block influence of each layer on the calibration text."""
    text = calibration_rows(
        job, config, needed_by="choosing layers by their influence", instead="Name the layers: `layers=[3]`."
    )
    model = load_for_inference(job.source.path, "auto", None)
    return block_influences(model, text, job.progress)


def _lowest(influences: Sequence[float], count: int) -> list[int]:
    """Return the numbers of the ``count`` layers of lowest influence."""
    return sorted(range(len(influences)), key=lambda number: influences[number])[:count]


@torch.no_grad()
def block_influences(model: Any, text: torch.Tensor, progress: Progress) -> list[float]:
    """Return the block influence of each decoder layer.

    Args:
        model: The model.
        text: Token ids of shape (rows, tokens).
        progress: Is told how many rows are done.
    """
    _, blocks = find_blocks(model)
    cosines = [0.0] * len(blocks)

    def observe(number: int) -> Callable[..., None]:
        def add(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            entering, leaving = hidden_states_of(args, kwargs), written_by(output)
            cosine = functional.cosine_similarity(entering.double(), leaving.double(), dim=-1)
            cosines[number] += float(cosine.sum())

        return add

    hooks = [block.register_forward_hook(observe(number), with_kwargs=True) for number, block in enumerate(blocks)]
    progress.begin("measuring the influence of layers", len(text), unit="rows")
    try:
        for start in range(0, len(text), _BATCH):
            with quiet():
                model.base_model(input_ids=text[start : start + _BATCH].to(model.device), use_cache=False)
            progress.update(min(start + _BATCH, len(text)))
    finally:
        for hook in hooks:
            hook.remove()
    progress.end()
    return [1 - total / text.numel() for total in cosines]


@torch.no_grad()
def check_equal(source: Path, dropped: Sequence[int], result: Path) -> None:
    """Compare the result, with its cache, with the source, of which the layers ``dropped`` are skipped.

    Raises:
        FtregError: Their logits differ.
    """
    model = load_for_inference(source, "auto", None)
    ids = torch.randint(model.config.vocab_size, (2, 12), generator=torch.Generator().manual_seed(0)).to(model.device)
    with quiet(), _skipping(model, dropped):
        expected = model(input_ids=ids, use_cache=False).logits.float()
    del model
    model = load_for_inference(result, "auto", None)
    with quiet():
        if caches_keys_and_values(model):
            first = model(input_ids=ids[:, :8], use_cache=True)
            second = model(input_ids=ids[:, 8:], past_key_values=first.past_key_values, use_cache=True)
            found = torch.cat([first.logits, second.logits], dim=1).float()
        else:
            found = model(input_ids=ids, use_cache=False).logits.float()
    error = float((found - expected).norm() / expected.norm().clamp_min(1e-12))
    if not error <= _LARGEST.get(model.dtype, 1e-4):  # also if it is NaN
        raise FtregError(
            f"the result does not compute what the model computes without these layers: it is off by {error:.2g}",
            hint="This is a model family that drop-layers does not know well enough; please report it.",
        )


@contextmanager
def _skipping(model: Any, dropped: Sequence[int]) -> Iterator[None]:
    """While this lasts, the layers ``dropped`` return what they are given."""

    def skip(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        entering = hidden_states_of(args, kwargs)
        return entering if isinstance(output, torch.Tensor) else (entering, *output[1:])

    _, blocks = find_blocks(model)
    hooks = [blocks[number].register_forward_hook(skip, with_kwargs=True) for number in dropped]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
