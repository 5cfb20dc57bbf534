"""The room pipeline."""
