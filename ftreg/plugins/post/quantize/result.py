"""What each of the libraries that quantize returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ftreg.core.manifest import Json
from ftreg.core.requirements import Requirement
from ftreg.models.matrices import Coverage


@dataclass(frozen=True)
class Quantized:
    """A model with quantized weights.

    Attributes:
        model: The model, as ``save_pretrained`` saves it.
        settings: ``quantization_config`` for its configuration, from which transformers knows how to load it.
        bits: The bits of a quantized weight.
        covered: How many of its weights are quantized.
        requires: What loading it needs.
    """

    model: Any
    settings: Mapping[str, Json]
    bits: int
    covered: Coverage
    requires: tuple[Requirement, ...]
