"""Checkpoints on disk, read one tensor at a time, so that a model of any size needs little memory."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ftreg.core.errors import InfeasiblePlan, InputError
from ftreg.models.files import clean_config, read_json, write_json
from ftreg.models.tensors import DTYPES, INDEX, WEIGHTS, TensorInfo

_GENERATION = "generation_config.json"


class Checkpoint:
    """A folder with ``config.json`` and safetensors weights, in one file or in shards.

    Attributes:
        folder: Where the files are.
        config: The model's configuration.
        tensors: Each tensor's dtype and shape, by its name on disk, in alphabetical order.

    Raises:
        InputError: The folder is not a checkpoint, or its files are damaged or incomplete.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = read_json(folder / "config.json")
        self._paths: dict[str, Path] = {}
        found: dict[str, TensorInfo] = {}
        for path in self._files():
            with self._open(path) as file:
                for name in list(file.keys()):
                    self._paths[name] = path
                    found[name] = self._info(name, file.get_slice(name))
        self.tensors = dict(sorted(found.items()))
        self._check_index()

    def read(self, name: str) -> torch.Tensor:
        """Read one tensor as it is stored; raise ``InputError`` if its file is damaged by now."""
        # The file is opened for each tensor: pages that were read through a mapping count as the process's memory
        # until it is closed.
        with self._open(self._paths[name]) as file:
            tensor: torch.Tensor = file.get_tensor(name)
        return tensor

    @property
    def size(self) -> int:
        """Size of all tensors in bytes."""
        return sum(info.size for info in self.tensors.values())

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that most floating-point weights are stored in."""
        counts: dict[torch.dtype, int] = {}
        for info in self.tensors.values():
            if info.dtype.is_floating_point:
                counts[info.dtype] = counts.get(info.dtype, 0) + info.size
        return max(counts, key=lambda dtype: counts[dtype], default=torch.float32)

    def require_full_precision(self, step: str) -> None:
        """Raise ``InfeasiblePlan``, naming ``step``, if the weights are quantized."""
        if self.config.get("quantization_config"):
            raise InfeasiblePlan(
                f"{step} needs weights in full precision; these are quantized",
                where=str(self.folder),
                hint="Use the version that was quantized.",
            )

    def _files(self) -> list[Path]:
        """List the weight files, from the index if there is one."""
        index = self.folder / INDEX
        if index.exists():
            weight_map = read_json(index).get("weight_map", {})
            return [self.folder / name for name in sorted(set(weight_map.values()))]
        if not (self.folder / WEIGHTS).exists():
            raise InputError("has no safetensors weights", where=str(self.folder), hint=f"{WEIGHTS} is expected there.")
        return [self.folder / WEIGHTS]

    @contextmanager
    def _open(self, path: Path) -> Iterator[Any]:
        """Open a weight file; raise ``InputError`` if it is damaged or missing."""
        try:
            with safe_open(path, framework="pt") as file:
                yield file
        except (SafetensorError, OSError) as error:
            raise self._damaged(error) from error

    def _info(self, name: str, view: Any) -> TensorInfo:
        code = view.get_dtype()
        if code not in DTYPES:
            raise InputError(f"the tensor {name} has the dtype {code}, which ftreg cannot copy", where=str(self.folder))
        return TensorInfo(DTYPES[code], tuple(view.get_shape()))

    def _check_index(self) -> None:
        """Raise ``InputError`` if the index names tensors that no file has."""
        index = self.folder / INDEX
        absent = set(read_json(index).get("weight_map", {})) - set(self._paths) if index.exists() else set()
        if absent:
            raise self._damaged(f"{len(absent)} tensors of the index are in none of its files")

    def _damaged(self, reason: object) -> InputError:
        return InputError(
            f"the weights are damaged or incomplete: {reason}",
            where=str(self.folder),
            hint="`registry.verify()` checks stored versions.",
        )


def copy_config(target: Path, checkpoint: Checkpoint, **changes: Any) -> None:
    """Write the model's configuration with ``changes``, and its generation settings, into the folder ``target``."""
    write_json(target / "config.json", clean_config({**checkpoint.config, **changes}))
    if (checkpoint.folder / _GENERATION).exists():
        shutil.copyfile(checkpoint.folder / _GENERATION, target / _GENERATION)
