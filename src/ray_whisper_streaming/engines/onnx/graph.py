"""A notepad for ONNX graphs: values are names, each call adds one node. Linear layers quantise themselves."""

from __future__ import annotations

from math import ceil
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from ray_whisper_streaming.engines.mel import Float32

__all__ = ["FUSED", "Graph", "Rows"]

OPSET = 21
IR_VERSION = 10
"""What goes with it, so that runtimes of the last two years read the graph."""

FUSED = "com.microsoft"
"""The domain of ONNX Runtime's own fused operators."""

EPSILON = 1e-5
"""Of Whisper's layer norms."""

NARROW_LEVELS = 64
"""Levels of a narrow weight on each side of zero: 7 bits. Where one factor has a sign and the other has none, CPUs
before VNNI add up two products of 8 bits in 16, which would overflow with wider weights."""

WIDE_LEVELS = 127
WIDE_ZERO = 128
"""Wide weights are bytes without a sign, around this one: the runtime multiplies them in 16 bits."""

LEVELS = 255
"""The greatest number in 8 bits, as activations are."""

GELU_DEPTH = 0.17
"""`Graph.gelu` gives nothing below minus this."""

LEAST_RANGE = 1e-8
"""Keeps the scale of a weight's column finite where all of it is zero."""

KINDS: dict[Any, int] = {
    np.int8: TensorProto.INT8,
    np.float16: TensorProto.FLOAT16,
    np.float32: TensorProto.FLOAT,
    np.int64: TensorProto.INT64,
}

Rows: TypeAlias = Literal["single", "gelu", "alike"]

Node = Any
_onnx: Any = onnx
_helper: Any = helper
_numpy_helper: Any = numpy_helper


