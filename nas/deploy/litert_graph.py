"""The LiteRT operators that blocks become: the graph litert-torch's converter makes of them, without the converter.

Batch norm is folded, activations are fused where LiteRT can fuse them, feature maps are NHWC. The operators give the
file that is written (``nas.deploy.litert_file``) and the memory that a microcontroller needs (``nas.deploy.arena``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nas.blocks import ACTIVATIONS, Block, Conv, Linear
from nas.checks import Batch, checked
from nas.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Weight:
    """Where a constant comes from: the block's position in the network, its part, and which array of the part.

    ``layout``: "OHWI", "1HWO" (depthwise), "OI" (fully connected), or "O" (bias). ``shift`` is added: a hard sigmoid is
    relu6(x + 3) / 6, and the 3 goes into the bias before it.
    """

    block: int
    part: str
    layout: str
    shift: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """``constant`` is None for what is computed, else its values, or the weight that holds them."""

    shape: tuple[int, ...]
    constant: NDArray[np.generic] | Weight | None = None

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Op:
    """One operator, named as in the schema; ``inputs`` and ``output`` are positions in the graph's tensors."""

    kind: str
    inputs: tuple[int, ...]
    output: int
    options: Mapping[str, int | str | bool] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Operators in order of execution; ``input`` and ``output`` are positions in ``tensors``."""

    tensors: tuple[Tensor, ...]
    ops: tuple[Op, ...]
    input: int
    output: int


@checked
def lowered(blocks: Sequence[Block], batch: Batch = 1) -> Graph:
    """The operators of a network, given as its blocks; input ``(batch, height, width, channels)``.

    Raises BadInput for a block kind without a LiteRT form, which it names.
    """
    building = _Building(batch)
    first = blocks[0]
    x = start = building.tensor((batch, first.size, first.size, first.in_ch))
    for position, block in enumerate(blocks):
        x = building.block(position, block, x)
    return Graph(tensors=tuple(building.tensors), ops=tuple(building.ops), input=start, output=x)


class _Building:
    """A graph while it grows: ``Operators`` on positions of tensors."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.tensors: list[Tensor] = []
        self.ops: list[Op] = []
        self.literals: dict[tuple[object, ...], int] = {}

    def tensor(self, shape: tuple[int, ...], constant: NDArray[np.generic] | Weight | None = None) -> int:
        self.tensors.append(Tensor(shape=shape, constant=constant))
        return len(self.tensors) - 1

    def literal(self, values: NDArray[np.generic]) -> int:
        """A constant; equal ones are stored once."""
        key = (values.dtype.str, values.shape, values.tobytes())
        if key not in self.literals:
            self.literals[key] = self.tensor(values.shape, values)
        return self.literals[key]

    def op(self, kind: str, inputs: tuple[int, ...], shape: tuple[int, ...], **options: int | str | bool) -> int:
        output = self.tensor(shape)
        self.ops.append(Op(kind=kind, inputs=inputs, output=output, options=options))
        return output

    def block(self, position: int, block: Block, x: int) -> int:
        self.position, self.kind, self.parts = position, block.kind, block.parts()
        return block.compute(self, x)

    def conv(self, name: str, x: int, out_ch: int, *, act: str = "", **sizes: object) -> int:
        part = self.parts[name]
        assert isinstance(part, Conv)
        n, height, _, channels = self.tensors[x].shape
        x, padding = self.padded(x, part, height)
        # a convolution of one channel (a grey image) is the depthwise one with as many outputs per input
        depthwise = part.depthwise or part.in_ch == 1
        if depthwise:
            shape, layout = (1, part.kernel, part.kernel, part.out_ch), "1HWO"
        else:
            shape, layout = (part.out_ch, part.kernel, part.kernel, part.in_ch // part.groups), "OHWI"
        y = self.op(
            "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D",
            (x, *self.weights(name, shape, layout, act)),
            (n, part.size, part.size, part.out_ch),
            padding=padding,
            strideW=part.stride,
            strideH=part.stride,
            fusedActivationFunction=_fused(act),
            **({"depthMultiplier": part.out_ch // channels} if depthwise else {}),
        )
        return self.activation(y, act)

    def linear(self, name: str, x: int, out_ch: int, *, act: str = "") -> int:
        part = self.parts[name]
        assert isinstance(part, Linear)
        y = self.op(
            "FULLY_CONNECTED",
            (x, *self.weights(name, (part.out_ch, part.in_ch), "OI", act)),
            (self.batch, part.out_ch),
            fusedActivationFunction=_fused(act),
            keepNumDims=True,
        )
        return self.activation(y, act)

    def pool(self, x: int, *, flat: bool = False) -> int:
        n, _, _, channels = self.tensors[x].shape
        shape = (n, channels) if flat else (n, 1, 1, channels)
        return self.op("MEAN", (x, self.literal(np.array([1, 2], np.int32))), shape, keepDims=not flat)

    def scale(self, x: int, gate: int) -> int:
        return self.op("MUL", (x, gate), self.tensors[x].shape)

    def add(self, x: int, y: int, *, act: str = "") -> int:
        if act and ACTIVATIONS[act].shift:
            raise BadInput(f"blocks of kind {self.kind!r} have no LiteRT form: {act} after a sum")
        options = {"fusedActivationFunction": _fused(act)} if act else {}
        return self.activation(self.op("ADD", (x, y), self.tensors[y].shape, **options), act)

    def shuffle(self, x: int, groups: int) -> int:
        """One transposition, since NHWC keeps channels innermost."""
        n, height, width, channels = self.tensors[x].shape
        apart = self.reshape(x, (n * height * width, groups, channels // groups))
        shape = (n * height * width, channels // groups, groups)
        turned = self.op("TRANSPOSE", (apart, self.literal(np.array([0, 2, 1], np.int32))), shape)
        return self.reshape(turned, (n, height, width, channels))

    def custom(self, name: str, xs: Sequence[int], torch: object, *, channels: int, size: int) -> int:
        raise BadInput(f"blocks of kind {self.kind!r} have no LiteRT form: their operator {name!r} is not LiteRT's")

    def activation(self, x: int, act: str) -> int:
        """What of an activation the operator before could not do."""
        if not act:
            return x
        how, shape = ACTIVATIONS[act], self.tensors[x].shape
        y = self.op(how.operator, (x,), shape) if how.operator else x
        if how.by_input:
            y = self.op("MUL", (x, y), shape)
        if how.factor != 1:
            y = self.op("MUL", (y, self.literal(np.array(how.factor, np.float32))), shape)
        return y

    def weights(self, name: str, shape: tuple[int, ...], layout: str, act: str) -> tuple[int, int]:
        """Weight and bias of a part."""
        weight = self.tensor(shape, Weight(block=self.position, part=name, layout=layout))
        shift = ACTIVATIONS[act].shift if act else 0.0
        channels = (shape[-1] if layout == "1HWO" else shape[0],)
        return weight, self.tensor(channels, Weight(block=self.position, part=name, layout="O", shift=shift))

    def padded(self, x: int, part: Conv, height: int) -> tuple[int, str]:
        """The input and the padding scheme that give the padding of ``part``.

        LiteRT's SAME pads what the windows need, and puts less of it before than after when that is odd.
        """
        same = max((part.size - 1) * part.stride + part.kernel - height, 0)
        if not any(part.padding):
            return x, "VALID"
        if part.padding == (same // 2, same - same // 2):
            return x, "SAME"
        n, _, _, channels = self.tensors[x].shape
        amounts = np.array([[0, 0], part.padding, part.padding, [0, 0]], np.int32)
        size = height + sum(part.padding)
        return self.op("PAD", (x, self.literal(amounts)), (n, size, size, channels)), "VALID"

    def reshape(self, x: int, shape: tuple[int, ...]) -> int:
        return self.op("RESHAPE", (x, self.literal(np.array(shape, np.int32))), shape)


def _fused(act: str) -> str:
    return ACTIVATIONS[act].fused if act else "NONE"
