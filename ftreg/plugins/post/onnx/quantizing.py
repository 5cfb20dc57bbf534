"""Quantizing a graph: its matrices in blocks of 4 or 8 bits, computed with by ``MatMulNBits``.

Each output of a matrix has a scale for every ``block_size`` inputs. An embedding that is tied to the output head is
stored once, quantized, and both look it up there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ftreg.compat.onnxruntime import quantize_matrices
from ftreg.models.matrices import Coverage, kind_of

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
_PLAIN = {"transA": 0, "transB": 0, "alpha": 1.0, "beta": 1.0}  # a Gemm that is a product and a sum
_TURNED = ".transposed"


def quantize_graph(path: Path, bits: int, block_size: int, quantizer: str) -> None:
    """Quantize the matrices of the graph at ``path``, in place.

    Args:
        path: The ``model.onnx``, with its weights beside it in ``model.onnx.data``.
        bits: 4 or 8.
        block_size: How many weights share a scale.
        quantizer: ``k_quant`` or ``rtn``.
    """
    model = onnx.load(path)
    _split_affine(model.graph)
    _turn_tied(model.graph, block_size)
    model = quantize_matrices(model, bits, block_size, quantizer)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    heads = {
        node.input[1].rpartition(_TURNED)[0]: node
        for node in model.graph.node
        if node.op_type == "MatMulNBits" and _TURNED in node.input[1]
    }
    _share_tied(model.graph, heads, bits, block_size)
    _save(model, path)


def share_embedding(path: Path, embedding: str, head: str, bits: int, block_size: int) -> None:
    """Let the embedding of a quantized graph look up the head that it is tied to, and store the graph so, in place.

    An embedding whose rows are not whole blocks stays as it is.

    Args:
        path: The ``model.onnx``, with its weights beside it in ``model.onnx.data``.
        embedding: The name of the embedding's weight.
        head: What the name of the head's ``MatMulNBits`` begins with.
        bits: 4 or 8.
        block_size: How many weights share a scale.
    """
    model = onnx.load(path)
    widths = {each.name: each.dims[-1] for each in model.graph.initializer}
    found = [node for node in model.graph.node if node.op_type == "MatMulNBits" and node.name.startswith(head)]
    if found and embedding in widths and widths[embedding] % block_size == 0:
        _share_tied(model.graph, {embedding: found[0]}, bits, block_size)
        _save(model, path)


def _save(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph to ``path``, and its weights beside it."""
    data = path.with_name(f"{path.name}.data")
    data.unlink(missing_ok=True)  # onnx.save appends
    onnx.save(model, path, save_as_external_data=True, location=data.name, size_threshold=1024)


def coverage(model: onnx.ModelProto) -> Coverage:
    """Count the weights of a graph's products that are quantized; the graph may be loaded without its data."""
    shapes = {each.name: tuple(each.dims) for each in model.graph.initializer if each.data_type in _FLOATS}
    quantized = {
        node.input[1]: math.prod(attribute.i for attribute in node.attribute if attribute.name in ("K", "N"))
        for node in model.graph.node
        if node.op_type == "MatMulNBits"
    }
    left: dict[str, int] = {}
    for name in _multiplied(model.graph):
        if len(shapes.get(name, ())) > 1:
            kind = kind_of(name.removesuffix(".weight"))
            left[kind] = left.get(kind, 0) + math.prod(shapes[name])
    done = sum(quantized.values())
    return Coverage(done, done + sum(left.values()), left)


def _multiplied(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield the names of what activations are multiplied with, through any transposition."""
    turned = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Transpose"}
    names = {name for node in graph.node if node.op_type in ("MatMul", "Gemm") for name in node.input[:2]}
    yield from sorted({turned.get(name, name) for name in names})


def _split_affine(graph: onnx.GraphProto) -> None:
    """Replace each ``Gemm`` without scaling by a product and a sum: the quantizer knows products only."""
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        settings = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        if node.op_type != "Gemm" or any(settings.get(key, plain) != plain for key, plain in _PLAIN.items()):
            nodes.append(node)
            continue
        product = f"{node.output[0]}.product" if len(node.input) > 2 else node.output[0]
        nodes.append(helper.make_node("MatMul", node.input[:2], [product], name=f"{node.name}.product"))
        if len(node.input) > 2:
            nodes.append(helper.make_node("Add", [product, node.input[2]], node.output, name=f"{node.name}.sum"))
    _replace(graph, nodes)


def _turn_tied(graph: onnx.GraphProto, block_size: int) -> None:
    """Give each product with a transposed weight a constant of its own, if whole blocks fit into the weight's rows."""
    constants = {each.name: each for each in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        weight = constants.get(node.input[0]) if node.op_type == "Transpose" else None
        if weight is None or len(weight.dims) != 2 or weight.dims[1] % block_size:
            nodes.append(node)
            continue
        turned = np.ascontiguousarray(numpy_helper.to_array(weight).T)
        graph.initializer.append(numpy_helper.from_array(turned, f"{weight.name}{_TURNED}"))
        for other in graph.node:
            for place, name in enumerate(other.input):
                if name == node.output[0]:
                    other.input[place] = f"{weight.name}{_TURNED}"
    _replace(graph, nodes)


def _share_tied(graph: onnx.GraphProto, heads: Mapping[str, onnx.NodeProto], bits: int, block_size: int) -> None:
    """Let embeddings look up the quantized ``heads`` that they are tied to, by the names of the embeddings' weights."""
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        head = heads.get(node.input[0]) if node.op_type == "Gather" else None
        if head is None:
            nodes.append(node)
            continue
        rows = f"{node.name}.rows"
        graph.initializer.append(numpy_helper.from_array(np.array([0, -1]), f"{rows}.shape"))
        nodes.append(helper.make_node("Reshape", [head.input[1], f"{rows}.shape"], [rows], name=rows))
        nodes.append(
            helper.make_node(
                "GatherBlockQuantized", [rows, node.input[1], *head.input[2:]], node.output, name=node.name,
                domain="com.microsoft", bits=bits, block_size=block_size, gather_axis=0, quantize_axis=1,
            )
        )  # fmt: skip
    _replace(graph, nodes)
    _drop_unused(graph, heads)


def _drop_unused(graph: onnx.GraphProto, names: Iterable[str]) -> None:
    """Remove those constants among ``names`` that no node uses any more."""
    unused = set(names) - {name for node in graph.node for name in node.input}
    for place in reversed(range(len(graph.initializer))):
        if graph.initializer[place].name in unused:
            del graph.initializer[place]


def _replace(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Replace the nodes of a graph; some of the new ones may be among the old ones."""
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
