"""From LiteRT's operators to the C library's kernels.

Padding goes into the convolution behind it, a reshape is nothing, an activation is a clamp, and every function of one
number a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nas.deploy.c import arithmetic
from nas.deploy.c.program import Constants, Kind, Map, Op, Program
from nas.deploy.c.reading import Quantized
from nas.deploy.litert_graph import Graph, Op as Operator
from nas.errors import BadInput

_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")


def program(graph: Graph, quantized: Sequence[Quantized | None] | None = None) -> Program:
    """The kernels that compute ``graph``; ``quantized``: its tensors' quantization, None for geometry alone.

    Raises BadInput naming an operator, or a form of one, that the C library has no kernel for.
    """
    lowering = _Lowering(graph, quantized)
    for op in graph.ops:
        lowering.operator(op)
    return Program(
        maps=tuple(lowering.maps),
        ops=tuple(lowering.ops),
        input=lowering.map_of(graph.input),
        output=lowering.map_of(graph.output),
    )


class _Lowering:
    """A program while it grows. ``same``: tensors that are another one's bytes; ``pads``: padded ones not made."""

    def __init__(self, graph: Graph, quantized: Sequence[Quantized | None] | None) -> None:
        self.graph, self.quantized = graph, quantized
        self.maps: list[Map] = []
        self.ops: list[Op] = []
        self.numbers: dict[int, int] = {}
        self.same: dict[int, int] = {}
        self.pads: dict[int, tuple[int, int]] = {}
        self.sigmoids: dict[int, Operator] = {}
        self.consumers: dict[int, list[Operator]] = {}
        for op in graph.ops:
            for tensor in op.inputs:
                self.consumers.setdefault(tensor, []).append(op)
        self.map_of(graph.input)

    def operator(self, op: Operator) -> None:
        match op.kind:
            case "CONV_2D" | "DEPTHWISE_CONV_2D":
                self.convolution(op)
            case "FULLY_CONNECTED":
                self.weighted("fully_connected", op)
            case "MEAN":
                self.mean(op)
            case "ADD":
                self.add(op)
            case "MUL":
                self.mul(op)
            case "HARD_SWISH" | "LOGISTIC":
                self.function(op)
            case "PAD":
                self.pad(op)
            case "RESHAPE":
                self.same[op.output] = self.root(op.inputs[0])
            case "TRANSPOSE":
                self.transpose(op)
            case _:
                raise BadInput(f"the C library has no kernel for LiteRT's operator {op.kind}")

    # ---- tensors ---------------------------------------------------------------------------------------------

    def root(self, tensor: int) -> int:
        return self.same.get(tensor, tensor)

    def map_of(self, tensor: int, shape: tuple[int, int, int] | None = None) -> int:
        """Position of a tensor's map, made where it is new."""
        tensor = self.root(tensor)
        if tensor not in self.numbers:
            full = self.graph.tensors[tensor].shape
            three = shape or (full[1:] if len(full) == 4 else (1, 1, full[-1]))
            if len(full) not in (2, 3, 4) or max(full) > 65535:
                raise BadInput(f"the C library takes maps of up to 65,535 rows, columns and channels, got {full}")
            scale, zero = (self.q(tensor).scale, self.q(tensor).zero) if self.quantized else (1.0, 0)
            self.numbers[tensor] = len(self.maps)
            self.maps.append(Map(shape=three, scale=scale, zero=zero))
        return self.numbers[tensor]

    def q(self, tensor: int) -> Quantized:
        assert self.quantized is not None
        found = self.quantized[tensor]
        if found is None:
            raise BadInput("C code takes int8 networks throughout; a tensor of this one is not quantized")
        return found

    def constant(self, tensor: int) -> Any:
        return self.graph.tensors[tensor].constant if tensor >= 0 else None

    def emit(
        self, kind: Kind, inputs: Sequence[int], output: int, constants: Constants | None, **geometry: Any
    ) -> None:
        shape = geometry.pop("shape", None)
        reads = tuple(self.map_of(x) for x in inputs)
        self.ops.append(
            Op(
                kind=kind,
                inputs=reads,
                output=self.map_of(output, shape),
                constants=constants if self.quantized else None,
                **geometry,
            )
        )

    def act(self, op: Operator) -> tuple[int, int]:
        q = self.q(op.output)
        return arithmetic.act_range(str(op.options.get("fusedActivationFunction", "NONE")), q.scale, q.zero)

    # ---- layers with weights ---------------------------------------------------------------------------------

    def convolution(self, op: Operator) -> None:
        source, weights = op.inputs[0], self.graph.tensors[op.inputs[1]].shape
        source, before = self.root(source), self.pads.get(source)
        height, width, in_ch = self.maps[self.map_of(source)].shape
        _, out_h, out_w, out_ch = self.graph.tensors[op.output].shape
        kernel, stride = weights[1:3], op.options["strideH"]
        assert isinstance(stride, int)
        if stride != op.options["strideW"] or {op.options.get(f"dilation{d}Factor", 1) for d in "HW"} != {1}:
            raise BadInput("the C library has no kernel for convolutions with dilation or two different strides")
        if before is None:
            same = op.options["padding"] == "SAME"
            before = (
                (_before(height, kernel[0], stride, out_h), _before(width, kernel[1], stride, out_w))
                if same
                else (0, 0)
            )
        alone = op.kind == "DEPTHWISE_CONV_2D" and in_ch == 1
        groups = 1 if alone else in_ch if op.kind == "DEPTHWISE_CONV_2D" else in_ch // weights[3]
        plain = groups == 1 and kernel == (1, 1) and before == (0, 0)
        several = in_ch >= 4  # fewer are no use to the depthwise kernels
        kind: Kind = "conv1x1" if plain else "depthwise" if several and groups == in_ch == out_ch else "conv"
        if plain and height * width == out_h * out_w == 1:
            kind = "fully_connected"
        padding = (before[0], 0, before[1], 0)
        self.weighted(kind, op, kernel=kernel, stride=stride, padding=padding, groups=groups)

    def weighted(self, kind: Kind, op: Operator, **geometry: Any) -> None:
        constants = self.layer_constants(kind, op) if self.quantized else None
        self.emit(kind, op.inputs[:1], op.output, constants, **geometry)

    def layer_constants(self, kind: Kind, op: Operator) -> Constants:
        weights, out_ch = self.constant(op.inputs[1]), self.graph.tensors[op.output].shape[-1]
        if weights is None or weights.dtype != np.int8:
            raise BadInput(f"C code takes int8 weights; those of a {op.kind} are not")
        if op.kind == "DEPTHWISE_CONV_2D":
            weights = weights[0] if kind == "depthwise" else weights.transpose(3, 1, 2, 0)
        elif weights.ndim == 2:
            weights = weights[:, None, None, :]
        bias = self.constant(op.inputs[2]) if len(op.inputs) > 2 else None
        axes = (0, 1) if kind == "depthwise" else (1, 2, 3)
        into, scales, out = self.q(op.inputs[0]), self.q(op.inputs[1]), self.q(op.output)
        if scales.zero:
            raise BadInput("C code takes weights with zero point 0")
        folded = np.zeros(out_ch, np.int64) if bias is None else bias.astype(np.int64)
        folded = folded - into.zero * weights.sum(axis=axes, dtype=np.int64)
        # a channel that is all bias: kept where no input makes its accumulator overflow
        room = 2**31 - 1 - 128 * np.abs(weights.astype(np.int64)).sum(axis=axes)
        points = [
            arithmetic.fixed_point(into.scale * float(s) / out.scale) for s in np.broadcast_to(scales.scales, out_ch)
        ]
        return Constants(
            weights=np.ascontiguousarray(weights),
            bias=np.clip(folded, -room, room).astype(np.int32),
            multiplier=tuple(m for m, _ in points),
            shift=tuple(s for _, s in points),
            act=self.act(op),
        )

    # ---- layers without --------------------------------------------------------------------------------------

    def mean(self, op: Operator) -> None:
        axes = self.constant(op.inputs[1])
        if sorted(np.ravel(axes).tolist()) != [1, 2] or len(self.graph.tensors[op.inputs[0]].shape) != 4:
            raise BadInput("the C library takes means over all pixels only")
        constants = None
        if self.quantized:
            into, out = self.q(op.inputs[0]), self.q(op.output)
            pixels = self.maps[self.map_of(op.inputs[0])].pixels
            constants = _one(*arithmetic.mean_point(into.scale / out.scale, pixels))
        self.emit("mean", op.inputs[:1], op.output, constants)

    def add(self, op: Operator) -> None:
        self.same_shapes(op)
        constants = None
        if self.quantized:
            x, y, out = (self.q(t).scale for t in (*op.inputs, op.output))
            common = 2 * max(x, y)
            points = [
                arithmetic.fixed_point(s) for s in (x / common, y / common, common / (2**arithmetic.ADD_BITS * out))
            ]
            constants = Constants(
                multiplier=tuple(m for m, _ in points), shift=tuple(s for _, s in points), act=self.act(op)
            )
        self.emit("add", op.inputs, op.output, constants)

    def mul(self, op: Operator) -> None:
        x, y = op.inputs
        for gate, other in ((x, y), (y, x)):
            if gate in self.sigmoids and self.sigmoids[gate].inputs[0] == other:
                return self.silu(op, self.sigmoids[gate])
        fixed = [t for t in op.inputs if self.graph.tensors[t].constant is not None]
        if fixed:
            return self.times(op, x if fixed[0] == y else y, fixed[0])
        if self.graph.tensors[x].elements < self.graph.tensors[y].elements:
            x, y = y, x
        shapes = [self.maps[self.map_of(t)].shape for t in (x, y)]
        if shapes[0] != shapes[1] and (shapes[1][:2] != (1, 1) or shapes[0][2] != shapes[1][2]):
            raise BadInput(
                f"the C library multiplies maps of one shape or by one pixel, not {shapes[0]} by {shapes[1]}"
            )
        constants = None
        if self.quantized:
            point = arithmetic.fixed_point(arithmetic.mul_scale(*(self.q(t).scale for t in (x, y, op.output))))
            constants = _one(*point, act=self.act(op))
        self.emit("mul", (x, y), op.output, constants)

    def times(self, op: Operator, x: int, factor: int) -> None:
        values = self.constant(factor)
        if self.graph.tensors[factor].elements != 1:
            raise BadInput("the C library multiplies by one constant number, not by many")
        constants = None
        if self.quantized:
            q, p, out = self.q(x), self.q(factor), self.q(op.output)
            sides = (arithmetic.every(), q.scale, q.zero), (values.astype(np.int64).reshape(()), p.scale, p.zero)
            constants = Constants(table=arithmetic.mul_table(*sides, out.scale, out.zero, self.act(op)))
        self.emit("lookup", (x,), op.output, constants)

    def silu(self, op: Operator, sigmoid: Operator) -> None:
        """x times its own sigmoid: one table."""
        constants = None
        if self.quantized:
            q, p, out = self.q(sigmoid.inputs[0]), self.q(sigmoid.output), self.q(op.output)
            gate = arithmetic.logistic_table(q.scale, q.zero, p.scale, p.zero).astype(np.int64)
            sides = (arithmetic.every(), q.scale, q.zero), (gate, p.scale, p.zero)
            constants = Constants(table=arithmetic.mul_table(*sides, out.scale, out.zero, self.act(op)))
        self.emit("lookup", sigmoid.inputs, op.output, constants)

    def function(self, op: Operator) -> None:
        after = self.consumers.get(op.output, [])
        if op.kind == "LOGISTIC" and [(a.kind, op.inputs[0] in a.inputs) for a in after] == [("MUL", True)]:
            self.sigmoids[op.output] = op
            return
        constants = None
        if self.quantized:
            make = arithmetic.hard_swish_table if op.kind == "HARD_SWISH" else arithmetic.logistic_table
            q, out = self.q(op.inputs[0]), self.q(op.output)
            constants = Constants(table=make(q.scale, q.zero, out.scale, out.zero))
        self.emit("lookup", op.inputs, op.output, constants)

    def pad(self, op: Operator) -> None:
        amounts = np.reshape(self.constant(op.inputs[1]), (-1, 2)).tolist()
        if len(amounts) != 4 or amounts[0] != [0, 0] or amounts[3] != [0, 0]:
            raise BadInput("the C library pads rows and columns only")
        if all(
            a.kind in _CONVOLUTIONS and a.options["padding"] == "VALID" and a.inputs[0] == op.output
            for a in self.consumers.get(op.output, [])
        ):
            self.same[op.output] = self.root(op.inputs[0])
            self.pads[op.output] = (amounts[1][0], amounts[2][0])
            return
        self.emit("pad", op.inputs[:1], op.output, Constants(), padding=(*amounts[1], *amounts[2]))

    def transpose(self, op: Operator) -> None:
        """The middle of a channel shuffle; the maps before and behind are seen with their rows and columns again."""
        shape = self.graph.tensors[op.inputs[0]].shape
        if np.ravel(self.constant(op.inputs[1])).tolist() != [0, 2, 1]:
            raise BadInput("the C library transposes channels only, as a channel shuffle does")
        before = self.maps[self.map_of(op.inputs[0])].shape
        if shape[0] * shape[1] * shape[2] != before[0] * before[1] * before[2] or shape[1] * shape[2] != before[2]:
            raise BadInput("the C library transposes the channels of one pixel only, as a channel shuffle does")
        self.emit("shuffle", op.inputs[:1], op.output, Constants(), groups=shape[1], shape=before)

    def same_shapes(self, op: Operator) -> None:
        if any(self.constant(t) is not None for t in op.inputs):
            raise BadInput(f"the C library has no kernel for {op.kind} with a constant")
        shapes = [self.maps[self.map_of(t)].shape for t in op.inputs]
        if len(set(shapes)) != 1:
            raise BadInput(f"the C library adds maps of one shape, not {shapes[0]} and {shapes[1]}")


def _one(multiplier: int, shift: int, act: tuple[int, int] = (-128, 127)) -> Constants:
    return Constants(multiplier=(multiplier,), shift=(shift,), act=act)


def _before(size: int, kernel: int, stride: int, out: int) -> int:
    """Rows or columns that LiteRT's padding SAME puts before."""
    return max((out - 1) * stride + kernel - size, 0) // 2
