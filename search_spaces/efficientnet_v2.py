"""EfficientNetV2-style spaces (Tan and Le 2021): in early stages, blocks are fused or not.

Fused ones have more MACs, and are faster where dense convolutions run better than depthwise ones, as on many NPUs and
GPUs: so the device's table must decide.
"""

from __future__ import annotations

from functools import partial

from nas.blocks import Channels, InvertedResidual
from nas.blocks.fused_mbconv import FusedMBConv
from nas.checks import checked
from nas.space import SearchSpace
from search_spaces.stages import Family, Stage, quarter_of_input, with_mobilenet_v2

ACTS = ("silu", "relu")
EITHER = (FusedMBConv, InvertedResidual)


class EfficientNetV2:
    """Constructors of the family's spaces, by the size of image they are made for."""

    @staticmethod
    @checked
    def cifar(*, classes: Channels = 10, in_channels: Channels = 3) -> SearchSpace:
        """24 to 40 px, a stem without stride, four stages of which two can be fused."""
        family = Family(
            resolutions=(24, 32, 40), widths=(0.5, 1.0), stem=16, stem_stride=1, hidden=384, squeeze=quarter_of_input
        )
        early = partial(Stage, kernels=(3, 5), expansions=(2, 4), acts=ACTS, kinds=EITHER)
        late = partial(Stage, kernels=(3, 5), expansions=(4, 6), acts=ACTS, se=(True, False))
        first = [early(channels=24, stride=1, depths=(1, 2)), early(channels=40, stride=2, depths=(1, 2, 3))]
        last = [late(channels=80, stride=2, depths=(1, 2, 3)), late(channels=112, stride=1, depths=(1, 2))]
        stages = first + last
        return with_mobilenet_v2("efficientnet_v2_cifar", family, stages, classes=classes, in_channels=in_channels)
