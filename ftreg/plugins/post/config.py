"""The configurations of the built-in steps."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ftreg.core.recipe import Config


class MergeConfig(Config):
    """How an adapter is merged."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="of the result; auto keeps the base's. Computed in float32 always"
    )
    onto: Literal["auto", "dequantized", "original"] = Field(
        "auto",
        description="for adapters trained on a quantized base: its weights as training saw them (dequantized), as they "
        "are stored (original), or whichever has the lower held-out loss (auto)",
    )
    combination: Literal["cat", "svd", "linear", "ties", "dare_linear", "dare_ties", "magnitude_prune"] = Field(
        "cat", description="how several adapters are combined, by the names PEFT gives; cat is the exact weighted sum"
    )
    density: float = Field(0.5, gt=0, le=1, description="share of values kept by ties, dare and magnitude_prune")


class QuantizeConfig(Config):
    """How weights are quantized."""

    scheme: Literal["int8", "nf4"] = Field("int8", description="LLM.int8(), or 4-bit NormalFloat")
    double_quant: bool = Field(True, description="nf4: quantize the scales too; saves 0.4 bits a weight")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="of what stays as it is, and of the computation; auto: bfloat16 for nf4 and for bfloat16 "
        "checkpoints, else float16",
    )


class PruneConfig(Config):
    """Which weights become zero."""

    sparsity: float = Field(0.3, gt=0, lt=1, description="share of the linear layers' weights that become zero")
    scope: Literal["layer", "global"] = Field(
        "layer", description="layer: that share of each matrix; global: of all together, wherever the smallest are"
    )
    pattern: Literal["unstructured", "2:4"] = Field(
        "unstructured", description="2:4: two of each four neighbouring weights, the pattern of sparse tensor cores"
    )

    @model_validator(mode="after")
    def _half_for_2_4(self) -> PruneConfig:
        if self.pattern == "2:4" and (self.sparsity != 0.5 or self.scope != "layer"):
            raise ValueError("the pattern 2:4 needs sparsity 0.5 and scope layer")
        return self


class OnnxConfig(Config):
    """What the export is for."""

    precision: Literal["fp32", "fp16", "int4"] = Field("fp32", description="of the weights in the graph")
    runtime: Literal["auto", "genai", "transformers"] = Field(
        "auto",
        description="who writes the graph: onnxruntime-genai's model builder, transformers' exporter, or (auto) the "
        "builder for the model families that it knows",
    )
