"""onnxruntime: its quantizer of matrices, which prints, and which configures the logging of the whole process."""

from __future__ import annotations

import contextlib
import io
import logging
from typing import Any


def quantize_matrices(model: Any, bits: int, block_size: int, quantizer: str) -> Any:
    """Replace each product with a constant matrix by one with a quantized matrix (``MatMulNBits``).

    Args:
        model: A ``ModelProto`` with its weights; it is changed.
        bits: 4 or 8.
        block_size: How many weights of an input share a scale.
        quantizer: ``k_quant``, which searches for the scales with the least error, as llama.cpp's quantizer of that
            name does, or ``rtn``, which rounds to nearest.

    Returns:
        The quantized ``ModelProto``.
    """
    with _logging_kept(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        from onnxruntime.quantization.matmul_nbits_quantizer import (
            KQuantWeightOnlyQuantConfig,
            MatMulNBitsQuantizer,
            RTNWeightOnlyQuantConfig,
        )

        widths = {node.name: {"bits": bits} for node in model.graph.node if node.op_type == "MatMul"}
        kind = KQuantWeightOnlyQuantConfig if quantizer == "k_quant" else RTNWeightOnlyQuantConfig
        # Level 4 lets CPUs multiply in 8-bit integers, as the graphs of onnxruntime-genai's builder do.
        work = MatMulNBitsQuantizer(
            model,
            block_size=block_size,
            is_symmetric=True,
            accuracy_level=4,
            algo_config=kind(customized_weight_config=widths),
        )
        work.process()
    return work.model.model


@contextlib.contextmanager
def _logging_kept() -> Any:
    """Undo what importing the quantizer does to the root logger, and keep quiet what it logs."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        root.handlers[:] = handlers
        root.setLevel(level)
