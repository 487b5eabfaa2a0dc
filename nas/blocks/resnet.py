"""The blocks of residual networks (He et al., "Deep Residual Learning for Image Recognition", 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nas.blocks.activations import Act
from nas.blocks.block import Block, Channels, Kernel, Stride, T
from nas.blocks.operators import Operators


@dataclass(frozen=True, kw_only=True)
class BasicBlock(Block):
    """Two kxk convolutions, ``mid`` channels between them, and the input added before the last activation.

    ``downsample``: the input goes through a 1x1 convolution first, as it must where channels or size change.
    """

    kind: ClassVar[str] = "basic"
    read_from: ClassVar = {
        "in_ch": "conv1.in_ch",
        "mid": "conv1.out_ch",
        "out_ch": "conv2.out_ch",
        "kernel": "conv1.kernel",
    }
    mid: Channels
    kernel: Kernel = 3
    stride: Stride = 1
    act: Act = "relu"
    downsample: bool = False

    def compute(self, on: Operators[T], x: T) -> T:
        y = on.conv("conv1", x, self.mid, kernel=self.kernel, stride=self.stride, act=self.act)
        y = on.conv("conv2", y, self.out_ch, kernel=self.kernel)
        return on.add(_shortcut(self, on, x), y, act=self.act)


@dataclass(frozen=True, kw_only=True)
class Bottleneck(Block):
    """1x1 convolution to ``mid`` channels, kxk convolution, 1x1 convolution, and the input added; as ``BasicBlock``.

    The stride is that of the kxk convolution, as torchvision has it.
    """

    kind: ClassVar[str] = "bottleneck"
    read_from: ClassVar = {
        "in_ch": "conv1.in_ch",
        "mid": "conv1.out_ch",
        "out_ch": "conv3.out_ch",
        "kernel": "conv2.kernel",
    }
    mid: Channels
    kernel: Kernel = 3
    stride: Stride = 1
    act: Act = "relu"
    downsample: bool = False

    def compute(self, on: Operators[T], x: T) -> T:
        y = on.conv("conv1", x, self.mid, act=self.act)
        y = on.conv("conv2", y, self.mid, kernel=self.kernel, stride=self.stride, act=self.act)
        y = on.conv("conv3", y, self.out_ch)
        return on.add(_shortcut(self, on, x), y, act=self.act)


@dataclass(frozen=True, kw_only=True)
class Classifier(Block):
    """Global average pool and a linear layer to ``out_ch`` classes."""

    kind: ClassVar[str] = "classifier"
    read_from: ClassVar = {"in_ch": "classify.in_ch", "out_ch": "classify.out_ch"}

    def compute(self, on: Operators[T], x: T) -> T:
        return on.linear("classify", on.pool(x, flat=True), self.out_ch)


def _shortcut(block: BasicBlock | Bottleneck, on: Operators[T], x: T) -> T:
    return on.conv("downsample", x, block.out_ch, stride=block.stride) if block.downsample else x
