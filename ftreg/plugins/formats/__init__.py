"""The room plugins.formats."""
