"""Capabilities: what can be done with a result, and how a method can train. Plugins may add names of their own."""

from __future__ import annotations

MERGEABLE = "mergeable"
"""Of a result: an adapter that can be merged into its base. Step ``merge`` needs it."""

FULL_PRECISION = "full-precision"
"""Of a result: a checkpoint whose weights are plain tensors, not packed into a quantized layout. The steps that change
or export weights need it."""

GRADIENT_CHECKPOINTING = "gradient-checkpointing"
"""Of a method: it can train with ``train.gradient_checkpointing``."""

OBJECTIVES = "objectives"
"""Of a method: it trains with ``ftreg.training.fit``, so that it minimizes whatever ``objective`` a recipe names."""

ALL_WEIGHTS = "all-weights"
"""Of a method: it trains all weights of the base, in float32, so its checkpoints hold all of them and the optimizer's
state. The check of the disk before a training counts them."""
