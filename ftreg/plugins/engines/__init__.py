"""The room plugins.engines."""
