"""Tensors on disk: their dtypes and shapes, and a writer that takes them one at a time.

The format is that of https://github.com/huggingface/safetensors: eight bytes with the header's length, a JSON header
with each tensor's dtype, shape and offsets, then the tensors' bytes. The library's writer needs all tensors at once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ftreg.models.files import write_json

SHARD_BYTES = 5_000_000_000
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

_CODES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip
DTYPES = {code: dtype for dtype, code in _CODES.items()}
"""PyTorch's dtypes by their names in safetensors headers."""


@dataclass(frozen=True)
class TensorInfo:
    """A tensor's dtype and shape, without its values."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def dtype_name(dtype: torch.dtype) -> str:
    """Return ``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def write_weights(
    folder: Path,
    plan: Mapping[str, TensorInfo],
    tensors: Iterable[tuple[str, torch.Tensor]],
    *,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write tensors one at a time, into one file or into shards with an index.

    Args:
        folder: Where to write.
        plan: All tensors, in the order in which ``tensors`` yields them.
        tensors: Their names and values; each is cast to its planned dtype.
        shard_bytes: Largest size of a file in bytes, unless a single tensor is larger.
    """
    shards = _shards(plan, shard_bytes)
    count = len(shards)
    names = [WEIGHTS] if count == 1 else [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    stream = iter(tensors)
    for file, shard in zip(names, shards, strict=True):
        _write_file(folder / file, {name: plan[name] for name in shard}, stream)
    if next(stream, None) is not None:
        raise AssertionError("there are more tensors than planned")
    if count > 1:
        weight_map = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
        total = sum(info.size for info in plan.values())
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})


def _shards(plan: Mapping[str, TensorInfo], shard_bytes: int) -> list[list[str]]:
    """Divide the tensors' names among files."""
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
            del tensor  # before the next one takes memory
