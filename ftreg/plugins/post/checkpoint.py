"""Checkpoints on disk: read and written one tensor at a time, so that a model of any size needs little memory.

The format is that of https://github.com/huggingface/safetensors: eight bytes with the header's length, a JSON header
with each tensor's dtype, shape and place, then the tensors' bytes. The library's own writer wants all tensors at once.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ftreg.core.errors import FtregError, InfeasiblePlan

SHARD_BYTES = 5_000_000_000
WEIGHTS = "model.safetensors"
GENERATION = "generation_config.json"
INDEX = "model.safetensors.index.json"

_CODES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip
_DTYPES = {code: dtype for dtype, code in _CODES.items()}

_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "chat_template.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model",
    "sentencepiece.bpe.model",
)  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """What a tensor is, without its values."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Its bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class Checkpoint:
    """A folder with ``config.json`` and safetensors weights, in one file or in shards.

    Raises:
        FtregError: The folder is no checkpoint, or its files are damaged or incomplete.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = read_object(folder / "config.json")
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
        """Read one tensor as it is stored."""
        # Each file is opened anew: what was read through a mapping counts as the process's memory until it is closed.
        with self._open(self._paths[name]) as file:
            tensor: torch.Tensor = file.get_tensor(name)
        return tensor

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(info.size for info in self.tensors.values())

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of most floating-point numbers."""
        counts: dict[torch.dtype, int] = {}
        for info in self.tensors.values():
            if info.dtype.is_floating_point:
                counts[info.dtype] = counts.get(info.dtype, 0) + info.size
        return max(counts, key=lambda dtype: counts[dtype], default=torch.float32)

    def require_full_precision(self, step: str) -> None:
        """Raise ``InfeasiblePlan`` where the weights are packed into a quantized layout."""
        if self.config.get("quantization_config"):
            raise InfeasiblePlan(
                f"{step} works on plain weights, and these are quantized already",
                where=str(self.folder),
                hint="Use the version that they were quantized from.",
            )

    def _files(self) -> list[Path]:
        """The weight files, by the index where there is one."""
        index = self.folder / INDEX
        if index.exists():
            weight_map = read_object(index).get("weight_map", {})
            return [self.folder / name for name in sorted(set(weight_map.values()))]
        if not (self.folder / WEIGHTS).exists():
            raise FtregError("has no safetensors weights", where=str(self.folder), hint=f"{WEIGHTS} is expected there.")
        return [self.folder / WEIGHTS]

    @contextmanager
    def _open(self, path: Path) -> Iterator[Any]:
        """Open a weight file; raise ``FtregError`` where it is damaged or absent."""
        try:
            with safe_open(path, framework="pt") as file:
                yield file
        except (SafetensorError, OSError) as error:
            raise self._damaged(error) from error

    def _info(self, name: str, view: Any) -> TensorInfo:
        code = view.get_dtype()
        if code not in _DTYPES:
            raise FtregError(f"the tensor {name} has the dtype {code}, which ftreg cannot copy", where=str(self.folder))
        return TensorInfo(_DTYPES[code], tuple(view.get_shape()))

    def _check_index(self) -> None:
        """Raise ``FtregError`` where the index names tensors that no file has."""
        index = self.folder / INDEX
        absent = set(read_object(index).get("weight_map", {})) - set(self._paths) if index.exists() else set()
        if absent:
            raise self._damaged(f"{len(absent)} tensors are not in the files that the index names")

    def _damaged(self, reason: object) -> FtregError:
        return FtregError(
            f"the weights are damaged or incomplete: {reason}",
            where=str(self.folder),
            hint="ftreg verify checks stored ones.",
        )


def write_weights(
    folder: Path,
    plan: Mapping[str, TensorInfo],
    tensors: Iterable[tuple[str, torch.Tensor]],
    *,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write ``tensors`` as they come, in one file or in shards with an index.

    Args:
        folder: Where to write.
        plan: All tensors, in the order in which they come.
        tensors: Their names and values; each is cast to its planned dtype.
        shard_bytes: Largest file, unless one tensor is larger.
    """
    shards = _shards(plan, shard_bytes)
    count = len(shards)
    names = [WEIGHTS] if count == 1 else [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    stream = iter(tensors)
    for file, shard in zip(names, shards, strict=True):
        _write_file(folder / file, {name: plan[name] for name in shard}, stream)
    if next(stream, None) is not None:
        raise AssertionError("more tensors than planned")
    if count > 1:
        weight_map = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
        total = sum(info.size for info in plan.values())
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})


def _shards(plan: Mapping[str, TensorInfo], shard_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    size = 0
    for name, info in plan.items():
        if shards[-1] and size + info.size > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += info.size
    return shards


def _write_file(path: Path, plan: Mapping[str, TensorInfo], stream: Iterator[tuple[str, torch.Tensor]]) -> None:
    """Write one safetensors file with the next tensors of ``stream``."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, info in plan.items():
        header[name] = {
            "dtype": _CODES[info.dtype],
            "shape": list(info.shape),
            "data_offsets": [offset, offset + info.size],
        }
        offset += info.size
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for expected, info in plan.items():
            name, tensor = next(stream)
            if name != expected or tuple(tensor.shape) != info.shape:
                raise AssertionError(f"{name} {tuple(tensor.shape)} came where {expected} {info.shape} was planned")
            file.write(tensor.to(info.dtype).contiguous().reshape(-1).view(torch.uint8).numpy().data)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write ``value`` for people to read."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def copy_tokenizer(target: Path, *folders: Path) -> None:
    """Copy the tokenizer, with its chat template, of the first of ``folders`` that has one."""
    for folder in folders:
        found = [name for name in _TOKENIZER_FILES if (folder / name).exists()]
        if found:
            for name in found:
                shutil.copyfile(folder / name, target / name)
            return


def copy_config(target: Path, checkpoint: Checkpoint, **changes: Any) -> None:
    """Write the model's configuration with ``changes``, and its generation settings, into ``target``."""
    write_json(target / "config.json", clean_config({**checkpoint.config, **changes}))
    if (checkpoint.folder / GENERATION).exists():
        shutil.copyfile(checkpoint.folder / GENERATION, target / GENERATION)


def clean_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A model's configuration without where it was loaded from, and with its dtype under the present name."""
    cleaned = {key: value for key, value in config.items() if key not in ("_name_or_path", "torch_dtype")}
    if "torch_dtype" in config:
        cleaned.setdefault("dtype", config["torch_dtype"])
    return cleaned


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; raise ``FtregError`` for a file that is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FtregError(f"has no {path.name}", where=str(path.parent), hint="Is it a checkpoint?") from None
    except (OSError, ValueError) as error:
        raise FtregError(f"cannot be read as JSON: {error}", where=str(path)) from None
    if not isinstance(value, dict):
        raise FtregError("is no JSON object", where=str(path))
    return value
