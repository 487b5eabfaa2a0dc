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

from nas.blocks import Block, Conv, DepthwiseSeparable, Head, InvertedResidual, Linear, Stem

FUSED = {"relu": "RELU", "relu6": "RELU6"}
"""Activations that LiteRT runs inside a convolution; hard-swish and SiLU are operators of their own."""


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


def lowered(blocks: Sequence[Block], batch: int = 1) -> Graph:
    """The operators of a network, given as its blocks; input ``(batch, height, width, channels)``."""
    building = _Building(batch)
    first = blocks[0]
    x = start = building.tensor((batch, first.size, first.size, first.in_ch))
    for position, block in enumerate(blocks):
        x = building.block(position, block, x)
    return Graph(tensors=tuple(building.tensors), ops=tuple(building.ops), input=start, output=x)


class _Building:
    """A graph while it grows. Every method adds operators and returns the tensor that they end in."""

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
        match block:
            case Stem():
                return self.conv(position, block, "conv", x, block.act)
            case DepthwiseSeparable():
                return self.bottleneck(position, block, x, x)
            case InvertedResidual():
                wide = self.conv(position, block, "expand", x, block.act)
                if block.groups > 1:
                    wide = self.shuffle(wide, block.groups)
                return self.bottleneck(position, block, wide, x)
            case Head():
                return self.head(position, block, x)
        raise TypeError(f"no LiteRT operators for {block}")

    def bottleneck(self, position: int, block: DepthwiseSeparable | InvertedResidual, wide: int, x: int) -> int:
        y = self.conv(position, block, "depthwise", wide, block.act)
        if block.se:
            y = self.squeeze_excite(position, block, y)
        y = self.conv(position, block, "project", y)
        return self.op("ADD", (x, y), self.tensors[y].shape) if block.residual else y

    def squeeze_excite(self, position: int, block: DepthwiseSeparable | InvertedResidual, x: int) -> int:
        n, _, _, channels = self.tensors[x].shape
        pooled = self.mean(x, (n, 1, 1, channels))
        squeezed = self.conv(position, block, "squeeze", pooled, "relu")
        if block.act == "silu":
            gate = self.conv(position, block, "excite", squeezed)
            gate = self.op("LOGISTIC", (gate,), self.tensors[gate].shape)
        else:
            gate = self.conv(position, block, "excite", squeezed, "relu6", shift=3.0)
            gate = self.op("MUL", (gate, self.literal(np.array(1 / 6, np.float32))), self.tensors[gate].shape)
        return self.op("MUL", (x, gate), self.tensors[x].shape)

    def head(self, position: int, block: Head, x: int) -> int:
        x = self.conv(position, block, "conv", x, block.act)
        x = self.mean(x, (self.batch, block.hidden))
        if block.features:
            x = self.linear(position, block, "features", x, block.act)
        return self.linear(position, block, "classify", x)

    def mean(self, x: int, shape: tuple[int, ...]) -> int:
        return self.op("MEAN", (x, self.literal(np.array([1, 2], np.int32))), shape, keepDims=len(shape) == 4)

    def conv(self, position: int, block: Block, name: str, x: int, act: str | None = None, shift: float = 0.0) -> int:
        part = block.parts()[name]
        assert isinstance(part, Conv)
        n, height, _, channels = self.tensors[x].shape
        x, padding = self.padded(x, part, height)
        # a convolution of one channel (a grey image) is the depthwise one with as many outputs per input
        depthwise = part.depthwise or part.in_ch == 1
        if depthwise:
            shape = (1, part.kernel, part.kernel, part.out_ch)
            weight = self.tensor(shape, Weight(block=position, part=name, layout="1HWO"))
            extra = {"depthMultiplier": part.out_ch // channels}
        else:
            shape = (part.out_ch, part.kernel, part.kernel, part.in_ch // part.groups)
            weight = self.tensor(shape, Weight(block=position, part=name, layout="OHWI"))
            extra = {}
        bias = self.tensor((part.out_ch,), Weight(block=position, part=name, layout="O", shift=shift))
        y = self.op(
            "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D",
            (x, weight, bias),
            (n, part.size, part.size, part.out_ch),
            padding=padding,
            strideW=part.stride,
            strideH=part.stride,
            fusedActivationFunction=FUSED.get(act or "", "NONE"),
            **extra,
        )
        return self.activation(y, act)

    def padded(self, x: int, part: Conv, height: int) -> tuple[int, str]:
        """The input and the padding scheme that give torch's padding, kernel // 2 on every side.

        LiteRT's SAME puts less before than after when the sum is odd, as it is with stride 2 on even sizes.
        """
        pad = part.kernel // 2
        same = max((part.size - 1) * part.stride + part.kernel - height, 0)
        if pad == 0:
            return x, "VALID"
        if same == 2 * pad:
            return x, "SAME"
        n, _, _, channels = self.tensors[x].shape
        amounts = np.array([[0, 0], [pad, pad], [pad, pad], [0, 0]], np.int32)
        size = height + 2 * pad
        return self.op("PAD", (x, self.literal(amounts)), (n, size, size, channels)), "VALID"

    def linear(self, position: int, block: Block, name: str, x: int, act: str | None = None) -> int:
        part = block.parts()[name]
        assert isinstance(part, Linear)
        weight = self.tensor((part.out_ch, part.in_ch), Weight(block=position, part=name, layout="OI"))
        bias = self.tensor((part.out_ch,), Weight(block=position, part=name, layout="O"))
        fused = FUSED.get(act or "", "NONE")
        y = self.op(
            "FULLY_CONNECTED",
            (x, weight, bias),
            (self.batch, part.out_ch),
            fusedActivationFunction=fused,
            keepNumDims=True,
        )
        return self.activation(y, act)

    def activation(self, x: int, act: str | None) -> int:
        shape = self.tensors[x].shape
        if act == "hswish":
            return self.op("HARD_SWISH", (x,), shape)
        if act == "silu":
            return self.op("MUL", (x, self.op("LOGISTIC", (x,), shape)), shape)
        return x

    def shuffle(self, x: int, groups: int) -> int:
        """Channels (groups, n) become (n, groups): one transposition, since NHWC keeps channels innermost."""
        n, height, width, channels = self.tensors[x].shape
        apart = self.reshape(x, (n * height * width, groups, channels // groups))
        shape = (n * height * width, channels // groups, groups)
        turned = self.op("TRANSPOSE", (apart, self.literal(np.array([0, 2, 1], np.int32))), shape)
        return self.reshape(turned, (n, height, width, channels))

    def reshape(self, x: int, shape: tuple[int, ...]) -> int:
        return self.op("RESHAPE", (x, self.literal(np.array(shape, np.int32))), shape)
