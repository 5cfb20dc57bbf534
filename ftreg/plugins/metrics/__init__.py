"""The room plugins.metrics."""
