"""The four reference networks of MLPerf Tiny, as operators without trained weights (Banbury et al., 2021).

What a network costs does not depend on its weights. Shapes are those of the published definitions; ``macs`` are checked
against the published counts by ``tests/test_cortex_m_runtime.py``.
"""

from __future__ import annotations

import numpy as np

from nas.deploy.c.lowering import program
from nas.deploy.c.program import Program
from nas.deploy.litert_graph import Graph, Op, Tensor

Shape = tuple[int, ...]


class _Network:
    """A graph while it grows: each method adds an operator and returns the position of its output."""

    def __init__(self, shape: Shape) -> None:
        self.tensors = [Tensor(shape=shape)]
        self.ops: list[Op] = []

    def _op(self, kind: str, inputs: tuple[int, ...], shape: Shape, **options: int | str | bool) -> int:
        self.tensors.append(Tensor(shape=shape))
        self.ops.append(Op(kind=kind, inputs=inputs, output=len(self.tensors) - 1, options=options))
        return len(self.tensors) - 1

    def _constant(self, shape: Shape, dtype: type = np.float32) -> int:
        self.tensors.append(Tensor(shape=shape, constant=np.zeros(shape, dtype)))
        return len(self.tensors) - 1

    def conv(self, x: int, out: int, kernel: tuple[int, int], stride: int = 1, act: str = "RELU") -> int:
        """``out`` 0: depthwise."""
        n, h, w, c = self.tensors[x].shape
        size = (n, -(-h // stride), -(-w // stride), out or c)
        weight = self._constant((out, *kernel, c) if out else (1, *kernel, c))
        more = {} if out else {"depthMultiplier": 1}
        kind = "CONV_2D" if out else "DEPTHWISE_CONV_2D"
        sides: dict[str, int | str] = {
            "strideW": stride,
            "strideH": stride,
            "padding": "SAME",
            "fusedActivationFunction": act,
        }
        return self._op(kind, (x, weight, self._constant((out or c,))), size, **sides, **more)

    def separable(self, x: int, out: int, stride: int = 1) -> int:
        return self.conv(self.conv(x, 0, (3, 3), stride), out, (1, 1))

    def add(self, x: int, y: int) -> int:
        return self._op("ADD", (x, y), self.tensors[x].shape, fusedActivationFunction="RELU")

    def mean(self, x: int) -> int:
        n, _, _, c = self.tensors[x].shape
        self.tensors.append(Tensor(shape=(2,), constant=np.array([1, 2], np.int32)))
        return self._op("MEAN", (x, len(self.tensors) - 1), (n, c), keepDims=False)

    def linear(self, x: int, out: int, act: str = "NONE") -> int:
        n, c = self.tensors[x].shape
        weights = (self._constant((out, c)), self._constant((out,)))
        return self._op("FULLY_CONNECTED", (x, *weights), (n, out), fusedActivationFunction=act, keepNumDims=True)

    def graph(self, output: int) -> Graph:
        return Graph(tensors=tuple(self.tensors), ops=tuple(self.ops), input=0, output=output)


def ic() -> Graph:
    """Image classification: ResNet-8 on 32x32x3."""
    net = _Network((1, 32, 32, 3))
    x = net.conv(0, 16, (3, 3))
    for out, stride in ((16, 1), (32, 2), (64, 2)):
        y = net.conv(net.conv(x, out, (3, 3), stride), out, (3, 3), act="NONE")
        x = net.add(x if stride == 1 else net.conv(x, out, (1, 1), stride, act="NONE"), y)
    return net.graph(net.linear(net.mean(x), 10))


def kws() -> Graph:
    """Keyword spotting: DS-CNN on 49x10x1."""
    net = _Network((1, 49, 10, 1))
    x = net.conv(0, 64, (10, 4), 2)
    for _ in range(4):
        x = net.separable(x, 64)
    return net.graph(net.linear(net.mean(x), 12))


def vww() -> Graph:
    """Visual wake words: MobileNetV1 of width 0.25 on 96x96x3."""
    net = _Network((1, 96, 96, 3))
    x = net.conv(0, 8, (3, 3), 2)
    for out, stride in [(16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5, (256, 2), (256, 1)]:
        x = net.separable(x, out, stride)
    return net.graph(net.linear(net.mean(x), 2))


def ad() -> Graph:
    """Anomaly detection: an autoencoder of fully connected layers on 640 values."""
    net = _Network((1, 640))
    x = 0
    for out in (128, 128, 128, 128, 8, 128, 128, 128, 128):
        x = net.linear(x, out, "RELU")
    return net.graph(net.linear(x, 640))


NETWORKS = {"ic": ic, "kws": kws, "vww": vww, "ad": ad}


def programs() -> dict[str, Program]:
    """Each as the C library runs it, without constants."""
    return {name: program(graph()) for name, graph in NETWORKS.items()}
