"""What schemes ``gptq`` and ``awq`` share: the layers that they quantize, which must fit, and a check of the result."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ftreg.core.errors import InfeasiblePlan, InputError
from ftreg.models.blocks import find_blocks
from ftreg.models.loading import check_computes, load_pretrained
from ftreg.models.skeleton import load_skeleton
from ftreg.plugins.post.config import QuantizeConfig

_GROUP_SIZES = (128, 64, 32)


@dataclass(frozen=True)
class Calibrated:
    """A scheme that is calibrated on text, and which layers it can quantize.

    Attributes:
        scheme: Its name.
        kinds: The kinds of layers that it quantizes.
        inputs: What a layer's inputs must be a multiple of.
        outputs: What its outputs must be a multiple of.
    """

    scheme: str
    kinds: tuple[type[nn.Module], ...]
    inputs: int
    outputs: int

    def widths(self, model: Any) -> dict[str, tuple[int, int]]:
        """Return the inputs and outputs of each layer that is quantized, by name; ``model`` may be a skeleton."""
        path, blocks = find_blocks(model)
        found: dict[str, tuple[int, int]] = {}
        for name, module in blocks.named_modules(prefix=path):
            if isinstance(module, self.kinds):
                linear = isinstance(module, nn.Linear)
                outputs, inputs = module.weight.shape if linear else reversed(module.weight.shape)
                found[name] = (inputs, outputs)
        return found

    def check(self, folder: Path, config: QuantizeConfig) -> None:
        """Raise ``InfeasiblePlan`` if a layer of the model in ``folder`` does not fit the scheme, or there are none."""
        model = load_skeleton(folder)
        widths = self.widths(model)
        if not widths:
            raise InfeasiblePlan(
                f"{self.scheme} can quantize nothing in {type(model).__name__}: its decoder layers have no linear "
                "layers",
                where=str(folder),
                hint="Keep the weights as they are.",
            )
        for name, (inputs, outputs) in widths.items():
            if inputs % self.inputs or outputs % self.outputs:
                raise InfeasiblePlan(
                    f"layer {name} has {inputs} inputs and {outputs} outputs; {self.scheme} needs multiples of "
                    f"{self.inputs} inputs and {self.outputs} outputs",
                    where=str(folder),
                    hint="Use scheme int8.",
                )
            if config.group_size is not None and config.group_size > 0 and inputs % config.group_size:
                raise InfeasiblePlan(
                    f"layer {name} has {inputs} inputs, which is not a multiple of the group size {config.group_size}",
                    where="quantize.group_size",
                    hint="Leave it out for the largest that fits.",
                )

    def check_result(self, folder: Path) -> None:
        """Raise ``InfeasiblePlan`` if transformers cannot load the result in ``folder``, or not compute with it."""
        try:
            model = load_pretrained(folder, device="cpu", dtype="auto")
        except InputError as error:
            raise InfeasiblePlan(f"with {self.scheme} weights, {error.message}", hint="Use scheme int8.") from error
        check_computes(model, f"With {self.scheme} weights")


def choose_group_size(config: QuantizeConfig, widths: Iterable[tuple[int, int]]) -> int:
    """Return the configured group size, or the largest that divides the inputs of all layers of these widths."""
    inputs = [width for width, _ in widths]
    return config.group_size or next(size for size in _GROUP_SIZES if not any(width % size for width in inputs))
