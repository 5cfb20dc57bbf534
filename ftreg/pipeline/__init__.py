"""The pipeline: opens the inputs of a recipe, checks it, runs it, and certifies and publishes the results."""
