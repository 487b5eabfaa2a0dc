"""Where tensors lie in the one arena of the C library, for many networks at once.

Two tensors share memory when they are never alive together. Besides, an output may lie over an input that nobody reads
again: a kernel works forwards, so an output that starts ``lead`` bytes below its input overwrites only what the kernel
has finished with (``kernels.lead``). A depthwise convolution so needs its map and two rows instead of two maps, and a
1x1 convolution the larger of its maps (compare Zheng et al., "vMCU: coordinated memory management and kernel
optimization for DNN inference on MCUs", 2024). No copies, and no scratch memory.

Tensors are placed one by one, where they raise the arena least (compare Pisarchyk and Lee, "Efficient memory management
for deep neural net inference", 2020): those of the neediest operator first, and
of these once the last first, once the largest; the smaller arena is taken. What is planned for one network is what is
planned for it among many, to the byte.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.deploy.buffers import Buffers, Ints
from nas.deploy.c import kernels
from nas.deploy.c.program import Program

_FAR = 1 << 30  # where what is not placed yet lies


@dataclass(frozen=True, kw_only=True)
class Plan:
    """``offsets``: of every map, in bytes from the arena's start. ``scratch``: likewise, of every operator's scratch
    memory, -1 where it needs none. ``arena``: of everything, in bytes."""

    offsets: tuple[int, ...]
    scratch: tuple[int, ...]
    arena: int


def planned(program: Program) -> Plan:
    """Where the maps of a program lie."""
    buffers, maps, ops = _of_program(program)
    rows = Buffers([buffers], [len(program.ops)])
    start, arena = placed(rows.of(np.ones((1, 1), dtype=np.int64)), rows.most)
    offsets, scratch = [0] * len(program.maps), [-1] * len(program.ops)
    for at, a, op in zip(start[0].tolist(), maps, ops, strict=True):
        if a >= 0:
            offsets[a] = at
        else:
            scratch[op] = at
    return Plan(offsets=tuple(offsets), scratch=tuple(scratch), arena=int(arena[0]))


def buffers_of(program: Program) -> Ints:
    """``(k, fields)``: the program's buffers as ``Buffers`` takes them, its input first and its output last.

    Fields: bytes, first and last operator, bytes that the maps of the neediest operator need with which it is alive (of
    scratch memory one less), lead, and how many buffers before it those are that it may overlap, 0 for none.
    """
    return _of_program(program)[0]


def need(buffers: Ints) -> int:
    """Bytes of the neediest operator of ``buffers (k, fields)``: no network that holds it gets along with less."""
    inner = buffers[1:-1]
    scratch = inner[inner[:, 1] == inner[:, 2]]  # what a later operator reads is alive at two
    return int(max(buffers[:, 3].max(), (scratch[:, 0] + scratch[:, 3] + 1).max(initial=0)))


def placed(fields: Ints, most: int) -> tuple[Ints, Ints]:
    """Starts ``(n, width)`` and arena ``(n,)`` of networks, given the ``fields (fields, n, width)`` of their buffers.

    ``most``: no two buffers are alive together, or overlap, that are further apart in the row.
    """
    size, needy = fields[0], fields[3]
    scale = 1 + int(size.max(initial=0))
    # of equals the last first: what lies below its input needs room there, and its input is placed by it
    orders = [
        size.shape[1] - 1 - np.argsort(key[:, ::-1], axis=1, kind="stable") for key in (-needy, -needy * scale - size)
    ]
    tried = [_placed(fields, most, order) for order in orders]
    better = tried[1][1] < tried[0][1]
    return np.where(better[:, None], tried[1][0], tried[0][0]), np.where(better, tried[1][1], tried[0][1])


def _placed(fields: Ints, most: int, order: NDArray[np.intp]) -> tuple[Ints, Ints]:
    _, n, width = fields.shape
    near = np.arange(-most, most + 1)
    size, first, last, _, lead, back, other = (np.pad(f, ((0, 0), (most, most))).ravel() for f in fields)
    lead = np.minimum(lead, size)  # all of it below the input is no overlap any more
    start = np.full(size.shape, _FAR)
    row = (width + 2 * most) * np.arange(n) + most
    low, high = np.zeros((2, n), dtype=np.int64)
    for i in order.T:
        here = i + row
        mine = size.take(here)
        if not mine.any():
            break
        others = here[:, None] + near
        at = start.take(others)
        free = (
            (at == _FAR)
            | (first.take(others) > last.take(here)[:, None])
            | (last.take(others) < first.take(here)[:, None])
        )
        # it may start neither between these two, nor overlap whoever lies there
        under, over = at - mine[:, None], at + size.take(others)
        source = (near == -back.take(here)[:, None]) | (near == -other.take(here)[:, None])
        made = (near == back.take(others)) | (near == other.take(others))
        under = np.where(source, at - lead.take(here)[:, None], under)
        over = np.where(made, at + lead.take(others), over)
        under[free], over[free] = _FAR, -_FAR
        up, down = _past(low, under, over), -_past(mine - high, -over, -under)
        chosen = np.where(up + mine - high <= np.maximum(low - down, 0), up, down)
        start[here] = np.where(mine > 0, chosen, _FAR)
        np.minimum(low, np.where(mine > 0, chosen, low), out=low)
        np.maximum(high, np.where(mine > 0, chosen + mine, high), out=high)
    starts = start.reshape(n, -1)[:, most : most + width]
    return np.where(fields[0] > 0, starts - low[:, None], 0), high - low


def _past(start: Ints, under: Ints, over: Ints) -> Ints:
    """The least places ``(n,)`` from ``start (n,)`` on that lie between no ``under`` and ``over (n, k)``."""
    at = start.copy()
    while True:
        blocked = np.where((under < at[:, None]) & (at[:, None] < over), over, -_FAR).max(axis=1)
        if (blocked == -_FAR).all():
            return at
        np.maximum(at, blocked, out=at)


def _of_program(program: Program) -> tuple[Ints, list[int], list[int]]:
    """Buffers, and of each its map, or -1 and the operator whose scratch it is."""
    last = {a: i for i, op in enumerate(program.ops) for a in op.inputs}
    rows: list[list[int]] = []
    column: dict[int, int] = {}
    owners: list[tuple[int, int]] = []

    def add(owner: tuple[int, int], size: int, first: int, last: int, *rest: int) -> None:
        owners.append(owner)
        rows.append([-(-size // kernels.ALIGNMENT) * kernels.ALIGNMENT, first, last, 0, *rest, *[0] * (3 - len(rest))])

    column[program.input] = 0
    add((program.input, -1), program.maps[program.input].bytes, 0, last.get(program.input, 0))
    for i, op in enumerate(program.ops):
        if scratch := kernels.scratch_bytes(program, op):
            add((-1, i), scratch, i, i)
        lead = kernels.lead(program, op)
        sources = op.inputs if op.kind == "add" else op.inputs[:1]
        back = [len(rows) - column[a] for a in dict.fromkeys(sources) if last[a] == i and lead is not None]
        column[op.output] = len(rows)
        add((op.output, -1), program.maps[op.output].bytes, i, last.get(op.output, i), lead or 0, *back)
    buffers = np.array(rows, dtype=np.int64)
    maps = np.array([a for a, _ in owners])
    for i, op in enumerate(program.ops):
        alive = (buffers[:, 1] <= i) & (i <= buffers[:, 2])
        least = _together(buffers, alive & (maps >= 0), column[op.output])
        # scratch memory finds room once the maps of its operator lie
        buffers[alive, 3] = np.maximum(buffers[alive, 3], np.where(maps[alive] >= 0, least, least - 1))
    return buffers, maps.tolist(), [op for _, op in owners]


def _together(buffers: Ints, alive: NDArray[np.bool_], output: int) -> int:
    """Least bytes for the buffers that are alive at an operator, its output overlapping one input where it may."""
    size, lead = int(buffers[output, 0]), int(buffers[output, 4])
    saved = [0]
    for back in buffers[output, 5:].tolist():
        if back:
            source = int(buffers[output - back, 0])
            saved.append(size + source - max(size, max(min(lead, size), 0) + source))
    return int(buffers[alive, 0].sum()) - max(saved)
