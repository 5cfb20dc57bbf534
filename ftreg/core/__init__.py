"""Shared vocabulary: types, specs, hooks, names, errors. Imports nothing heavier than pydantic."""
