"""Writing what a method trained as the files of a version."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftreg.core.manifest import Json
from ftreg.core.types import ADAPTER, CHECKPOINT, Artifact, TrainJob
from ftreg.models.facts import describe
from ftreg.models.quiet import quiet
from ftreg.training.loading import load_encoder

BASE = "base"
"""The base's name in an adapter's files: the lineage records which base it is, and a path would be local."""


def save_checkpoint(job: TrainJob, model: Any, measured: Mapping[str, Json] | None = None) -> Artifact:
    """Write a whole model and its tokenizer, with the run's chat template, into ``job.staging``.

    Args:
        job: The job.
        model: The trained model; tied weights are written once.
        measured: The figures that ``fit`` returned.
    """
    with quiet():
        model.save_pretrained(job.staging)
        load_encoder(job).tokenizer.save_pretrained(job.staging)
    return Artifact(kind=CHECKPOINT, facts=describe(job.staging), measured=dict(measured or {}))


def save_adapter(job: TrainJob, model: Any, measured: Mapping[str, Json] | None = None, **facts: Json) -> Artifact:
    """Write an adapter, and its tokenizer with the run's chat template, into ``job.staging``; no weights of the base.

    Args:
        job: The job.
        model: A model wrapped by PEFT.
        measured: The figures that ``fit`` returned.
        **facts: Further facts of the adapter, such as how its base was quantized.
    """
    with quiet():
        model.save_pretrained(job.staging, save_embedding_layers=False)
        load_encoder(job).tokenizer.save_pretrained(job.staging)
    (job.staging / "README.md").unlink()  # PEFT's model card names local paths
    _settle_config(job.staging / "adapter_config.json")
    return Artifact(kind=ADAPTER, facts={**describe(job.staging), **facts}, measured=dict(measured or {}))


def _settle_config(path: Path) -> None:
    """Remove from PEFT's configuration what differs between machines and runs: paths, and the order of sets."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = BASE
    for key in ("target_modules", "feedforward_modules", "modules_to_save", "exclude_modules"):
        if isinstance(config.get(key), list):
            config[key] = sorted(config[key])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
