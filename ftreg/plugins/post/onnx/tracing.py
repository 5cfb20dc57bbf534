"""Tracing: a model of any family as an ONNX graph, by transformers' exporter."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import torch

from ftreg.compat.transformers import export_decoder
from ftreg.core.errors import FtregError
from ftreg.models.files import clean_config, read_json, write_json
from ftreg.models.loading import load_pretrained
from ftreg.models.quiet import quiet


def trace(folder: Path, target: Path, dtype: torch.dtype) -> None:
    """Trace the model in ``folder`` and save its graph, weights and configuration into ``target``.

    Raises:
        InputError: The checkpoint is damaged.
        FtregError: The exporter cannot trace it.
    """
    model = load_pretrained(folder, device="cpu", dtype=dtype).eval()
    try:
        with quiet(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            export_decoder(model).save_pretrained(target)
            model.generation_config.save_pretrained(target)
    except (RuntimeError, ValueError, NotImplementedError, torch.onnx.errors.OnnxExporterError) as error:
        raise FtregError(
            f"transformers' exporter cannot trace {type(model).__name__}: {' '.join(str(error).split())[:300]}",
            where=str(folder),
        ) from error
    write_json(target / "config.json", clean_config(read_json(target / "config.json")))
