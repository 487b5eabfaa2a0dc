"""Fused MBConv: the block of EfficientNetV2 and of networks for the EdgeTPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nas.blocks.block import T
from nas.blocks.mobile import PROJECTED, Expanding, projected, squeeze_excite
from nas.blocks.operators import Operators


@dataclass(frozen=True, kw_only=True)
class FusedMBConv(Expanding):
    """kxk expansion to ``mid`` channels, optional squeeze-excite, linear 1x1 projection.

    One dense convolution instead of an inverted residual's expansion and depthwise one: more MACs, often less time
    (Gupta and Akin, "EfficientNet-EdgeTPU", 2019; Tan and Le, "EfficientNetV2", 2021).
    """

    kind: ClassVar[str] = "fused_mbconv"
    read_from: ClassVar = {
        **PROJECTED,
        "in_ch": "expand.in_ch",
        "mid": "expand.out_ch",
        "kernel": "expand.kernel",
    }

    def compute(self, on: Operators[T], x: T) -> T:
        y = on.conv("expand", x, self.mid, kernel=self.kernel, stride=self.stride, act=self.act)
        return projected(self, on, x, squeeze_excite(on, y, self.mid, self.se, self.act, self.se_act))
