"""Facts of a model folder, read from its files without torch."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from blake3 import blake3

from ftreg.core.errors import InputError
from ftreg.core.manifest import Json
from ftreg.models.files import read_json


def describe(folder: Path) -> dict[str, Json]:
    """Return the facts of a checkpoint's or an adapter's folder; equal files give equal facts.

    A checkpoint has ``architecture``, ``model_type``, ``vocab_size``, ``tied_embeddings`` and, if it is quantized,
    ``quantization``; an adapter has ``adapter`` with its type and sizes. Both have ``parameters`` (the number of stored
    values), ``dtype`` (the most common one), and from their tokenizer ``eos_token_id``, ``pad_token_id`` and the BLAKE3
    of the ``chat_template``.

    Raises:
        InputError: The folder holds neither a checkpoint nor an adapter, or a file is damaged.
    """
    tensors = _tensors(folder)
    facts: dict[str, Json] = {}
    if (folder / "adapter_config.json").is_file():
        facts["adapter"] = _adapter(read_json(folder / "adapter_config.json"))
    elif (folder / "config.json").is_file():
        facts |= _checkpoint(read_json(folder / "config.json"), tensors)
    else:
        raise InputError("is not a model folder: it has neither config.json nor adapter_config.json", where=str(folder))
    counts: dict[str, int] = {}
    for dtype, shape in tensors.values():
        counts[dtype] = counts.get(dtype, 0) + math.prod(shape)
    facts["parameters"] = sum(counts.values())
    facts["dtype"] = max(sorted(counts), key=lambda dtype: counts[dtype]).lower() if counts else None
    return {**facts, **_tokenizer(folder)}


def _checkpoint(config: dict[str, Any], tensors: dict[str, Any]) -> dict[str, Json]:
    """Return the facts of a checkpoint's configuration."""
    text = config.get("text_config") or config
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings"))
    if tied is None:
        tied = not any(name.endswith("lm_head.weight") for name in tensors)
    facts = {
        "architecture": next(iter(config.get("architectures") or []), None),
        "model_type": config.get("model_type"),
        "vocab_size": text.get("vocab_size"),
        "tied_embeddings": bool(tied),
    }
    if "quantization_config" in config:
        facts["quantization"] = config["quantization_config"]
    return facts


def _adapter(config: dict[str, Any]) -> dict[str, Json]:
    """Return an adapter's type and sizes."""
    keys = (
        "peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "bias", "fan_in_fan_out",
        "target_modules", "modules_to_save", "num_virtual_tokens", "prefix_projection",
    )  # fmt: skip
    facts = {key: config[key] for key in keys if config.get(key) is not None}
    for key in ("target_modules", "modules_to_save"):
        if isinstance(facts.get(key), list):
            facts[key] = sorted({name.rsplit(".", 1)[-1] for name in facts[key]})
    return facts


def _tokenizer(folder: Path) -> dict[str, Json]:
    """Return the tokenizer's facts; empty if there is no tokenizer."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return {}
    config = read_json(path)
    template_file = folder / "chat_template.jinja"
    template = template_file.read_text(encoding="utf-8") if template_file.is_file() else config.get("chat_template")
    ids = _token_ids(folder)
    return {
        "eos_token_id": ids.get(_content(config.get("eos_token"))),
        "pad_token_id": ids.get(_content(config.get("pad_token"))),
        "chat_template": blake3(template.encode()).hexdigest() if isinstance(template, str) else None,
    }


def _token_ids(folder: Path) -> dict[str | None, int]:
    """Return the ids of special tokens."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return {}
    return {token["content"]: token["id"] for token in read_json(path).get("added_tokens") or []}


def _content(token: Any) -> str | None:
    """Return a token's text; configurations hold tokens as text or as objects."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None


def _tensors(folder: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the dtype and shape of every tensor by name, from the headers of the safetensors files."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            try:
                (length,) = struct.unpack("<Q", file.read(8))
                if length > path.stat().st_size:
                    raise ValueError("the header is longer than the file")
                header = json.loads(file.read(length))
                header.pop("__metadata__", None)
                end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
                if end != path.stat().st_size:
                    raise ValueError(f"its tensors take {end} bytes, and it has {path.stat().st_size}")
                found |= {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()}
            except (struct.error, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
                raise InputError(f"is not a complete safetensors file: {error}", where=str(path)) from None
    return found
