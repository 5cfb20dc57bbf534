"""What each of the libraries that quantize returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ftreg.core.manifest import Json
from ftreg.core.requirements import Requirement
from ftreg.models.matrices import Coverage


@dataclass(frozen=True)
class Quantized:
    """A model that was written with quantized weights.

    Attributes:
        settings: ``quantization_config`` for its configuration, from which transformers knows how to load it.
        bits: The bits of a quantized weight.
        covered: How many of its weights are quantized.
        requires: What loading it needs.
    """

    settings: Mapping[str, Json]
    bits: int
    covered: Coverage
    requires: tuple[Requirement, ...]
