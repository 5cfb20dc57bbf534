"""Inputs: opens the base model and the data that a user names, wherever they are, as inputs with a digest.

An input that is not in the registry yet is prepared in staging and published together with the result of the work, so
that work that fails leaves nothing behind.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ftreg.context import Context
from ftreg.core.capabilities import FULL_PRECISION
from ftreg.core.errors import InputError, UnknownName
from ftreg.core.manifest import Json, Manifest, Producer
from ftreg.core.names import check_name
from ftreg.core.recipe import DataConfig, ObjectiveConfig
from ftreg.core.requirements import Requirement
from ftreg.core.types import CHECKPOINT, DATASET, Example, Source, Splits, Version
from ftreg.data import (
    StoredExamples,
    load_examples,
    open_split,
    read_dataset,
    split_examples,
    stream_examples,
    write_dataset,
)
from ftreg.models.files import model_folders
from ftreg.pipeline.engines import runtime_of
from ftreg.registry import Draft, Prepared
from ftreg.registry.blobs import hash_file

_URI = re.compile(r"[a-z][a-z0-9+.-]*:(?!\d+$).+")
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")
# The files of a model that are imported: never code, which would be executed, and never pickles, which can hold code.
_MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "LICENSE*", "README*", "*.md")


@dataclass(frozen=True)
class OpenedInput:
    """A model or a dataset that is ready to be used.

    Attributes:
        name: Its name in the registry, now or once it is published.
        digest: Its digest.
        path: A folder with its files.
        manifest: Its manifest.
        prepared: The version to publish; None if it is in the registry already.
    """

    name: str
    digest: str
    path: Path
    manifest: Manifest
    prepared: Prepared | None = None

    def source(self, context: Context) -> Source:
        """Return it as plugins see it."""
        return Source(self.name, self.digest, self.path, self.manifest, context.registry.source)

    def publish(self, context: Context) -> None:
        """Publish the input unless it is in the registry already; its staging must still be open."""
        if self.prepared is not None:
            context.registry.publish(self.name, self.prepared)


@dataclass(frozen=True)
class KnownModel:
    """What is known of a model before work, whether it is in the registry or not.

    Attributes:
        name: What it is called, for people.
        kind: What its files are.
        folders: The folder of its files, and that of its base's if it is an adapter; empty if it is not fetched yet.
        digest: Its digest; None if it is not in the registry yet.
        requires: Distributions that loading it needs, beyond those of the engine.
        new: Bytes that will be imported into the registry.
    """

    name: str
    kind: str = CHECKPOINT
    folders: tuple[Path, ...] = ()
    digest: str | None = None
    requires: tuple[Requirement, ...] = ()
    new: int = 0

    @property
    def folder(self) -> Path | None:
        """The folder of its files; None if it is not fetched yet."""
        return self.folders[0] if self.folders else None

    @classmethod
    def of(cls, source: Source) -> KnownModel:
        """Return what is known of a version that is open."""
        return cls(source.ref, source.kind, model_folders(source), source.digest, tuple(runtime_of(source)))


def open_models(context: Context, stack: ExitStack, objective: ObjectiveConfig | None) -> dict[str, OpenedInput]:
    """Open the models that an objective needs beside the base, by role; as ``open_base`` does."""
    if objective is None:
        return {}
    return {
        role: open_base(context, stack, ref, where=objective_key(objective, role))
        for role, ref in objective.models.items()
    }


def objective_key(objective: ObjectiveConfig, setting: str) -> str:
    """Return the key of an objective's setting in a recipe, for errors."""
    return f"objective.{objective.name}.{setting}"


