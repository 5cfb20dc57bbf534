"""The configurations of the built-in steps."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field, model_validator

from ftreg.compat.gptqmodel import GPTQMODEL, OPTIMUM
from ftreg.core.recipe import Config
from ftreg.core.requirements import Requirement


class MergeConfig(Config):
    """How adapters are merged."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="dtype of the result; auto: the base's. The merge is always computed in float32"
    )
    onto: Literal["auto", "dequantized", "original"] = Field(
        "auto",
        description="for adapters trained on a quantized base, the weights to add the update to: what training "
        "computed with (dequantized), the base as it is stored (original), or whichever has the lower held-out loss "
        "(auto)",
    )
    combination: Literal["cat", "svd", "linear", "ties", "dare_linear", "dare_ties", "magnitude_prune"] = Field(
        "cat",
        description="how several adapters are combined, under PEFT's names. cat: the exact weighted sum; ties, "
        "dare_ties and the like reduce interference between adapters for different tasks, at a density of 0.2-0.7",
    )
    density: float = Field(
        0.5,
        gt=0,
        le=1,
        description="share of an update's values that ties, dare_linear, dare_ties and magnitude_prune keep; 0.2-0.7 "
        "is usual",
    )

    def unused(self) -> Iterable[tuple[str, tuple[str, ...]]]:
        """The others keep all of an update's values."""
        if self.combination in ("cat", "svd", "linear"):
            yield "combinations ties, dare_linear, dare_ties and magnitude_prune", ("density",)


class CalibrationConfig(Config):
    """How much text a step observes the model on, where it does."""

    rows: int = Field(
        32,
        gt=0,
        description="rows of calibration text, taken at random from the training data of the lineage; 16-128 is usual",
    )
    length: int = Field(
        256,
        gt=1,
        description="tokens of each of these rows, at most the model's context; memory and time grow with rows x "
        "length: about 8,000 tokens in all do for most models",
    )


class QuantizeConfig(CalibrationConfig):
    """How weights are quantized."""

    scheme: Literal["int8", "nf4", "gptq", "awq"] = Field(
        "int8",
        description="int8: LLM.int8(), half the size of 16-bit weights, hardly any loss; nf4: 4-bit NormalFloat, "
        "about a quarter of it, a small loss; gptq: 2 to 8 bits, and awq: 4 bits, both calibrated on training data of "
        "the lineage, in formats that other engines read too",
    )
    bits: Literal[2, 3, 4, 8] | None = Field(
        None, description="for gptq, by default 4: bits of a weight; 8 and 4 lose little, 3 more, 2 is for experiments"
    )
    group_size: Literal[32, 64, 128, -1] | None = Field(
        None,
        description="for gptq and awq, by default 128, or what fits the layers: weights of a row that share a scale; "
        "fewer lose less and take more bytes; -1: all of a row",
    )
    double_quant: bool = Field(
        True, description="for nf4: quantize the scales too; saves about 0.4 bits per weight at almost no loss"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="dtype of the computation and of the weights that are not quantized; auto: bfloat16 for nf4 and "
        "for bfloat16 checkpoints, float16 otherwise; not float32 for awq",
    )

    def unused(self) -> Iterable[tuple[str, tuple[str, ...]]]:
        """Only two schemes calibrate, only one has a choice of bits, and only one has scales to quantize."""
        if self.scheme not in ("gptq", "awq"):
            yield "schemes gptq and awq", ("rows", "length", "group_size")
        if self.scheme != "gptq":
            yield "scheme gptq", ("bits",)
        if self.scheme != "nf4":
            yield "scheme nf4", ("double_quant",)

    def requires(self) -> tuple[Requirement, ...]:
        """Two schemes need packages of their own."""
        return {"gptq": (OPTIMUM, GPTQMODEL), "awq": (GPTQMODEL,)}.get(self.scheme, ())

    @model_validator(mode="after")
    def _dtype_fits(self) -> QuantizeConfig:
        if self.scheme == "awq" and self.dtype == "float32":
            raise ValueError("scheme awq computes in 16 bits; leave dtype out, or choose bfloat16 or float16")
        return self


