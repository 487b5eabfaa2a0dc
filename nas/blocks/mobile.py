"""The blocks of mobile networks: stem, MobileNet's depthwise-separable and inverted residual blocks, head."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from nas.blocks.activations import Act
from nas.blocks.block import LATER, Block, Channels, ChannelsOrNone, Groups, Kernel, Stride, T
from nas.blocks.operators import Operators


@dataclass(frozen=True, kw_only=True)
class Stem(Block):
    """kxk convolution, batch norm, activation: the first layer."""

    kind: ClassVar[str] = "stem"
    read_from: ClassVar = {"in_ch": "conv.in_ch", "out_ch": "conv.out_ch", "kernel": "conv.kernel"}
    kernel: Kernel = 3
    stride: Stride = 2
    act: Act = "relu"

    def compute(self, on: Operators[T], x: T) -> T:
        return on.conv("conv", x, self.out_ch, kernel=self.kernel, stride=self.stride, act=self.act)


PROJECTED = {"out_ch": "project.out_ch", "se": "squeeze.out_ch"}
"""The part of ``read_from`` that all have which end in ``projected``."""


@dataclass(frozen=True, kw_only=True)
class DepthwiseSeparable(Block):
    """Depthwise convolution, optional squeeze-excite, linear 1x1 projection (MobileNet's block without expansion).

    ``se``: channels of the squeeze layer, 0 for none; ``se_act``: its activation (EfficientNet's is silu). The gate is a
    sigmoid with ``silu`` and a hard sigmoid with every other activation, as in EfficientNet and MobileNetV3.
    """

    kind: ClassVar[str] = "separable"
    read_from: ClassVar = {**PROJECTED, "in_ch": "depthwise.in_ch", "kernel": "depthwise.kernel"}
    kernel: Kernel = 3
    stride: Stride = 1
    se: ChannelsOrNone = 0
    act: Act = "relu"
    residual: bool = False
    se_act: Act = field(default="relu", metadata=LATER)

    def compute(self, on: Operators[T], x: T) -> T:
        return projected(self, on, x, _depthwise(self, on, x, self.in_ch))


@dataclass(frozen=True, kw_only=True)
class Expanding(Block):
    """Base of the blocks that expand to ``mid`` channels and end in a linear 1x1 projection."""

    mid: Channels
    kernel: Kernel = 3
    stride: Stride = 1
    se: ChannelsOrNone = 0
    act: Act = "relu"
    residual: bool = False
    se_act: Act = field(default="relu", metadata=LATER)


@dataclass(frozen=True, kw_only=True)
class InvertedResidual(Expanding):
    """1x1 expansion to ``mid`` channels, depthwise convolution, optional squeeze-excite, linear 1x1 projection.

    MobileNetV2's block (Sandler et al. 2018), with squeeze-excite as in MobileNetV3 (Howard et al. 2019).
    ``se`` and the gate as in ``DepthwiseSeparable``. ``groups``: of both 1x1 convolutions; with more than one, channels
    are shuffled between the groups after the expansion (FBNet, Wu et al. 2019).
    """

    kind: ClassVar[str] = "inverted_residual"
    read_from: ClassVar = {
        **PROJECTED,
        "in_ch": "expand.in_ch",
        "mid": "depthwise.in_ch",
        "kernel": "depthwise.kernel",
        "groups": "expand.groups",
    }
    groups: Groups = field(default=1, metadata=LATER)

    def compute(self, on: Operators[T], x: T) -> T:
        y = on.conv("expand", x, self.mid, groups=self.groups, act=self.act)
        if self.groups > 1:
            y = on.shuffle(y, self.groups)
        return projected(self, on, x, _depthwise(self, on, y, self.mid), groups=self.groups)


@dataclass(frozen=True, kw_only=True)
class Head(Block):
    """1x1 convolution to ``hidden`` channels, global average pool, optional ``features`` layer, classifier.

    ``features`` > 0 adds a linear layer with activation between pool and classifier (MobileNetV3).
    ``out_ch`` is the number of classes.
    """

    kind: ClassVar[str] = "head"
    read_from: ClassVar = {
        "in_ch": "conv.in_ch",
        "hidden": "conv.out_ch",
        "features": "features.out_ch",
        "out_ch": "classify.out_ch",
    }
    hidden: Channels
    features: ChannelsOrNone = 0
    act: Act = "relu"

    def compute(self, on: Operators[T], x: T) -> T:
        x = on.pool(on.conv("conv", x, self.hidden, act=self.act), flat=True)
        if self.features:
            x = on.linear("features", x, self.features, act=self.act)
        return on.linear("classify", x, self.out_ch)


def squeeze_excite(on: Operators[T], x: T, channels: int, se: int, act: str, se_act: str = "relu") -> T:
    """``x`` gated per channel (Hu et al., "Squeeze-and-Excitation Networks", 2018); as it is with ``se`` 0."""
    if not se:
        return x
    squeezed = on.conv("squeeze", on.pool(x), se, norm=False, act=se_act)
    gate = on.conv("excite", squeezed, channels, norm=False, act="sigmoid" if act == "silu" else "hsigmoid")
    return on.scale(x, gate)


def projected(block: DepthwiseSeparable | Expanding, on: Operators[T], x: T, y: T, *, groups: int = 1) -> T:
    """The end of a block: ``y`` through a linear 1x1 convolution, and the block's input ``x`` added to a residual."""
    y = on.conv("project", y, block.out_ch, groups=groups)
    return on.add(x, y) if block.residual else y


def _depthwise(block: DepthwiseSeparable | InvertedResidual, on: Operators[T], x: T, channels: int) -> T:
    y = on.conv("depthwise", x, channels, kernel=block.kernel, stride=block.stride, depthwise=True, act=block.act)
    return squeeze_excite(on, y, channels, block.se, block.act, block.se_act)
