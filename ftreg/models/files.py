"""The files of a model folder: its JSON, and the size of its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftreg.core.errors import InputError
from ftreg.core.types import ADAPTER, Source


def weight_bytes(folder: Path) -> int:
    """Return the bytes of the weights in a folder."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def model_folders(source: Source) -> tuple[Path, ...]:
    """Return the folder of a version's files and, for an adapter, that of its base's."""
    return (source.path, source.parent("base").path) if source.kind == ADAPTER else (source.path,)


def read_json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: The file.
        optional: Return an empty object if the file does not exist.

    Raises:
        InputError: The file does not exist, cannot be read, or holds something else than a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if optional:
            return {}
        raise InputError(f"{path.name} is missing", where=str(path.parent), hint="Is it a model's folder?") from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read as JSON: {error}", where=str(path)) from None
    if not isinstance(value, dict):
        raise InputError("does not hold a JSON object", where=str(path))
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write ``value`` indented, so that people can read and diff it."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def clean_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's configuration without local paths, and with its dtype under the current key."""
    cleaned = {key: value for key, value in config.items() if key not in ("_name_or_path", "torch_dtype")}
    if "torch_dtype" in config:
        cleaned.setdefault("dtype", config["torch_dtype"])
    return cleaned
