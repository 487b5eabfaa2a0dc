"""EfficientNet-style spaces (Tan and Le 2019) that include EfficientNet-Lite: swish or ReLU6, squeeze-excite or none."""

from __future__ import annotations

from functools import partial

from nas.blocks import Channels, DepthwiseSeparable
from nas.checks import checked
from nas.space import SearchSpace, Value
from search_spaces.stages import Family, Stage, build_space, network_config, quarter_of_input, with_mobilenet_v2

ACTS = ("silu", "relu6")
SE = (True, False)


class EfficientNet:
    """Constructors of the family's spaces, by the size of image they are made for."""

    @staticmethod
    @checked
    def digits(*, classes: Channels = 10, in_channels: Channels = 1) -> SearchSpace:
        """16 to 32 px, 0.07 to 2.4 million MACs."""
        family = Family(
            resolutions=(16, 24, 32), widths=(0.5, 1.0), stem=16, first=16, hidden=96, squeeze=quarter_of_input
        )
        stage = partial(Stage, kernels=(3, 5), expansions=(4, 6), acts=ACTS, se=SE)
        stages = [stage(channels=24, stride=2, depths=(1, 2)), stage(channels=40, stride=2, depths=(1, 2))]
        return with_mobilenet_v2("efficientnet_digits", family, stages, classes=classes, in_channels=in_channels)

    @staticmethod
    @checked
    def imagenet(*, classes: Channels = 1000, in_channels: Channels = 3) -> SearchSpace:
        """128 to 260 px, B0's stages with elastic depth, widths 0.75 to 1.1: B0 and Lite0 to Lite2 are members."""
        family = Family(
            resolutions=(128, 160, 192, 224, 240, 260),
            widths=(0.75, 1.0, 1.1),
            stem=32,
            hidden=1280,
            squeeze=lambda before, mid: before // 4,
            squeeze_act=lambda act: act,
            head_width=lambda width: 1.0,
        )
        stage = partial(Stage, kernels=(3, 5), acts=ACTS, se=SE)
        stages = [
            stage(channels=16, stride=1, depths=(1,), kernels=(3,), expansions=(1,), kinds=(DepthwiseSeparable,)),
            stage(channels=24, stride=2, depths=(1, 2, 3)),
            stage(channels=40, stride=2, depths=(1, 2, 3)),
            stage(channels=80, stride=2, depths=(2, 3, 4)),
            stage(channels=112, stride=1, depths=(2, 3, 4)),
            stage(channels=192, stride=2, depths=(3, 4, 5)),
            stage(channels=320, stride=1, depths=(1,)),
        ]
        members = {
            "efficientnet_b0": _scaled(224, 1.0, (1, 2, 2, 3, 3, 4, 1), "silu", True),
            "efficientnet_lite0": _scaled(224, 1.0, (1, 2, 2, 3, 3, 4, 1), "relu6", False),
            "efficientnet_lite1": _scaled(240, 1.0, (1, 3, 3, 4, 4, 5, 1), "relu6", False),
            "efficientnet_lite2": _scaled(260, 1.1, (1, 3, 3, 4, 4, 5, 1), "relu6", False),
        }
        return build_space(
            "efficientnet_imagenet", family, stages, classes=classes, in_channels=in_channels, members=members
        )


def _scaled(resolution: int, width: float, depths: tuple[int, ...], act: str, se: bool) -> dict[str, Value]:
    blocks = ((3, 1), (3, 6), (5, 6), (3, 6), (5, 6), (5, 6), (3, 6))  # kernel and expansion of the stages
    return network_config(resolution, width, [([b] * d, act, se) for b, d in zip(blocks, depths, strict=True)])
