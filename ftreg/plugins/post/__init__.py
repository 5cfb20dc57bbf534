"""The room plugins.post."""
