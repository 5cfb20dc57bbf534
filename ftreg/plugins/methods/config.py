"""The configurations of the built-in methods; apart from them, so that a recipe is checked without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ftreg.core.recipe import Config


class FullConfig(Config):
    """What can be set for full fine-tuning."""

    dtype: Literal["base", "float32", "bfloat16", "float16"] = Field(
        "base", description="dtype of the saved weights; base: that of the base's. Training itself is in float32"
    )


class LoraConfig(Config):
    """What can be set for LoRA."""

    rank: int = Field(16, gt=0, description="rank of the update: more is more to learn, and more to store")
    alpha: float = Field(32, gt=0, description="scale of the update, which is multiplied by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of the update's inputs that is dropped in training")
    target_modules: Literal["all-linear"] | tuple[str, ...] = Field(
        "all-linear",
        description="names of the layers to update, such as [q_proj, v_proj]; all-linear: all but the head",
    )
    modules_to_save: tuple[str, ...] = Field((), description="layers to train in full and store with the adapter")
    bias: Literal["none", "all", "lora_only"] = Field("none", description="which bias vectors to train as well")
    rslora: bool = Field(False, description="scale by alpha / sqrt(rank), better at high ranks (arXiv:2312.03732)")
    dora: bool = Field(False, description="learn magnitude and direction apart (arXiv:2402.09353); slower")
    # PiSSA and OLoRA are not here: they change the base, to which the adapter then no longer fits.
    init: Literal["kaiming", "gaussian", "orthogonal"] = Field(
        "kaiming", description="how the update starts; with all of them the model starts as the base"
    )


class QloraConfig(LoraConfig):
    """What can be set for QLoRA: all that LoRA has, and how the base is quantized."""

    quant_type: Literal["nf4", "fp4"] = Field("nf4", description="4-bit data type; nf4 fits normal weights better")
    double_quant: bool = Field(True, description="quantize the scales too: 0.4 bits per weight less")


class PrefixConfig(Config):
    """What can be set for prefix tuning."""

    num_virtual_tokens: int = Field(20, gt=0, description="positions of the prefix: more is more to learn")
    projection: bool = Field(False, description="train the prefix through a two-layer network, as the paper does")
    hidden_size: int | None = Field(None, gt=0, description="width of that network; by default the model's own")
    init: Literal["random", "zero"] = Field("random", description="how the prefix starts")