def open_base(context: Context, stack: ExitStack, base: str, *, where: str = "base") -> OpenedInput:
    """Open the model that ``base`` names: a registry reference, a local folder, or a URI that a plugin resolves.

    Args:
        context: Where to look.
        stack: Owns the staging of an input that is not in the registry; close it after ``OpenedInput.publish``.
        base: The name as the user wrote it.
        where: Where the user wrote it, for messages.

    Raises:
        InputError: The version or folder does not exist, or the folder does not hold a model.
    """
    if is_path(base):
        folder = Path(base).expanduser()
        return _stage_base(context, stack, folder, model_name(base), {"folder": folder.resolve().name}, where)
    if is_uri(base):
        fetched = context.host.resolve_base(base)
        if fetched is None:
            raise InputError(f"no plugin can fetch {base!r}", where=where, hint="See `registry.host.plugins`")
        return _stage_base(context, stack, fetched, model_name(base), {"uri": base, "resolved": fetched.name}, where)
    try:
        return _registered(context, base)
    except UnknownName as error:
        if Path(base).is_dir():
            hint = f"For the folder, write ./{base}"
            raise InputError(f"no version named {base!r}", where=where, hint=hint) from None
        error.where = where
        raise


def open_data(
    context: Context, stack: ExitStack, config: DataConfig, *, where: str = "data"
) -> tuple[OpenedInput, Splits]:
    """Open the dataset that ``config`` names, a file or a registered dataset, with its splits.

    Args:
        context: Where to look.
        stack: Owns the staging of an input that is not in the registry; close it after ``OpenedInput.publish``.
        config: The file, and how to read and split it; a registered dataset is split already.
        where: Where the user wrote it, for messages.

    Raises:
        InputError: There is no such file or dataset.
        DataError: The file's rows cannot be used.
    """
    path = Path(config.path).expanduser()
    if path.is_file():
        examples, format_name = load_examples(path, format=config.format, columns=config.columns, host=context.host)
        splits = split_examples(examples, config)
        return _stage_data(context, stack, path, config, format_name, **vars(splits)), splits
    known = registered_data(context, config.path, where=where)
    for setting in config.given:
        if setting not in ("path", "template"):
            raise InputError(
                f"{config.path} is a registered dataset, which was read and split when it was registered",
                where=f"{where}.{setting}",
                hint="Leave it out: how to read and split is for files only.",
            )
    return known, read_dataset(known.path)


def open_whole(context: Context, stack: ExitStack, path: Path) -> tuple[OpenedInput, StoredExamples]:
    """Open the data file ``path`` as a dataset that is not split, and its examples, which are never all in memory.

    Args:
        context: Where to look.
        stack: Owns the file that the examples are read from.
        path: The file.

    Raises:
        DataError: The file's rows cannot be used.
    """
    examples, format_name = stream_examples(path, host=context.host)
    config = DataConfig(path=str(path), validation=0.0)
    dataset = _stage_data(context, stack, path, config, format_name, train=examples)
    return dataset, open_split(dataset.path, "train")


def registered_data(context: Context, ref: str, *, where: str = "data") -> OpenedInput:
    """Open the registered dataset ``ref``; raise ``InputError`` if there is none, or it is of another kind."""
    if is_path(ref) or Path(ref).suffix:
        raise InputError("no such file", where=f"{where}: {ref}", hint="Give a JSONL, JSON, CSV or Parquet file.")
    known = _registered(context, ref)
    if known.manifest.kind != DATASET:
        raise InputError(f"{ref} is not a dataset; it is of kind {known.manifest.kind}", where=where)
    return known


def dataset_of(context: Context, source: Source) -> Version | None:
    """Return the nearest dataset in the lineage of ``source``: its own, else its adapter's, source's or base's."""
    own = source.manifest.parent("dataset")
    if own is not None:
        return context.registry.get(own)
    for role in ("adapter", "source", "base"):
        if source.manifest.parent(role) is not None:
            found = dataset_of(context, source.parent(role))
            if found is not None:
                return found
    return None


def is_path(text: str) -> bool:
    """Return True if ``text`` is a path, not a reference: it starts with ``.``, ``~`` or ``/``, or has a slash."""
    return text.startswith((".", "~", "/")) or "/" in text.split(":", 1)[0] or "\\" in text


