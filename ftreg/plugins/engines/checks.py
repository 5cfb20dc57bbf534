"""Quick checks that a folder holds what an engine loads, from file names and headers, without heavy imports."""

from __future__ import annotations

from pathlib import Path

from ftreg.core.errors import InputError
from ftreg.models.facts import describe
from ftreg.models.files import read_json


def check_transformers(folder: Path) -> None:
    """Raise ``InputError`` unless ``folder`` holds a checkpoint or a PEFT adapter in safetensors."""
    facts = describe(folder)
    if not facts["parameters"]:
        raise InputError("holds no weights", where=str(folder))


def check_onnx(folder: Path) -> None:
    """Raise ``InputError`` unless ``folder`` holds an ONNX graph and its configuration."""
    graphs = sorted(folder.rglob("*.onnx"))
    if not graphs or not any(graph.stat().st_size for graph in graphs):
        raise InputError("holds no *.onnx file with a graph", where=str(folder))
    configurations = [path for name in ("config.json", "genai_config.json") if (path := folder / name).is_file()]
    if not configurations:
        raise InputError("holds neither config.json nor genai_config.json", where=str(folder))
    for path in configurations:
        read_json(path)
