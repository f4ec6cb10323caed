"""Rewrite an exported encoder so that its large products run in 8-bit integers, each text by itself.

The usual dynamic quantisation takes one range for a whole batch: a text's score then depends on the texts it was
batched with (by up to 0.38 with the shipped model). Here every token's vector has a range of its own and every output
channel a scale of its own, so that neither companions nor padding can change a score, and errors are a quarter.
The idea of a range for each token is that of ZeroQuant (Yao et al. 2022, arXiv:2206.01861).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

MICROSOFT = "com.microsoft"
LEVELS = {8: 127, 7: 63}
"""The largest weight, by its bits. Seven where the processor adds two products in 16 bits: eight would overflow."""


def quantise(source: Path, target: Path, *, bits: int = 8) -> int:
    """Write `source` (an ONNX file in fp32) to `target` with int8 products and return how many there are.

    Products of two dimensions (the head: a few rows of a text) stay in fp32, where they cost nothing. Embeddings
    that came from 16 bits go back to them, which loses nothing and halves the file. Raises ValueError where the model
    has no product of a constant matrix.
    """
    model = onnx.load(str(source))
    graph = _Graph(model.graph)
    products = [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in graph.constants]
    if not products:
        raise ValueError("the exported model has no product of a constant matrix")
    for node in list(model.graph.node):
        if node.op_type == "MatMul" and node.input[1] in graph.constants:
            graph.integer_product(node, LEVELS[bits])
        elif node.op_type == "Gather" and node.input[0] in graph.constants:
            graph.half_table(node)
        else:
            graph.nodes.append(node)
    graph.finish()
    if not any(entry.domain == MICROSOFT for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    onnx.save(model, str(target))
    return len(products)


class _Graph:
    """A graph being rewritten: its constants, and its nodes in their new order."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self.constants = {item.name: item for item in graph.initializer}
        self.nodes: list[Any] = []
        self._inputs: dict[str, str] = {}  # products of one input (query, key, value) quantise it once
        self._add("q:step", np.float32(1 / 255))
        self._add("q:zero", np.uint8(0))
        self._add("q:least", np.float32(1e-8))  # a vector of equal numbers has no range to divide by
        self._add("q:last_axis", np.array([-1], dtype=np.int64))

    def integer_product(self, node: Any, most: int) -> None:
        """In the place of x @ W: with x = lo + range * q/255 for each row, W = scale * w for each column,
        x @ W = range * (q/255 @ w) * scale + lo * sum(W)."""
        x, name, result = node.input[0], node.input[1], node.output[0]
        prefix = self._inputs.get(x) or self._quantised(x)
        weights = numpy_helper.to_array(self.constants[name]).astype(np.float32)
        scale = np.abs(weights).max(axis=0) / most
        scale[scale == 0] = 1.0
        whole = np.clip(np.rint(weights / scale), -most, most).astype(np.int8)
        # Two products may share one matrix: each gets constants of its own name.
        own = f"{name}:{result}"
        self._add(f"{own}:w", whole)
        self._add(f"{own}:scale", scale.astype(np.float32))
        self._add(f"{own}:zero", np.zeros(len(scale), dtype=np.int8))
        self._add(f"{own}:sum", (whole.sum(axis=0, dtype=np.int64) * scale).astype(np.float32))
        self._node(
            "MatMulIntegerToFloat",
            [f"{prefix}q", f"{own}:w", "q:step", f"{own}:scale", "q:zero", f"{own}:zero"],
            f"{result}:unit",
            domain=MICROSOFT,
        )
        self._node("Mul", [f"{result}:unit", f"{prefix}range"], f"{result}:wide")
        self._node("Mul", [f"{prefix}low", f"{own}:sum"], f"{result}:low")
        self._node("Add", [f"{result}:wide", f"{result}:low"], result)

    def half_table(self, node: Any) -> None:
        """Keep a table whose numbers fit 16 bits exactly in 16 bits, and widen what is looked up."""
        table = numpy_helper.to_array(self.constants[node.input[0]])
        half = table.astype(np.float16) if table.ndim == 2 and table.dtype == np.float32 else None
        if half is None or not np.array_equal(half.astype(np.float32), table):
            self.nodes.append(node)
            return
        name = f"{node.input[0]}:half"
        if name not in self.constants:
            self._add(name, half)
        narrow = f"{node.output[0]}:half"
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        self._node("Gather", [name, node.input[1]], narrow, axis=axis)
        self._node("Cast", [narrow], node.output[0], to=onnx.TensorProto.FLOAT)

    def finish(self) -> None:
        """Put the new nodes in and drop the constants that nothing reads any more."""
        del self._graph.node[:]
        self._graph.node.extend(self.nodes)
        used = {name for node in self.nodes for name in node.input}
        used |= {output.name for output in self._graph.output}
        kept = [item for item in self._graph.initializer if item.name in used]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)

    def _quantised(self, x: str) -> str:
        prefix = self._inputs[x] = f"{x}:"
        self._node("ReduceMin", [x, "q:last_axis"], f"{prefix}low", keepdims=1)
        self._node("ReduceMax", [x, "q:last_axis"], f"{prefix}high", keepdims=1)
        self._node("Sub", [f"{prefix}high", f"{prefix}low"], f"{prefix}span")
        self._node("Max", [f"{prefix}span", "q:least"], f"{prefix}range")
        self._node("Sub", [x, f"{prefix}low"], f"{prefix}above")
        # One division for each row, and not for each number of it.
        self._node("Reciprocal", [f"{prefix}range"], f"{prefix}inverse")
        self._node("Mul", [f"{prefix}above", f"{prefix}inverse"], f"{prefix}unit")
        # One fixed step for all: what differs from row to row has been divided out.
        self._node("QuantizeLinear", [f"{prefix}unit", "q:step", "q:zero"], f"{prefix}q")
        return prefix

    def _node(self, kind: str, inputs: list[str], output: str, **options: Any) -> None:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"{kind}:{output}", **options))

    def _add(self, name: str, value: NDArray[Any] | np.generic) -> None:
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        self.constants[name] = self._graph.initializer[-1]
