"""What a planner has to know of the kernels: how far an output may lie over its input, and their scratch memory.

Every kernel makes its output in steps (nas_kernels.h names them) and reads no input that only earlier steps needed. An
output may so lie over an input that nobody reads again, as in Zheng et al., "vMCU" (2024).
"""

from __future__ import annotations

import math

from nas.deploy.c.program import Op, Program, weights_shape

ALIGNMENT = 4
"""Bytes, of every map and of scratch."""
PIXELS = 4
"""Output pixels of one step of a 1x1 convolution."""
DEPTHWISE = 24
"""Output columns of one step of a depthwise convolution, which takes whole rows and at least one."""


def lead(program: Program, op: Op) -> int | None:
    """Bytes by which the output has to start before ``op.inputs[0]`` to lie over it; None: it must lie apart.

    Negative where it may start behind; a multiple of ``ALIGNMENT``. Of an "add" it is the same for both inputs. The second
    input of a "mul" always lies apart.
    """
    most = max((written - needed for written, needed in _steps(program, op)), default=None)
    return None if most is None else -(-most // ALIGNMENT) * ALIGNMENT


def scratch_bytes(program: Program, op: Op) -> int:
    """Bytes that a kernel needs besides its maps while it runs, apart from them; the same for every core.

    What the kernels for DSP instructions widen to 16 bits: the inputs of two pixels (one of a fully connected layer), of a convolution with
    a window that window, too; of a depthwise one the rows of four channels that one step sees, and a channel's weights.
    """
    (height, width), shape = op.kernel, weights_shape(program, op)
    seen = -(-math.prod(shape[1:]) // 4) * 4
    match op.kind:
        case "conv1x1":
            return 4 * seen
        case "conv":
            return 5 * seen
        case "fully_connected":
            return 2 * seen
        case "depthwise":
            rows, columns, _ = program.maps[op.output].shape
            words = (op.stride * -(-columns // 4) * 4 + width) // 2
            return 4 * (4 * words * ((_rows(rows, columns) - 1) * op.stride + height) + height * (width - 1))
        case _:
            return 0


def constant_bytes(program: Program, op: Op) -> int:
    """Bytes of flash of an op's constants, without its struct: a table, or weights, biases, multipliers and shifts."""
    if op.kind == "lookup":
        return 256
    shape, channels = weights_shape(program, op), program.maps[op.output].shape[-1]
    words = 2 * channels + -(-channels // 4)
    return 4 * (-(-math.prod(shape) // 4) + words) if shape else 0


def _steps(program: Program, op: Op) -> list[tuple[int, int]]:
    """Of each step: bytes written when it ends, and the first input byte that it still reads."""
    height, width, channels = program.maps[op.inputs[0]].shape
    rows, columns, out = program.maps[op.output].shape
    match op.kind:
        case "fully_connected":
            return []
        case "add" | "mul" | "lookup" | "mean":
            return [(0, 0)]  # as many bytes as it has read, within a word
        case "shuffle":
            return [(channels, 0)]
        case "conv1x1":
            return [
                (min(p + PIXELS, rows * columns) * out, _pixel(p, columns, op.stride, width) * channels)
                for p in range(0, rows * columns, PIXELS)
            ]
        case _:
            once = _rows(rows, columns) if op.kind == "depthwise" else 1
            return [
                (
                    min(y + once, rows) * columns * out,
                    max(0, min(y * op.stride - op.padding[0], height)) * width * channels,
                )
                for y in range(0, rows, once)
            ]


def _rows(rows: int, columns: int) -> int:
    """Rows of output of one step of a depthwise convolution."""
    return min(max(DEPTHWISE // columns, 1), rows)


def _pixel(p: int, columns: int, stride: int, width: int) -> int:
    """The input pixel that output pixel ``p`` of a 1x1 convolution reads."""
    return p // columns * stride * width + p % columns * stride
