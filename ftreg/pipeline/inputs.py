"""Inputs: turns what a user names, a base model or a data file, into registered versions with a digest."""

from __future__ import annotations

import json
import re
from pathlib import Path

from blake3 import blake3

from ftreg.core.errors import InputError, UnknownName
from ftreg.core.manifest import Json, Producer
from ftreg.core.names import check_name, parse_ref
from ftreg.core.recipe import DataConfig
from ftreg.core.types import CHECKPOINT, DATASET, Source, Splits, Version
from ftreg.data import load_examples, read_dataset, split_examples, write_dataset
from ftreg.pipeline.plan import FULL_PRECISION
from ftreg.pipeline.workspace import Workspace
from ftreg.registry import Draft

_URI = re.compile(r"[a-z][a-z0-9+.-]*:(?!\d+$).+")
# What a folder of a model may hold besides: code is never imported, and pickles are never loaded.
_MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "LICENSE*", "README*", "*.md")


def resolve_base(space: Workspace, base: str, *, where: str = "base") -> Version:
    """The version that ``base`` names: a registry reference, a local folder, or a URI that a plugin resolves.

    Folders and downloads are imported into the registry first, so that the lineage holds their digest.

    Raises:
        InputError: Nothing goes by that name, or the folder is no model.
    """
    if is_path(base):
        return _import_base(space, Path(base).expanduser(), {"path": Path(base).name}, where)
    if is_uri(base):
        folder = space.host.resolve_base(base)
        if folder is None:
            raise InputError(f"no plugin can fetch {base!r}", where=where, hint="See: ftreg plugins list")
        return _import_base(space, folder, {"uri": base, "resolved": folder.name}, where)
    try:
        return space.registry.get(base)
    except UnknownName as error:
        if Path(base).is_dir():
            raise InputError(
                f"no version is called {base!r}", where=where, hint=f"For the folder, write ./{base}"
            ) from None
        error.where = where
        raise


def resolve_data(space: Workspace, config: DataConfig, *, where: str = "data") -> tuple[Version, Splits]:
    """The dataset version that ``config`` names, and its splits; a file is split and registered first.

    Raises:
        InputError: No such file or dataset.
        DataError: The file's rows cannot be used.
    """
    path = Path(config.path).expanduser()
    if path.is_file():
        return _register_file(space, path, config)
    if is_path(config.path) or path.suffix:
        raise InputError("no such file", where=f"{where}: {config.path}", hint="Give a JSONL, JSON, CSV or Parquet file.")
    version = space.registry.get(config.path)
    if version.kind != DATASET:
        raise InputError(f"{version.ref} is no dataset but {version.kind}", where=where)
    return version, read_dataset(space.registry.source(version.ref).path)


def dataset_of(space: Workspace, source: Source) -> Version | None:
    """The dataset nearest to ``source`` in its lineage: its own, else its adapter's or source's, else its base's."""
    own = source.manifest.parent("dataset")
    if own is not None:
        return space.registry.get(own)
    for role in ("adapter", "source", "base"):
        if source.manifest.parent(role) is not None:
            found = dataset_of(space, source.parent(role))
            if found is not None:
                return found
    return None


def base_capabilities(folder: Path) -> list[str]:
    """Capabilities of a checkpoint that ftreg did not make, from its configuration."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return [] if config.get("quantization_config") else [FULL_PRECISION]


def is_path(text: str) -> bool:
    """Whether ``text`` names a path rather than a version: it starts with ``.``, ``~`` or ``/``, or has a slash."""
    return text.startswith((".", "~", "/")) or "/" in text.split(":", 1)[0] or "\\" in text


def is_uri(text: str) -> bool:
    """Whether ``text`` is for a plugin to resolve, such as ``hf:org/name``."""
    return bool(_URI.fullmatch(text)) and not text.startswith("b3:")


def check_model_folder(folder: Path, where: str) -> None:
    """Raise ``InputError`` for a folder that holds no checkpoint in safetensors."""
    if not folder.is_dir():
        raise InputError("no such folder", where=f"{where}: {folder}", hint="Give a registry reference or a folder.")
    if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
        raise InputError(
            "is no model folder: it needs config.json and *.safetensors",
            where=f"{where}: {folder}",
            hint="Models in other formats (*.bin, *.pt) can run code when loaded; save them with safe_serialization.",
        )


def _import_base(space: Workspace, folder: Path, origin: dict[str, Json], where: str) -> Version:
    """Import a folder that transformers can load; raise ``InputError`` for one that it cannot."""
    from ftreg.training import describe

    check_model_folder(folder, where)
    facts = {**describe(folder), "capabilities": base_capabilities(folder)}
    producer = Producer("import", "folder", "core", "ftreg", "", origin)
    with space.registry.staging() as staging:
        space.registry.copy_in(folder, staging.files, patterns=_MODEL_FILES)
        draft = Draft(folder=staging.files, kind=CHECKPOINT, parents=(), producer=producer, facts=facts)
        return space.registry.publish(name_from(Path(origin.get("path") or _uri_name(str(origin["uri"]))).name), draft)


def _uri_name(uri: str) -> str:
    return uri.split(":", 1)[1].split("@")[0].rstrip("/")


def _register_file(space: Workspace, path: Path, config: DataConfig) -> tuple[Version, Splits]:
    """Load, split and register a data file; the same file split the same way is the same version."""
    examples, format_name = load_examples(path, format=config.format, host=space.host)
    splits = split_examples(examples, config)
    settings = config.model_dump(mode="json", exclude={"path", "template"})
    about = {"file": path.name, "blake3": blake3(path.read_bytes()).hexdigest(), **settings, "format": format_name}
    producer = Producer("import", "data", "core", "ftreg", "", about)
    with space.registry.staging() as staging:
        write_dataset(splits, staging.files, about=about)
        counts = {"train": len(splits.train), "validation": len(splits.validation), "test": len(splits.test)}
        draft = Draft(folder=staging.files, kind=DATASET, parents=(), producer=producer, facts={"rows": counts})
        return space.registry.publish(name_from(path.stem), draft), splits


def name_from(text: str) -> str:
    """The nearest allowed name to ``text``."""
    return check_name(re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-_")[:96] or "unnamed")
