"""Step ``merge``: adds an adapter, or a combination of several, to the weights of the base model."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ftreg.core.errors import FtregError, InputError
from ftreg.core.types import CHECKPOINT, Artifact, Source, StepJob, Tolerance
from ftreg.evaluation import held_out_loss
from ftreg.models.checkpoint import Checkpoint, copy_config
from ftreg.models.facts import describe
from ftreg.models.quantization import RoundTrip, base_quantization
from ftreg.models.quiet import quiet
from ftreg.models.tensors import TensorInfo, dtype_name, write_weights
from ftreg.models.tokenizer import copy_tokenizer
from ftreg.plugins.engines.transformers import load_checkpoint
from ftreg.plugins.post.adapters import Transform
from ftreg.plugins.post.config import MergeConfig
from ftreg.plugins.post.in_memory import merge_in_memory
from ftreg.plugins.post.mergeable import Adapters, can_stream, check_mergeable, check_settings, read_peft_config
from ftreg.plugins.post.module_check import ModuleCheck
from ftreg.plugins.post.streaming import StreamedMerge
from ftreg.plugins.post.tolerance import equal_within

# On a 4-bit base the live adapter computes with other kernels, and it was never trained on the original weights.
_DEQUANTIZED = Tolerance(kl=5e-3, top1=0.95, loss_delta=1e-2)
_ORIGINAL = Tolerance(kl=0.1, loss_delta=1e-2)


@dataclass(frozen=True)
class _Written:
    """A merged checkpoint that was written.

    Attributes:
        changed: How many of its tensors differ from the base's.
        untied: Whether the base's tied embeddings became two.
        dtype: Dtype of its weights.
        check: What was found when merged modules were compared with live ones; None if they were merged in memory.
    """

    changed: int
    untied: bool
    dtype: torch.dtype
    check: ModuleCheck | None


def apply(job: StepJob) -> Artifact:
    """Merge the adapters in ``job.inputs``, with their weights, into their base.

    Adapters trained on a quantized base are merged into the weights that training computed with and, if there is
    held-out data, also into the base as it is stored; the result with the lower loss is kept.

    Raises:
        InfeasiblePlan: The adapter's type cannot be merged, or the base is quantized.
        InputError: The adapters do not fit the base or one another, or files are damaged.
        FtregError: The merge changes nothing.
    """
    assert isinstance(job.config, MergeConfig)
    adapters = [(each.source.path, each.weight) for each in job.inputs]
    base_source = job.source.parent("base")
    _check_bases(job, base_source)
    quantization = base_quantization(job.source)
    check_mergeable(adapters, quantized=quantization is not None)
    check_settings(job.config, adapters, quantized=quantization is not None)
    measured: dict[str, Any] = {}
    base = Checkpoint(base_source.path)
    base.require_full_precision("merge")
    if quantization is None:
        written, onto = _write(job, base, adapters, job.staging), "original"
    else:
        written, onto = _merge_quantized(job, base, adapters, quantization, measured)
    tolerance = equal_within(base.dtype, written.dtype)
    if quantization is not None:
        tolerance = _DEQUANTIZED if onto == "dequantized" else _ORIGINAL
    if len(job.inputs) > 1 or job.inputs[0].weight != 1.0:
        tolerance = Tolerance()  # a combination is meant to differ from each adapter: measured, not checked
    facts = {
        **describe(job.staging),
        "merged_onto": onto,
        "changed_tensors": written.changed,
        "untied_embeddings": written.untied,
    }
    checked = written.check is not None and written.check.complete
    if written.check is not None:
        measured |= {"modules_checked": written.check.modules, "largest_module_error": written.check.error}
    return Artifact(kind=CHECKPOINT, facts=facts, tolerance=tolerance, checked=checked, measured=measured)


def _check_bases(job: StepJob, base: Source) -> None:
    """Raise ``InputError`` if the adapters to be combined belong to different bases."""
    for other in job.inputs[1:]:
        if other.source.manifest.parent("base") != base.digest:
            raise InputError(
                f"{other.source.ref} and {job.source.ref} were trained on different bases",
                hint="Only adapters of the same base can be combined.",
            )


def _merge_quantized(
    job: StepJob, base: Checkpoint, adapters: Adapters, quantization: dict[str, Any], measured: dict[str, Any]
) -> tuple[_Written, str]:
    """Merge into the dequantized base, the original one, or both, and keep the result with the lower held-out loss.

    If both are made, their losses are put into ``measured``. Return the result, and which of the two it is.
    """
    assert isinstance(job.config, MergeConfig)
    held_out = job.data.validation or job.data.test
    both = job.config.onto == "auto" and held_out
    choices = ["dequantized", "original"] if both else [job.config.onto.replace("auto", "dequantized")]
    results: dict[str, _Written] = {}
    losses: dict[str, float] = {}
    for choice in choices:
        folder = job.staging / choice
        folder.mkdir()
        transform = RoundTrip(base.folder, quantization) if choice == "dequantized" else None
        results[choice] = _write(job, base, adapters, folder, transform)
        if both:
            engine = load_checkpoint(folder, "auto")
            losses[choice] = held_out_loss(engine, held_out)
            engine.close()
    best = min(choices, key=lambda choice: losses.get(choice, math.inf))
    if losses:
        measured["held_out_loss"] = losses
        job.progress.say("held-out loss: " + ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items()))
    for choice in choices:
        if choice == best:
            for file in (job.staging / choice).iterdir():
                file.rename(job.staging / file.name)
        shutil.rmtree(job.staging / choice)
    return results[best], best


def _write(
    job: StepJob, base: Checkpoint, adapters: Adapters, folder: Path, transform: Transform | None = None
) -> _Written:
    """Merge, and write the checkpoint with its configuration and tokenizer into ``folder``."""
    assert isinstance(job.config, MergeConfig)
    asked = None if job.config.dtype == "auto" else getattr(torch, job.config.dtype)
    dtype = asked or base.dtype
    streamed = all(can_stream(read_peft_config(path)) for path, _ in adapters)
    merge = StreamedMerge(base, adapters, job.config, job.seed, transform) if streamed else None
    if merge is not None and merge.possible:
        changed = _stream(job, merge, folder, asked)
        changes: dict[str, Any] = {"tie_word_embeddings": False} if merge.untied else {}
        if asked is not None:
            changes["dtype"] = dtype_name(asked)
        copy_config(folder, base, **changes)
        untied = merge.untied
    else:
        model = merge_in_memory(base.folder, adapters, job.config, job.seed, transform).to(dtype)
        with quiet():
            model.save_pretrained(folder)
        untied = bool(base.config.get("tie_word_embeddings")) and not model.config.tie_word_embeddings
        changed = _count_changed(base, folder)
    copy_tokenizer(folder, adapters[0][0], base.folder)
    if not changed:
        raise FtregError(
            f"merging changes no weight of the base: in {dtype_name(dtype)}, the adapter's updates round to zero",
            where=job.source.ref,
            hint="If the adapter was trained, set dtype=float32.",
        )
    return _Written(changed, untied, dtype, merge.check if merge is not None and merge.possible else None)


def _stream(job: StepJob, merge: StreamedMerge, folder: Path, asked: torch.dtype | None) -> int:
    """Write the merged weights, then the base's others, one at a time; return how many differ from the base's."""
    plan = {
        name: TensorInfo(asked if asked is not None and info.dtype.is_floating_point else info.dtype, info.shape)
        for name, info in merge.plan().items()
    }
    changed = 0

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        nonlocal changed
        others = dict(plan)
        for name, tensor in merge.tensors():
            del others[name]
            result = tensor.to(plan[name].dtype)
            origin = merge.source(name)
            changed += origin is None or not torch.equal(result, merge.base_tensor(origin).to(result.dtype))
            job.progress.update(len(plan) - len(others))
            yield name, result
            del tensor, result  # before the next module takes memory
        for done, name in enumerate(others, start=len(plan) - len(others) + 1):
            job.progress.update(done)
            yield name, merge.base_tensor(name)

    job.progress.begin("merging", len(plan), unit="tensors")
    write_weights(folder, plan, tensors())
    job.progress.end()
    return changed


def _count_changed(base: Checkpoint, folder: Path) -> int:
    """Return how many tensors of the checkpoint in ``folder`` differ from the base's."""
    result = Checkpoint(folder)
    return sum(
        name not in base.tensors or not torch.equal(result.read(name), base.read(name).to(info.dtype))
        for name, info in result.tensors.items()
    )
