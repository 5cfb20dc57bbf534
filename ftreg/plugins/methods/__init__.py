"""The room plugins.methods."""