class Graph:
    """One graph under construction.

    Args:
        quantise: compute linear layers in 8 bits.
        narrow: with weights of 7 bits, which is a third faster for many rows; for a few it is the same.
    """

    def __init__(self, *, quantise: bool, narrow: bool = False) -> None:
        self._quantise = quantise
        self._narrow = narrow
        self._nodes: list[Node] = []
        self._constants: dict[str, Node] = {}
        self._inputs: list[Node] = []
        self._outputs: list[Node] = []
        self._quantised: dict[tuple[str, Rows], tuple[str, str, str, str]] = {}

    def input(self, name: str, kind: type[np.generic], shape: list[int | str]) -> str:
        """A value given at run time; sizes that are not fixed have names."""
        self._inputs.append(_helper.make_tensor_value_info(name, KINDS[kind], shape))
        return name

    def output(self, value: str, name: str, kind: type[np.generic] = np.float32) -> None:
        """Hand a value out under a name."""
        self.add("Identity", value, name=name)
        self._outputs.append(_helper.make_tensor_value_info(name, KINDS[kind], None))

    def constant(self, value: npt.ArrayLike, kind: Any = np.float32) -> str:
        """A value that never changes."""
        array = np.ascontiguousarray(np.asarray(value, dtype=kind))
        name = f"constant_{len(self._constants)}"
        self._constants[name] = _numpy_helper.from_array(array, name)
        return name

    def add(self, operator: str, *inputs: str, name: str = "", domain: str = "", **attributes: Any) -> str:
        """Add a node with one output, and name that."""
        return self.add_many(operator, *inputs, names=[name], domain=domain, **attributes)[0]

    def add_many(
        self, operator: str, *inputs: str, names: list[str | None], domain: str = "", **attributes: Any
    ) -> list[str]:
        """Add a node with several outputs, one per name: an empty name is made up, None leaves the output out."""
        prefix = f"{operator}_{len(self._nodes)}"
        outputs = ["" if name is None else (name or f"{prefix}_{index}") for index, name in enumerate(names)]
        self._nodes.append(_helper.make_node(operator, list(inputs), outputs, domain=domain, **attributes))
        return outputs

    def halves(self, value: str) -> list[str]:
        """A value cut in two along its last axis."""
        return self.add_many("Split", value, names=["", ""], axis=-1, num_outputs=2)

    def ints(self, *values: int) -> str:
        """A vector of int64."""
        return self.constant(values, np.int64)

    def cast(self, value: str, kind: type[np.generic]) -> str:
        """The same numbers in another type."""
        return self.add("Cast", value, to=KINDS[kind])

    def reshape(self, value: str, *shape: int) -> str:
        """Another shape; 0 keeps a size, -1 is what is left."""
        return self.add("Reshape", value, self.ints(*shape))

    def transpose(self, value: str, *axes: int) -> str:
        """Another order of axes."""
        return self.add("Transpose", value, perm=list(axes))

    def norm(self, value: str, gamma: Float32, beta: Float32) -> str:
        """Layer norm over the last axis."""
        return self.add(
            "LayerNormalization", value, self.constant(gamma), self.constant(beta), axis=-1, epsilon=EPSILON
        )

    def add_and_norm(
        self, residual: str, value: str, bias: Float32, gamma: Float32, beta: Float32
    ) -> tuple[str, str]:
        """``residual + value + bias``, and the layer norm of it; in this order."""
        # Not the runtime's fused operator, which takes four times as long.
        total = self.add("Add", residual, self.add("Add", value, self.constant(bias)))
        normed = self.norm(total, gamma, beta)
        return total, normed

    def gelu(self, value: str, bias: Float32) -> str:
        """The exact Gaussian error linear unit of ``value + bias``."""
        return self.add("BiasGelu", value, self.constant(bias), domain=FUSED)

    def linear(self, value: str, weight: Float32, *, rows: Rows = "single") -> str:
        """``value @ weight.T``, for a weight of shape (outputs, inputs), without bias.

        Args:
            value: shape (..., inputs).
            weight: its constant factor.
            rows: how its rows are brought to 8 bits. ``"single"``: each scaled by its own greatest number, so that
                none depends on its neighbours. ``"gelu"``: the same for what `gelu` gave, whose least value is known.
                ``"alike"``: all together, which is cheapest; where they are known to be alike.
        """
        columns = np.ascontiguousarray(weight.T)
        if not self._quantise:
            return self.add("MatMul", value, self.constant(columns))
        ranges = np.maximum(np.abs(columns).max(axis=0), LEAST_RANGE)
        scale = ranges / (NARROW_LEVELS if self._narrow else WIDE_LEVELS)
        whole: Float32 = np.rint(columns / scale)
        if self._narrow:
            factors, middle = self.constant(whole, np.int8), ""
        else:
            factors, middle = (
                self.constant(whole + WIDE_ZERO, np.uint8),
                self.constant(WIDE_ZERO, np.uint8),
            )
        if (value, rows) not in self._quantised:
            self._quantised[value, rows] = self._in_bytes(value, rows)
        numbers, step, zero, factor = self._quantised[value, rows]
        operands = [numbers, factors, step, self.constant(scale), zero, *([middle] if middle else [])]
        product = self.add("MatMulIntegerToFloat", *operands, domain=FUSED)
        return self.add("Mul", product, factor) if factor else product

    def _in_bytes(self, value: str, rows: Rows) -> tuple[str, str, str, str]:
        """A value in 8 bits: the numbers, their step, which of them is zero, and each row's factor if it has one."""
        if rows == "alike":
            numbers, step, zero = self.add_many("DynamicQuantizeLinear", value, names=["", "", ""])
            return numbers, step, zero, ""
        if rows == "gelu":
            ranges = self.add("Max", self.add("ReduceMax", value, self.ints(-1)), self.constant(1.0))
            zero_level = ceil(LEVELS * GELU_DEPTH / (1 + GELU_DEPTH))
            step = self.constant(1 / (LEVELS - zero_level))
        else:
            # A row of zeros is divided by zero, which does no harm: whatever bytes that gives, it is their factor too.
            ranges = self.add("ReduceMax", self.add("Abs", value), self.ints(-1))
            zero_level = LEVELS // 2 + 1
            step = self.constant(1 / (LEVELS - zero_level))
        zero = self.constant(zero_level, np.uint8)
        return self.add("QuantizeLinear", self.add("Div", value, ranges), step, zero), step, zero, ranges

    def serialised(self, name: str) -> bytes:
        """The finished graph."""
        graph = _helper.make_graph(
            self._nodes, name, self._inputs, self._outputs, list(self._constants.values())
        )
        model = _helper.make_model(
            graph,
            opset_imports=[_helper.make_opsetid("", OPSET), _helper.make_opsetid(FUSED, 1)],
            ir_version=IR_VERSION,
        )
        return model.SerializeToString()