class PruneConfig(CalibrationConfig):
    """Which weights become zero."""

    criterion: Literal["magnitude", "wanda"] = Field(
        "magnitude",
        description="what makes a weight unimportant. magnitude: its own size, which needs no data; wanda: its size "
        "times the norm of what it is multiplied with on calibration text (arXiv:2306.11695), better for large models, "
        "whose inputs differ much in scale",
    )
    sparsity: float = Field(
        0.3,
        gt=0,
        lt=1,
        description="share of the weights of linear layers and experts that becomes zero; 0.1-0.3 usually costs "
        "little, 0.5 and more needs further training; a pattern N:M sets it itself",
    )
    scope: Literal["layer", "global"] = Field(
        "layer",
        description="for magnitude. layer: the smallest weights of each matrix, the same share of each; global: the "
        "smallest weights of all matrices together. Wanda always takes the same share of each row",
    )
    pattern: str = Field(
        "unstructured",
        description="unstructured, or N:M: at most N of every M neighbouring weights along the inputs are kept, such "
        "as 2:4 (the pattern of sparse tensor cores), 4:8 or 1:4; the sparsity is then 1 - N/M",
    )

    @property
    def n_of_m(self) -> tuple[int, int] | None:
        """How many weights of how many neighbours are kept; None for no pattern."""
        return None if self.pattern == "unstructured" else _read_pattern(self.pattern)

    def unused(self) -> Iterable[tuple[str, tuple[str, ...]]]:
        """Magnitude needs no data; patterns and Wanda compare the weights of a row with one another."""
        if self.criterion != "wanda":
            yield "criterion wanda", ("rows", "length")
        if self.criterion == "wanda" or self.pattern != "unstructured":
            yield "criterion magnitude without a pattern", ("scope",)

    @model_validator(mode="before")
    @classmethod
    def _sparsity_of_pattern(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("pattern", "unstructured") != "unstructured":
            kept, group = _read_pattern(values["pattern"])
            return {"sparsity": 1 - kept / group, **values}
        return values

    @model_validator(mode="after")
    def _settings_fit(self) -> PruneConfig:
        if self.n_of_m is not None:
            kept, group = self.n_of_m
            if self.sparsity != 1 - kept / group:
                raise ValueError(f"the pattern {self.pattern} has sparsity {1 - kept / group:g}; leave sparsity out")
        return self


def _read_pattern(text: Any) -> tuple[int, int]:
    """Return N and M of the pattern ``N:M``; raise ``ValueError`` for anything else."""
    found = re.fullmatch(r"(\d{1,4}):(\d{1,4})", text) if isinstance(text, str) else None
    if found is None or not 0 < int(found[1]) < int(found[2]):
        raise ValueError(f"pattern {text!r} is neither unstructured nor N:M with 0 < N < M, such as 2:4")
    return int(found[1]), int(found[2])


class DropLayersConfig(CalibrationConfig):
    """Which decoder layers are removed."""

    layers: tuple[int, ...] | None = Field(
        None, min_length=1, description="numbers of the layers to remove, from 0, such as [3, 7]; or give count"
    )
    count: int | None = Field(
        None,
        gt=0,
        description="how many layers to remove: those that change the hidden states least on calibration text (block "
        "influence, arXiv:2403.03853); a quarter of them is about the most that training recovers",
    )

    def unused(self) -> Iterable[tuple[str, tuple[str, ...]]]:
        """Layers that are named need not be chosen."""
        if self.layers is not None:
            yield "choosing layers by count", ("rows", "length")

    @model_validator(mode="after")
    def _one_of_both(self) -> DropLayersConfig:
        if (self.layers is None) == (self.count is None):
            raise ValueError("give either layers, such as [3, 7], or count")
        if self.layers is not None and (min(self.layers) < 0 or len(set(self.layers)) < len(self.layers)):
            raise ValueError("layers are different numbers from 0")
        return self


class OnnxConfig(Config):
    """How a checkpoint is exported."""

    precision: Literal["fp32", "fp16", "int8", "int4"] = Field(
        "fp32",
        description="how weights are stored; fp16: half the size, for GPUs above all; int8: about a quarter, hardly "
        "any loss; int4: about an eighth, the fastest on CPUs, a small loss",
    )
    quantizer: Literal["k_quant", "rtn"] = Field(
        "k_quant",
        description="int8 and int4: k_quant searches for the scales with the least error; rtn rounds to nearest, which "
        "is quicker",
    )
    block_size: Literal[16, 32, 64, 128, 256] = Field(
        32, description="int8 and int4: how many weights share a scale; fewer cost more bytes and lose less"
    )
    provider: Literal["cpu", "cuda"] = Field(
        "cpu",
        description="execution provider that a graph of onnxruntime-genai's builder is written for; a traced graph is "
        "the same for all providers",
    )
    runtime: Literal["auto", "genai", "transformers"] = Field(
        "auto",
        description="what writes the graph: onnxruntime-genai's model builder (genai), transformers' exporter "
        "(transformers), or the builder for the models that it exports correctly, otherwise the exporter (auto)",
    )

    def unused(self) -> Iterable[tuple[str, tuple[str, ...]]]:
        """Weights that are not quantized have no blocks, and a traced graph is the same for all providers."""
        if self.bits is None:
            yield "precisions int8 and int4", ("quantizer", "block_size")
        if self.runtime == "transformers":
            yield "runtime genai", ("provider",)

    @property
    def bits(self) -> int | None:
        """The bits of a quantized weight; None if weights are not quantized."""
        return {"int8": 8, "int4": 4}.get(self.precision)