def is_uri(text: str) -> bool:
    """Return True if ``text`` is a URI that a plugin has to fetch, such as ``hf:org/name``."""
    return bool(_URI.fullmatch(text)) and not text.startswith("b3:")


def model_name(path_or_uri: str) -> str:
    """Return the last part of a folder's path, or of a URI without its revision."""
    if is_path(path_or_uri):
        return Path(path_or_uri).expanduser().resolve().name
    return path_or_uri.split(":", 1)[1].split("@")[0].rstrip("/").rsplit("/", 1)[-1]


def check_model_folder(folder: Path, where: str) -> None:
    """Raise ``InputError`` if a folder does not hold a checkpoint in safetensors."""
    if not folder.is_dir():
        hint = "Give a registry reference or a folder."
        if _HUB_NAME.fullmatch(str(folder)):
            hint = f"Give a registry reference or a folder; or hf:{folder} for a model on the Hugging Face Hub."
        raise InputError("no such folder", where=f"{where}: {folder}", hint=hint)
    if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
        raise InputError(
            "this folder does not hold a model: it needs config.json and *.safetensors",
            where=f"{where}: {folder}",
            hint="Models in other formats (*.bin, *.pt) can run code when loaded; convert them to safetensors first.",
        )


def name_from(text: str) -> str:
    """Return a valid name that resembles ``text``."""
    return check_name(re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-_")[:96] or "unnamed")


def _registered(context: Context, ref: str) -> OpenedInput:
    version = context.registry.get(ref)
    return OpenedInput(version.name, version.digest, context.registry.source(ref).path, version.manifest)


def _stage(context: Context, name: str, draft: Draft) -> OpenedInput:
    """Prepare a draft; if the registry has the same version already, open that instead."""
    prepared = context.registry.prepare(draft)
    try:
        return _registered(context, prepared.digest)
    except UnknownName:
        return OpenedInput(name_from(name), prepared.digest, draft.folder, prepared.manifest, prepared)


def _stage_base(
    context: Context, stack: ExitStack, folder: Path, name: str, origin: dict[str, Json], where: str
) -> OpenedInput:
    """Copy a causal language model's folder into staging; raise ``InputError`` for another folder."""
    from ftreg.models.architectures import check_causal
    from ftreg.models.facts import describe

    check_model_folder(folder, where)
    check_causal(folder)
    staging = stack.enter_context(context.registry.staging())
    # A download may consist of links into its plugin's cache; links in a user's folder must stay inside it.
    within = Path(folder.anchor) if "uri" in origin else None
    context.registry.copy_in(folder, staging.files, patterns=_MODEL_FILES, within=within)
    draft = Draft(
        folder=staging.files,
        kind=CHECKPOINT,
        producer=Producer("import", "base", "core", "ftreg", ""),
        capabilities=_capabilities(folder),
        facts=describe(staging.files),
        evidence=[("import", origin)],
    )
    return _stage(context, name, draft)


def _capabilities(folder: Path) -> list[str]:
    """Derive the capabilities of an imported checkpoint from its configuration."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return [] if config.get("quantization_config") else [FULL_PRECISION]


def _stage_data(
    context: Context, stack: ExitStack, path: Path, config: DataConfig, format_name: str, **splits: Iterable[Example]
) -> OpenedInput:
    """Write splits into staging; the digest depends on the rows and the split, not on the file's name."""
    settings = config.model_dump(mode="json", exclude={"path", "template"})
    about = {**settings, "blake3": hash_file(path), "format": format_name}
    staging = stack.enter_context(context.registry.staging())
    counts = write_dataset(staging.files, about=about, **splits)
    draft = Draft(
        folder=staging.files,
        kind=DATASET,
        producer=Producer("import", "data", "core", "ftreg", "", about),
        facts={"rows": counts},
        evidence=[("import", {"file": path.name})],
    )
    return _stage(context, path.stem, draft)
