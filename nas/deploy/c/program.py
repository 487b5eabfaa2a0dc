"""A network as the C library runs it: kernels in order, with geometry and fixed-point constants.

``of_model`` makes it of an int8 .tflite, ``of_blocks`` of blocks alone, without constants: the same kernels on the same
maps in the same order, so that memory planned for a row of blocks is that of the trained network.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nas.blocks import Block

Kind = Literal["conv1x1", "conv", "depthwise", "fully_connected", "mean", "add", "mul", "lookup", "pad", "shuffle"]


@dataclass(frozen=True, kw_only=True)
class Map:
    """A feature map: ``shape`` (height, width, channels), one byte each; real numbers are scale * (byte - zero)."""

    shape: tuple[int, int, int]
    scale: float = 1.0
    zero: int = 0

    @property
    def bytes(self) -> int:
        return math.prod(self.shape)

    @property
    def pixels(self) -> int:
        return self.shape[0] * self.shape[1]


@dataclass(frozen=True, kw_only=True, eq=False)
class Constants:
    """Of one kernel, as its struct in nas_kernels.h has them; () where the kind has none.

    ``weights``: int8, in the kernel's order. ``bias (out_ch,)`` int32. ``multiplier`` and ``shift``: per channel, or of
    add (x, y, out), or one. ``act``: least and most output. ``table (256,)`` int8.
    """

    weights: NDArray[np.int8] | tuple[()] = ()
    bias: NDArray[np.int32] | tuple[()] = ()
    multiplier: tuple[int, ...] = ()
    shift: tuple[int, ...] = ()
    act: tuple[int, int] = (-128, 127)
    table: NDArray[np.int8] | tuple[()] = ()


@dataclass(frozen=True, kw_only=True)
class Op:
    """One call of a kernel. ``inputs``, ``output``: positions in the program's maps.

    ``kernel`` (height, width), ``stride``, ``groups``: of convolutions; ``groups`` of a shuffle, too. ``padding``: rows
    above and below, columns left and right; those below and right only of "pad". ``constants``: None when made of blocks.
    """

    kind: Kind
    inputs: tuple[int, ...]
    output: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1
    constants: Constants | None = dataclasses.field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class Program:
    """``ops`` in order of execution on ``maps``; ``input`` and ``output`` are positions in ``maps``."""

    maps: tuple[Map, ...]
    ops: tuple[Op, ...]
    input: int
    output: int


def of_model(model: bytes) -> Program:
    """The program of a serialised int8 .tflite, with constants.

    Raises BadInput naming what the C library has no kernel for, and for a network that is not int8; NasError for what is
    no .tflite.
    """
    from nas.deploy.c.lowering import program
    from nas.deploy.c.reading import read

    return program(*read(model))


def of_blocks(blocks: Sequence[Block]) -> Program:
    """The program of a network given as its blocks, without constants. Raises BadInput as ``of_model`` does."""
    from nas.deploy.c.lowering import program
    from nas.deploy.litert_graph import lowered

    return program(lowered(blocks))


def filled(made: Program, seed: int = 0) -> Program:
    """``made``, its missing constants drawn at random: for counting, where no trained weights are needed."""
    rng = np.random.default_rng(seed)
    ops = [op if op.constants else dataclasses.replace(op, constants=_random(made, op, rng)) for op in made.ops]
    return dataclasses.replace(made, ops=tuple(ops))


def weights_shape(made: Program, op: Op) -> tuple[int, ...]:
    """Of a convolution's or fully connected layer's weights, in the kernel's order; () of other kinds."""
    if op.kind not in ("conv1x1", "conv", "depthwise", "fully_connected"):
        return ()
    (*_, into), (*_, out) = made.maps[op.inputs[0]].shape, made.maps[op.output].shape
    return (*op.kernel, out) if op.kind == "depthwise" else (out, *op.kernel, into // op.groups)


def _random(made: Program, op: Op, rng: np.random.Generator) -> Constants:
    shape = weights_shape(made, op)
    if shape:
        out = made.maps[op.output].shape[-1]
        fan_in = math.prod(shape) // out
        shift = max(0, round(math.log2(64 * math.sqrt(fan_in))) - 1)
        return Constants(
            weights=rng.integers(-127, 128, shape, np.int8),
            bias=rng.integers(-1000, 1000, out, np.int32),
            multiplier=tuple(rng.integers(2**30, 2**31, out).tolist()),
            shift=(shift,) * out,
        )
    match op.kind:
        case "lookup":
            return Constants(table=rng.integers(-128, 128, 256, np.int8))
        case "add":
            return Constants(multiplier=(2**30, 2**30, 2**30), shift=(0, 0, 18))
        case "mul":
            return Constants(multiplier=(2**30,), shift=(7,))
        case "mean":
            return Constants(multiplier=(2**30,), shift=(max(0, round(math.log2(made.maps[op.inputs[0]].pixels)) - 1),))
        case _:
            return Constants()
