"""Names of what results can be used for, and of how methods can train. Plugins may add names of their own."""

from __future__ import annotations

MERGEABLE = "mergeable"
"""Of a result: an adapter that can be merged into its base. Needed by step ``merge``."""

FULL_PRECISION = "full-precision"
"""Of a result: a checkpoint whose weights are plain tensors, not packed into a quantized layout. Needed by the steps
that change or export weights."""

GRADIENT_CHECKPOINTING = "gradient-checkpointing"
"""Of a method: it can train with ``train.gradient_checkpointing``."""
