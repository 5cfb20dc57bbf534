"""The built-in training methods."""

from __future__ import annotations

from collections.abc import Sequence

from ftreg.core.types import ADAPTER, CHECKPOINT
from ftreg.plugin import (
    ALL_WEIGHTS,
    FULL_PRECISION,
    GRADIENT_CHECKPOINTING,
    MERGEABLE,
    OBJECTIVES,
    MethodSpec,
    Requirement,
    hookimpl,
)

_TORCH = tuple(Requirement(package, "ftreg[train]") for package in ("torch", "transformers", "safetensors"))
_PEFT = (*_TORCH, Requirement("peft", "ftreg[train]"))


@hookimpl
def ftreg_methods() -> Sequence[MethodSpec]:
    """Contribute full, lora, qlora and prefix."""
    return [
        MethodSpec(
            name="full",
            summary="Train all weights; also pre-trains an untrained base.",
            impl="ftreg.plugins.methods.full:train",
            config="ftreg.plugins.methods.config:FullConfig",
            requires=_TORCH,
            produces=CHECKPOINT,
            trains=frozenset({ALL_WEIGHTS, GRADIENT_CHECKPOINTING, OBJECTIVES}),
            capabilities=frozenset({FULL_PRECISION}),
        ),
        MethodSpec(
            name="lora",
            summary="Train low-rank updates of the linear layers, by default of all of them.",
            impl="ftreg.plugins.methods.lora:train",
            config="ftreg.plugins.methods.config:LoraConfig",
            requires=_PEFT,
            produces=ADAPTER,
            trains=frozenset({GRADIENT_CHECKPOINTING, OBJECTIVES}),
            capabilities=frozenset({MERGEABLE}),
        ),
        MethodSpec(
            name="qlora",
            summary="LoRA on a base that is held in 4 bits, by bitsandbytes.",
            impl="ftreg.plugins.methods.qlora:train",
            config="ftreg.plugins.methods.config:QloraConfig",
            requires=(*_PEFT, Requirement("bitsandbytes", "ftreg[train]")),
            produces=ADAPTER,
            trains=frozenset({GRADIENT_CHECKPOINTING, OBJECTIVES}),
            capabilities=frozenset({MERGEABLE}),
            check="ftreg.plugins.methods.qlora:check",
        ),
        MethodSpec(
            name="prefix",
            summary="Train keys and values that stand before every prompt.",
            impl="ftreg.plugins.methods.prefix:train",
            config="ftreg.plugins.methods.config:PrefixConfig",
            requires=_PEFT,
            produces=ADAPTER,
            trains=frozenset({OBJECTIVES}),
            check="ftreg.plugins.methods.prefix:check",
        ),
    ]
