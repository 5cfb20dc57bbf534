"""optimum and gptqmodel: GPTQ without their output, and in the format that others read."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from ftreg.core.errors import InfeasiblePlan
from ftreg.core.manifest import Json
from ftreg.core.requirements import Requirement
from ftreg.core.types import Progress

if TYPE_CHECKING:
    import torch

OPTIMUM = Requirement("optimum", "ftreg[gptq]")
GPTQMODEL = Requirement("gptqmodel", "ftreg[gptq]")


def silence() -> None:
    """Stop gptqmodel from writing to standard output, where ``--json`` prints facts.

    PEFT imports it, wherever it is installed, for each adapter.
    """
    if Requirement("logbar", "").is_installed:
        from logbar import LogBar

        LogBar.shared().setLevel(logging.ERROR)


def quantize_with_gptq(
    model: Any, rows: torch.Tensor, *, bits: int, group_size: int, progress: Progress
) -> tuple[frozenset[str], Mapping[str, Json]]:
    """Quantize the linear layers in the decoder layers of a model, in place.

    Args:
        model: A model in float32.
        rows: Token ids to calibrate on, of shape (rows, tokens).
        bits: 2, 3, 4 or 8.
        group_size: How many weights of a row share a scale; -1 for all.
        progress: Where to report progress.

    Returns:
        The names of the layers, and ``quantization_config`` for the model's configuration. The weights are in the first
        version of the format, which all readers know.

    Raises:
        InfeasiblePlan: The libraries cannot quantize this family.
    """
    import torch
    from gptqmodel.utils.model import hf_convert_gptq_v2_to_v1_format
    from optimum.gptq import GPTQQuantizer

    calibration = [{"input_ids": row[None], "attention_mask": torch.ones_like(row[None])} for row in rows]
    # What one layer is called with fits the others only if all have the same attention.
    alike = len(set(getattr(model.config.get_text_config(), "layer_types", None) or [])) <= 1
    quantizer = GPTQQuantizer(bits=bits, group_size=group_size, dataset=calibration, cache_block_outputs=alike)

    def bar(items: Any, *, leave: bool = True, **_: Any) -> Iterable[Any]:
        return _counted(items, progress) if leave else items  # the inner bars, of one layer each, leave nothing

    try:
        with patch("optimum.gptq.quantizer.tqdm", bar):
            quantizer.quantize_model(model)
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError, NotImplementedError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        reason = " ".join(str(error).split())[:200]
        raise InfeasiblePlan(
            f"gptq cannot quantize {type(model).__name__}: {type(error).__name__}: {reason}", hint="Use scheme int8."
        ) from error
    layers = {name for name, module in model.named_modules() if isinstance(module, quantizer.quant_linear)}
    hf_convert_gptq_v2_to_v1_format(
        model, quantizer.sym, quantizer.bits, quantizer.quant_linear, quantizer.format, quantizer.meta
    )
    quantizer.dataset, quantizer.format = None, "gptq"
    settings = quantizer.to_dict()
    model.config.quantization_config = settings
    return frozenset(layers), {**settings, "checkpoint_format": settings["format"]}


def _counted(layers: Sequence[Any], progress: Progress) -> Iterator[Any]:
    """Yield each of the decoder layers, and report how many are done."""
    progress.begin("quantizing to gptq", len(layers), unit="layers")
    for done, layer in enumerate(layers, start=1):
        yield layer
        progress.update(done)
    progress.end()
