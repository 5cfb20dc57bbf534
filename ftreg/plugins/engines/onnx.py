"""The onnx engine: decoder graphs in ONNX Runtime, with fused attention or traced, to evaluate and to serve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from ftreg.core.errors import InputError
from ftreg.core.types import Batch, ServedModel, ServingEngine, Source
from ftreg.models.files import read_json
from ftreg.models.quiet import loading
from ftreg.models.tokenizer import load_tokenizer
from ftreg.plugins.engines.fused import FusedGraph
from ftreg.plugins.engines.greedy import answer_greedily
from ftreg.plugins.engines.limits import describe_model, end_tokens, fit_new_tokens, require_fit
from ftreg.plugins.engines.traced import TracedGraph

_CUDA = "CUDAExecutionProvider"


def load(source: Source, device: str) -> OnnxEngine:
    """Load an ONNX export; raise ``InputError`` if it is not one with a cache, or cannot be loaded."""
    if not (source.path / "model.onnx").exists():
        raise InputError(
            f"{source.ref} is not an ONNX export: it has no model.onnx",
            where=str(source.path),
            hint="Make one from a checkpoint: `ftreg.export('NAME', format='onnx')`",
        )
    return OnnxEngine(source.path, device, source.digest)


def serve(sources: Sequence[Source], device: str) -> list[ServingEngine]:
    """Load exports to serve them, each in an engine of its own; raise ``InputError`` as ``load`` does."""
    return [load(source, device) for source in sources]


class OnnxEngine:
    """A decoder graph with a cache of keys and values, in ONNX Runtime.

    Args:
        folder: The export, with its tokenizer and configuration.
        device: ``cpu``, or another one to use the CUDA provider if it is installed.
        digest: What the model is called in batches.

    Attributes:
        device: Where it is computed: ``cpu`` or ``cuda``.
        tokenizer: The model's tokenizer.
        models: What a server needs to know of the model, by its digest.
    """

    def __init__(self, folder: Path, device: str, digest: str) -> None:
        with loading("the ONNX model", folder):
            session = onnxruntime.InferenceSession(folder / "model.onnx", _options(), providers=_providers(device))
        self.device = "cuda" if _CUDA in session.get_providers() else "cpu"
        built = read_json(folder / "genai_config.json", optional=True).get("model", {})
        config = read_json(folder / "config.json", optional=True)
        generation = read_json(folder / "generation_config.json", optional=True)
        context = built.get("context_length") or config.get("max_position_embeddings") or config.get("n_positions")
        self.tokenizer = load_tokenizer(folder, context=context)
        ends = end_tokens(self.tokenizer, built, generation, config)
        self.models: Mapping[str, ServedModel] = {digest: describe_model(self.tokenizer, ends)}
        self._model = self.models[digest]
        self._digest = digest
        self._graph: Any = _graph(folder / "model.onnx", session, built.get("decoder", {}), self._model.context)

    def logits(self, batch: Sequence[Sequence[int]], *, last: int | None = None) -> list[np.ndarray]:
        """Return the logits of each row, or of its ``last`` tokens, float32 of shape (tokens, vocabulary)."""
        require_fit(self.tokenizer, batch)
        found: list[np.ndarray] = self._graph.logits(batch, last)
        return found

    def generate(self, batch: Sequence[Sequence[int]], *, max_new_tokens: int) -> list[list[int]]:
        """Continue each prompt greedily, up to and without any of the end-of-sequence tokens."""
        steps = fit_new_tokens(self.tokenizer, batch, max_new_tokens)
        return answer_greedily(self.batch(), self._digest, batch, steps=steps, ends=self._model.ends)

    def batch(self) -> Batch:
        """Return an empty batch."""
        batch: Batch = self._graph.batch()
        return batch

    def close(self) -> None:
        """Free the graph."""
        self._graph = None


def _graph(path: Path, session: Any, config: Mapping[str, Any], context: int) -> FusedGraph | TracedGraph:
    """Return the kind of graph that a session holds; raise ``InputError`` if it is not a decoder with a cache."""
    past = [each for each in session.get_inputs() if each.name not in ("input_ids", "attention_mask", "position_ids")]
    names = [each.name for each in session.get_inputs()]
    if "input_ids" not in names or not past or len(past) != len(session.get_outputs()) - 1:
        raise InputError(
            "the graph is not a decoder with a KV cache",
            where=str(path),
            hint=f"Inputs: {names}",
        )
    operators = {node.op_type for node in onnx.load(path, load_external_data=False).graph.node}
    if "GroupQueryAttention" not in operators:
        return TracedGraph(session)
    size = past[0].shape[3]
    # LongRoPE chooses its table of rotations by the longest row of a batch, with an If.
    return FusedGraph(
        session,
        head_size=size if isinstance(size, int) else int(config["head_size"]),
        context=context,
        mixes="If" not in operators,
    )


def _options() -> onnxruntime.SessionOptions:
    """Return the settings of a session."""
    options = onnxruntime.SessionOptions()
    # Threads that wait actively for work slow down everything else in the process, and one another on busy machines.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _providers(device: str) -> list[str]:
    """Return the installed execution providers of ONNX Runtime for ``device``, the preferred one first."""
    if device == "cpu" or _CUDA not in onnxruntime.get_available_providers():
        return ["CPUExecutionProvider"]
    return [_CUDA, "CPUExecutionProvider"]
