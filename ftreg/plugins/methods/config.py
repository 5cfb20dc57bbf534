"""The configurations of the built-in methods; in a module without torch, so that recipes are checked without it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field, model_validator

from ftreg.core.recipe import Config


class FullConfig(Config):
    """Settings of full fine-tuning."""

    dtype: Literal["base", "float32", "bfloat16", "float16"] = Field(
        "base",
        description="dtype of the saved weights; base: the base's own. The trained weights are float32 during "
        "training, whatever is set here",
    )
    keep_zeros: bool = Field(
        False,
        description="leave the zeros in the matrices of linear layers and experts as they are: trains a pruned base "
        "without losing its sparsity or its pattern",
    )


class LoraConfig(Config):
    """Settings of LoRA."""

    rank: int = Field(
        16,
        gt=0,
        description="rank of the update: 8-64 is usual, up to 256 for new knowledge or languages; size and memory grow "
        "with it",
    )
    alpha: float = Field(
        32,
        gt=0,
        description="scale of the update, which is multiplied by alpha / rank; once to twice the rank is usual",
    )
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the update's inputs that is dropped during training; 0.05-0.1 against overfitting on a "
        "few hundred examples, 0 otherwise",
    )
    target_modules: Literal["all-linear"] | tuple[str, ...] = Field(
        "all-linear",
        description="names of the layers to update, such as [q_proj, v_proj]; all-linear: all linear layers except the "
        "output head, usually the best for quality",
    )
    modules_to_save: tuple[str, ...] = Field(
        (),
        description="names of layers to train in full and store with the adapter, such as [embed_tokens, lm_head] "
        "after adding tokens; makes the adapter large",
    )
    bias: Literal["none", "all", "lora_only"] = Field(
        "none",
        description="bias vectors to train as well: none, those of the updated layers (lora_only), or all; an adapter "
        "with biases cannot share a batch with others when served",
    )
    rslora: bool = Field(
        False, description="scale by alpha / sqrt(rank) instead; helps at ranks of 64 and more (arXiv:2312.03732)"
    )
    dora: bool = Field(
        False,
        description="train magnitude and direction separately (arXiv:2402.09353): slightly better at ranks of 16 and "
        "less, slower; such an adapter cannot share a batch with others when served",
    )
    init: Literal["kaiming", "gaussian", "orthogonal", "pissa", "olora"] = Field(
        "kaiming",
        description="initialization of the update; with each of them, training starts at the base's own outputs. pissa "
        "(arXiv:2404.02948) and olora (arXiv:2406.01775) start with the main directions of the weights and often learn "
        "faster; the saved adapter fits the base as it is, like any other, and has twice the rank; not with qlora",
    )


class QloraConfig(LoraConfig):
    """Settings of QLoRA: those of LoRA, and how the base is quantized."""

    quant_type: Literal["nf4", "fp4"] = Field(
        "nf4", description="4-bit data type; nf4 fits normally distributed weights better and is the usual choice"
    )
    double_quant: bool = Field(
        True, description="quantize the scales too; saves about 0.4 bits per weight at almost no loss"
    )

    @model_validator(mode="after")
    def _start_leaves_the_base(self) -> QloraConfig:
        if self.init in ("pissa", "olora"):
            raise ValueError(f"init {self.init} changes weights, which qlora holds in 4 bits; use method lora")
        return self


class PrefixConfig(Config):
    """Settings of prefix tuning."""

    num_virtual_tokens: int = Field(
        20, gt=0, description="length of the prefix, which is taken from the context: 10-100 is usual"
    )
    projection: bool = Field(
        False,
        description="train the prefix through a two-layer network, as the paper does: steadier with few examples, "
        "slower; the network is not stored",
    )
    hidden_size: int | None = Field(
        None, gt=0, description="width of that network; by default the model's own, 512 is enough for most"
    )
    init: Literal["random", "zero"] = Field("random", description="initial values of the prefix")

    def unused(self) -> Iterable[tuple[str, tuple[str, ...]]]:
        """Yield the width of the projection's network if there is no projection."""
        if not self.projection:
            yield "a prefix with projection", ("hidden_size",)
