"""Checks: whether a folder holds what an engine loads, by names and headers alone; nothing heavy is imported."""

from __future__ import annotations

import json
from pathlib import Path

from ftreg.core.errors import InputError
from ftreg.training import describe


def check_transformers(folder: Path) -> None:
    """Raise ``InputError`` unless ``folder`` holds a checkpoint or a PEFT adapter in safetensors."""
    facts = describe(folder)
    if not facts["parameters"]:
        raise InputError("holds no weights", where=str(folder))


def check_onnx(folder: Path) -> None:
    """Raise ``InputError`` unless ``folder`` holds an ONNX graph beside a configuration."""
    graphs = sorted(folder.rglob("*.onnx"))
    if not graphs or not any(graph.stat().st_size for graph in graphs):
        raise InputError("holds no *.onnx file with a graph", where=str(folder))
    configurations = [path for name in ("config.json", "genai_config.json") if (path := folder / name).is_file()]
    if not configurations:
        raise InputError("holds neither config.json nor genai_config.json", where=str(folder))
    for path in configurations:
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"cannot be read: {error}", where=str(path)) from None
