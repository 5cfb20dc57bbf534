"""What ftreg assumes of onnxruntime: a failing test names the function of ftreg.compat.onnxruntime to mend."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from ftreg.compat.onnxruntime import quantize_matrices

INPUTS = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
MATRIX = np.random.default_rng(1).normal(size=(64, 48)).astype(np.float32)


def product() -> onnx.ModelProto:
    """A graph that multiplies its input with ``MATRIX``."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 48])],
        [numpy_helper.from_array(MATRIX, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(
    ("bits", "quantizer", "error"), [(8, "k_quant", 0.01), (8, "rtn", 0.02), (4, "k_quant", 0.1), (4, "rtn", 0.15)]
)
def test_quantize_matrices(bits, quantizer, error, capfd):
    """quantize_matrices: products are close, in as many bits as asked for; nothing is printed, no logger changed."""
    level, handlers = logging.getLogger().level, list(logging.getLogger().handlers)
    model = quantize_matrices(product(), bits, 32, quantizer)
    assert capfd.readouterr() == ("", "")
    assert (logging.getLogger().level, logging.getLogger().handlers) == (level, handlers)
    (node,) = model.graph.node
    settings = {each.name: each.i for each in node.attribute}
    assert (node.op_type, settings["bits"], settings["block_size"]) == ("MatMulNBits", bits, 32)
    assert {each.name for each in model.graph.initializer} == set(node.input[1:])
    (found,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": INPUTS})
    expected = INPUTS @ MATRIX
    assert np.linalg.norm(found - expected) < error * np.linalg.norm(expected)
