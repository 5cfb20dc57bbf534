"""Built-in engines: what loads a version and lets it answer."""

from __future__ import annotations

import logging

from ftreg.plugin import EngineSpec, Requirement, hookimpl

_TORCH = tuple(Requirement(package, "ftreg[train]") for package in ("torch", "transformers", "accelerate", "peft"))
_ONNX = (
    Requirement("transformers", "ftreg[train]"),
    Requirement("onnx", "ftreg[onnx]"),
    Requirement("onnxruntime", "ftreg[onnx]"),
)

# It remarks on optional kernels when it is imported, and on every product of an int8 layer, from the first import on.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


@hookimpl
def ftreg_engines() -> list[EngineSpec]:
    """The built-in engines."""
    return [
        EngineSpec(
            name="transformers",
            summary="PyTorch with transformers: checkpoints, bitsandbytes checkpoints, PEFT adapters",
            impl="ftreg.plugins.engines.transformers:load",
            serve="ftreg.plugins.engines.transformers_serving:serve",
            check="ftreg.plugins.engines.checks:check_transformers",
            requires=_TORCH,
            kinds=("checkpoint", "adapter"),
        ),
        EngineSpec(
            name="onnx",
            summary="ONNX Runtime with a KV cache: exports, and other decoder graphs",
            impl="ftreg.plugins.engines.onnx:load",
            serve="ftreg.plugins.engines.onnx:serve",
            check="ftreg.plugins.engines.checks:check_onnx",
            requires=_ONNX,
            kinds=("onnx",),
        ),
    ]
