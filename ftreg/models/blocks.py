"""Blocks: the decoder layers of a model, one after the other, each of which reads and writes the hidden states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ftreg.core.errors import InfeasiblePlan


def find_blocks(model: Any) -> tuple[str, nn.ModuleList]:
    """Return the name, in the model, of the list that holds its decoder layers, and the list.

    The model may be on the meta device.

    Raises:
        InfeasiblePlan: No list of modules is as long as the model has layers, or several are.
    """
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    inner = {name for name in lists for outer in lists if name.startswith(f"{outer}.")}
    found = [name for name, module in lists.items() if len(module) == count and name not in inner]
    if len(found) != 1:
        which = f"{' and '.join(found)} could all be them" if found else "no list of modules has their number"
        raise InfeasiblePlan(f"the decoder layers of {type(model).__name__} cannot be told: {which}")
    return found[0], lists[found[0]]


def hidden_states_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.Tensor:
    """Return the hidden states, of shape (rows, tokens, width), among the arguments of a block."""
    found: torch.Tensor = args[0] if args else kwargs["hidden_states"]
    return found


def written_by(output: Any) -> torch.Tensor:
    """Return the hidden states that a block returned, alone or before other things."""
    found: torch.Tensor = output if isinstance(output, torch.Tensor) else output[0]
    return found
