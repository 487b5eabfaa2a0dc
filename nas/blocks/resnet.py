"""The blocks of residual networks (He et al., "Deep Residual Learning for Image Recognition", 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nas.blocks.activations import Act
from nas.blocks.block import Block, Channels, Kernel, Stride, T
from nas.blocks.operators import Operators

_FIRST = {"in_ch": "conv1.in_ch", "mid": "conv1.out_ch"}


@dataclass(frozen=True, kw_only=True)
class _Residual(Block):
    """``mid``: inner channels. The input is added before the last activation.

    ``downsample``: the input goes through a 1x1 convolution first, as it must where channels or size change.
    """

    mid: Channels
    kernel: Kernel = 3
    stride: Stride = 1
    act: Act = "relu"
    downsample: bool = False

    def _added(self, on: Operators[T], x: T, y: T) -> T:
        shortcut = on.conv("downsample", x, self.out_ch, stride=self.stride) if self.downsample else x
        return on.add(shortcut, y, act=self.act)


@dataclass(frozen=True, kw_only=True)
class BasicBlock(_Residual):
    """Two kxk convolutions, ``mid`` channels between them."""

    kind: ClassVar[str] = "basic"
    read_from: ClassVar = {**_FIRST, "out_ch": "conv2.out_ch", "kernel": "conv1.kernel"}

    def compute(self, on: Operators[T], x: T) -> T:
        y = on.conv("conv1", x, self.mid, kernel=self.kernel, stride=self.stride, act=self.act)
        return self._added(on, x, on.conv("conv2", y, self.out_ch, kernel=self.kernel))


@dataclass(frozen=True, kw_only=True)
class Bottleneck(_Residual):
    """1x1 convolution to ``mid`` channels, kxk convolution with the stride (as torchvision has it), 1x1 convolution."""

    kind: ClassVar[str] = "bottleneck"
    read_from: ClassVar = {**_FIRST, "out_ch": "conv3.out_ch", "kernel": "conv2.kernel"}

    def compute(self, on: Operators[T], x: T) -> T:
        y = on.conv("conv1", x, self.mid, act=self.act)
        y = on.conv("conv2", y, self.mid, kernel=self.kernel, stride=self.stride, act=self.act)
        return self._added(on, x, on.conv("conv3", y, self.out_ch))


@dataclass(frozen=True, kw_only=True)
class Classifier(Block):
    """Global average pool and a linear layer to ``out_ch`` classes."""

    kind: ClassVar[str] = "classifier"
    read_from: ClassVar = {"in_ch": "classify.in_ch", "out_ch": "classify.out_ch"}

    def compute(self, on: Operators[T], x: T) -> T:
        return on.linear("classify", on.pool(x, flat=True), self.out_ch)
