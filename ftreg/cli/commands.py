"""The table of ftreg's own commands."""

from __future__ import annotations

# Name -> import string, and the line that `ftreg --help` shows: it is repeated here so that help imports no command.
COMMANDS: dict[str, tuple[str, str]] = {
    "quickstart": ("ftreg.cli.quickstart:command", "Run the whole chain, offline, on a tiny model."),
    "init": ("ftreg.cli.init:command", "Create an untrained base model with a tokenizer of its own."),
    "data": ("ftreg.cli.data:command", "Check, summarize and preview training data."),
    "train": ("ftreg.cli.train:command", "Fine-tune a base model and register the result."),
    "distill": ("ftreg.cli.distill:command", "Train a model to answer like a larger one."),
    "run": ("ftreg.cli.run:command", "Run a recipe: train, then its steps; finished ones are reused."),
    "merge": ("ftreg.cli.steps:merge", "Merge an adapter into its base model."),
    "quantize": ("ftreg.cli.steps:quantize", "Store weights in fewer bits."),
    "prune": ("ftreg.cli.steps:prune", "Set the least important weights to zero."),
    "export": ("ftreg.cli.steps:export", "Export to ONNX, or copy a version's files to a folder."),
    "apply": ("ftreg.cli.steps:apply", "Apply any step, including those of plugins, to a version."),
    "eval": ("ftreg.cli.evaluate:evaluate", "Measure a version on held-out data."),
    "compare": ("ftreg.cli.evaluate:compare", "Measure several versions side by side."),
    "deploy": ("ftreg.cli.deploy:deploy", "Package versions as a Bento with A/B routing."),
    "serve": ("ftreg.cli.deploy:serve", "Serve one version with an OpenAI-compatible API."),
    "experiment": (
        "ftreg.cli.experiment:command",
        "Follow an A/B experiment, change its weights, promote a variant.",
    ),
    "models": ("ftreg.cli.models:command", "List, show, tag, alias and delete versions."),
    "lineage": ("ftreg.cli.lineage:command", "Show what a version was made from, and what was made from it."),
    "replay": ("ftreg.cli.history:replay", "Do again what made a version, and grade the result."),
    "bisect": ("ftreg.cli.history:bisect", "Find the step at which a version lost its quality."),
    "verify": ("ftreg.cli.upkeep:verify", "Check that the registry's files are complete and unchanged."),
    "gc": ("ftreg.cli.upkeep:gc", "Free the bytes that no version refers to."),
    "du": ("ftreg.cli.usage:command", "Show what takes how many bytes."),
    "plugins": ("ftreg.cli.plugins:command", "List plugins and what they provide."),
    "settings": ("ftreg.cli.settings:command", "List what --set and recipes can change."),
    "completion": ("ftreg.cli.completion:command", "Print the script that switches on completion in a shell."),
}
