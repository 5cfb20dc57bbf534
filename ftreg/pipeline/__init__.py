"""The pipeline: resolves what a recipe names, checks that it is feasible, runs it, certifies and publishes."""
