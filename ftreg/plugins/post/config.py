"""The configurations of the built-in steps."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from ftreg.core.recipe import Config


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


class QuantizeConfig(Config):
    """How weights are quantized."""

    scheme: Literal["int8", "nf4"] = Field(
        "int8",
        description="int8: LLM.int8(), half the size of 16-bit weights, hardly any loss; nf4: 4-bit NormalFloat, "
        "about a quarter of it, a small loss",
    )
    double_quant: bool = Field(
        True, description="nf4: quantize the scales too; saves about 0.4 bits per weight at almost no loss"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="dtype of the computation and of the weights that are not quantized; auto: bfloat16 for nf4 and "
        "for bfloat16 checkpoints, float16 otherwise",
    )


class PruneConfig(Config):
    """Which weights become zero."""

    sparsity: float = Field(
        0.3,
        gt=0,
        lt=1,
        description="share of the weights of linear layers and experts that becomes zero; 0.1-0.3 usually costs "
        "little, 0.5 and more needs further training",
    )
    scope: Literal["layer", "global"] = Field(
        "layer",
        description="layer: the smallest weights of each matrix, the same share of each; global: the smallest weights "
        "of all matrices together",
    )
    pattern: Literal["unstructured", "2:4"] = Field(
        "unstructured",
        description="2:4: two of every four neighbouring weights, the pattern of sparse tensor cores, which makes "
        "sparsity 0.5",
    )

    @model_validator(mode="before")
    @classmethod
    def _half_for_2_4(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("pattern") == "2:4":
            return {"sparsity": 0.5, **values}
        return values

    @model_validator(mode="after")
    def _only_half_for_2_4(self) -> PruneConfig:
        if self.pattern == "2:4" and self.sparsity != 0.5:
            raise ValueError("the pattern 2:4 has sparsity 0.5; leave sparsity out")
        if self.pattern == "2:4" and self.scope != "layer":
            raise ValueError("the pattern 2:4 needs scope layer")
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

    @property
    def bits(self) -> int | None:
        """The bits of a quantized weight; None if weights are not quantized."""
        return {"int8": 8, "int4": 4}.get(self.precision)
