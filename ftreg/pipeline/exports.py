"""Exports: a version's files in a plain folder of their own, with a card that says what they are."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from ftreg.core.types import DATASET, Version
from ftreg.pipeline.model_card import MANIFEST, model_card
from ftreg.registry import Registry

CARD = "README.md"
"""The file with the model card; ``MODEL_CARD.md`` if the version has a README.md of its own."""


def write_folder(registry: Registry, version: Version, target: Path) -> None:
    """Copy a version's files into the new folder ``target``, with its manifest and its card, all or nothing.

    Raises:
        CorruptRegistry: A stored file is missing or was changed.
    """
    source = registry.source(version.digest).path
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        shutil.copytree(source, partial, symlinks=False, dirs_exist_ok=True, copy_function=shutil.copyfile)
        (partial / MANIFEST).write_bytes(version.manifest.to_bytes())
        if version.kind != DATASET:
            card = "MODEL_CARD.md" if (partial / CARD).exists() else CARD
            (partial / card).write_text(model_card(registry, version), encoding="utf-8")
        partial.chmod(0o755)
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
