"""Built-in post-processing steps: what can be done with a trained version."""

from __future__ import annotations

from ftreg.plugin import FULL_PRECISION, MERGEABLE, Requirement, StepSpec, hookimpl

_FULL = frozenset({FULL_PRECISION})


def _requires(extra: str, *packages: str) -> tuple[Requirement, ...]:
    return tuple(Requirement(package, f"ftreg[{extra}]") for package in packages)


@hookimpl
def ftreg_steps() -> list[StepSpec]:
    """The built-in steps."""
    return [
        StepSpec(
            name="merge",
            summary="Add an adapter, or several, to the weights of the base model",
            impl="ftreg.plugins.post.merge:apply",
            config="ftreg.plugins.post.config:MergeConfig",
            requires=_requires("train", "torch", "transformers", "peft", "bitsandbytes", "safetensors"),
            accepts=("adapter",),
            produces="checkpoint",
            needs=frozenset({MERGEABLE}),
            capabilities=_FULL,
            combines="adapter",
            suffix="merged",
        ),
        StepSpec(
            name="quantize",
            summary="Store weights in 8 or 4 bits (bitsandbytes), in 2 to 8 (GPTQ), or in 4 (AWQ)",
            impl="ftreg.plugins.post.quantize.step:apply",
            config="ftreg.plugins.post.config:QuantizeConfig",
            requires=_requires("train", "torch", "transformers", "accelerate", "bitsandbytes", "safetensors"),
            needs=_FULL,
            suffix="quantized",
            check="ftreg.plugins.post.quantize.step:check",
        ),
        StepSpec(
            name="prune",
            summary="Set the least important weights to zero, in any share or in a pattern such as 2:4",
            impl="ftreg.plugins.post.prune.step:apply",
            config="ftreg.plugins.post.config:PruneConfig",
            requires=_requires("train", "torch", "transformers", "safetensors"),
            needs=_FULL,
            capabilities=_FULL,
            suffix="pruned",
            check="ftreg.plugins.post.prune.step:check",
        ),
        StepSpec(
            name="drop-layers",
            summary="Remove whole decoder layers, for a smaller and faster model that is then trained to recover",
            impl="ftreg.plugins.post.drop_layers.step:apply",
            config="ftreg.plugins.post.config:DropLayersConfig",
            requires=_requires("train", "torch", "transformers", "safetensors"),
            needs=_FULL,
            capabilities=_FULL,
            suffix="shallow",
            check="ftreg.plugins.post.drop_layers.step:check",
        ),
        StepSpec(
            name="onnx",
            summary="Export to ONNX with a KV cache, in 32, 16, 8 or 4 bits, for ONNX Runtime and onnxruntime-genai",
            impl="ftreg.plugins.post.onnx.step:apply",
            config="ftreg.plugins.post.config:OnnxConfig",
            requires=(
                *_requires("train", "torch", "transformers"),
                *_requires("onnx", "onnx", "onnxruntime", "onnxruntime-genai", "onnxscript"),
            ),
            produces="onnx",
            needs=_FULL,
            suffix="onnx",
            check="ftreg.plugins.post.onnx.step:check",
        ),
    ]
