"""The kernels for DSP instructions on emulated cores: equal to the portable ones on this machine, to the bit."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from nas.deploy.c.build import host_outputs
from nas.deploy.c.emit import write_sources
from nas.deploy.c.program import Constants, Map, Op, Program, weights_shape
from nas.runtimes import CortexM

pytestmark = pytest.mark.skipif(
    not (shutil.which("arm-none-eabi-gcc") and shutil.which("qemu-system-arm") and shutil.which("cc")),
    reason="needs arm-none-eabi-gcc, qemu-system-arm and a C compiler",
)

# kind, channels, kernel, stride, groups: widths that are no multiple of what the kernels do at once, every special case of
# the depthwise kernel and what is none, and a last layer that sees everything
WINDOWS = [
    ("conv", 7, (3, 3), 1, 1),
    ("conv1x1", 13, (1, 1), 1, 1),
    ("depthwise", 13, (3, 3), 1, 13),
    ("depthwise", 13, (5, 5), 1, 13),
    ("depthwise", 13, (7, 7), 1, 13),
    ("depthwise", 13, (4, 2), 1, 13),
    ("conv1x1", 28, (1, 1), 1, 1),
    ("conv", 12, (3, 5), 1, 4),
    ("conv1x1", 21, (1, 1), 1, 1),
]
STRIDES = [
    ("conv", 9, (3, 3), 2, 1),
    ("depthwise", 9, (3, 3), 2, 9),
    ("conv1x1", 6, (1, 1), 1, 1),
    ("depthwise", 6, (5, 5), 2, 6),
    ("conv1x1", 17, (1, 1), 2, 1),
    ("conv1x1", 15, (1, 1), 1, 1),
]
MORE = [
    ("depthwise", 6, (7, 7), 2, 6),
    ("add", 6, (1, 1), 1, 1),
    ("depthwise", 6, (3, 3), 3, 6),
    ("mul", 6, (1, 1), 1, 1),
    ("add", 6, (1, 1), 1, 1),
]
DENSE = [("fully_connected", 43, (1, 1), 1, 1), ("fully_connected", 129, (1, 1), 1, 1)]


def program(layers, shape, seed):
    """``layers`` one after another, with constants of every sort: shifts to either side, multipliers and biases at their
    ends, and activations that end within a byte's range."""
    rng = np.random.default_rng(seed)
    maps, ops = [Map(shape=shape, zero=-7)], []
    for kind, channels, kernel, stride, groups in layers:
        h, w, _ = maps[-1].shape
        out = (-(-h // stride), -(-w // stride), channels)
        pad = [max((o - 1) * stride + k - i, 0) // 2 for o, k, i in zip(out, kernel, (h, w), strict=False)]
        inputs = (len(maps) - 1,) * (2 if kind in ("add", "mul") else 1)
        maps.append(Map(shape=out, zero=int(rng.choice([-128, -3, 11]))))
        op = Op(
            kind=kind,
            inputs=inputs,
            output=len(maps) - 1,
            kernel=kernel,
            stride=stride,
            padding=(pad[0], 0, pad[1], 0),
            groups=groups,
        )
        made = Program(maps=tuple(maps), ops=(op,), input=0, output=len(maps) - 1)
        ops.append(Op(**{**vars(op), "constants": constants(made, op, rng)}))
    return Program(maps=tuple(maps), ops=tuple(ops), input=0, output=len(maps) - 1)


def constants(made, op, rng):
    act = (-128, 127) if rng.random() < 0.6 else (-90, 101)
    if op.kind == "add":
        return Constants(multiplier=(2**30, 3 * 2**29, 2**30 + 7), shift=(0, 2, 18), act=act)
    if op.kind == "mul":
        return Constants(multiplier=(2**30 + 99,), shift=(6,), act=act)
    shape, n = weights_shape(made, op), made.maps[op.output].shape[-1]
    fan_in = int(np.prod(shape)) // n
    shift = np.full(n, round(np.log2(40 * np.sqrt(fan_in))))
    rare = rng.random(n) < 0.3
    multiplier, bias = rng.integers(2**30, 2**31, n), rng.integers(-3000, 3000, n)
    multiplier[rare] = rng.choice([2**30, 2**31 - 1], rare.sum())
    shift[rare] = rng.choice([-2, 0, 1, 21, 22, 30], rare.sum())
    bias[rare] = rng.choice([-1, 0, 2**28, -(2**28)], rare.sum())
    weights = rng.integers(-127, 128, shape, np.int8)
    return Constants(
        weights=weights,
        bias=bias.astype(np.int32),
        multiplier=tuple(multiplier.tolist()),
        shift=tuple(shift.tolist()),
        act=act,
    )


@pytest.mark.parametrize(
    ("layers", "shape", "core"),
    [
        (WINDOWS, (7, 9, 3), "cortex-m4"),
        (STRIDES, (33, 29, 5), "cortex-m33"),
        (MORE, (19, 22, 6), "cortex-m4"),
        (DENSE, (1, 1, 67), "cortex-m7"),
    ],
)
def test_outputs_are_those_of_the_portable_kernels(tmp_path, layers, shape, core):
    made = program(layers, shape, seed=len(layers))
    x = np.random.default_rng(0).integers(-128, 128, (3, *shape), np.int8)
    write_sources(tmp_path, made)
    expected = host_outputs(tmp_path, x)
    assert len(np.unique(expected)) > 20  # neither constant nor all at the ends of a byte's range
    assert np.array_equal(CortexM(core=core).run(made, x).outputs, expected)
