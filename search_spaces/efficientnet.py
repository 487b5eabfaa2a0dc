"""EfficientNet-style spaces (Tan and Le 2019) that include EfficientNet-Lite: swish or ReLU6, squeeze-excite or none."""

from __future__ import annotations

from functools import partial

from nas.blocks import Channels
from nas.checks import checked
from nas.space import SearchSpace
from search_spaces.stages import Family, Stage, build_space, quarter_of_input

ACTS = ("silu", "relu6")
SE = (True, False)


class EfficientNet:
    """Constructors of the family's spaces, by the size of image they are made for."""

    @staticmethod
    @checked
    def digits(*, classes: Channels = 10, in_channels: Channels = 1) -> SearchSpace:
        """16 to 32 px, 0.1 to 4 million MACs."""
        family = Family(
            resolutions=(16, 24, 32), widths=(0.5, 1.0), stem=16, first=16, hidden=96, squeeze=quarter_of_input
        )
        stage = partial(Stage, kernels=(3, 5), expansions=(4, 6), acts=ACTS, se=SE)
        stages = [stage(channels=24, stride=2, depths=(1, 2)), stage(channels=40, stride=2, depths=(1, 2))]
        return build_space("efficientnet_digits", family, stages, classes=classes, in_channels=in_channels)

    @staticmethod
    @checked
    def imagenet(*, classes: Channels = 1000, in_channels: Channels = 3) -> SearchSpace:
        """128 to 240 px, B0's stages with elastic depth, widths 0.75 to 1.1."""
        family = Family(
            resolutions=(128, 160, 192, 224, 240),
            widths=(0.75, 1.0, 1.1),
            stem=32,
            first=16,
            hidden=1280,
            squeeze=quarter_of_input,
        )
        stage = partial(Stage, kernels=(3, 5), acts=ACTS, se=SE)
        stages = [
            stage(channels=24, stride=2, depths=(1, 2, 3)),
            stage(channels=40, stride=2, depths=(1, 2, 3)),
            stage(channels=80, stride=2, depths=(2, 3, 4)),
            stage(channels=112, stride=1, depths=(2, 3, 4)),
            stage(channels=192, stride=2, depths=(3, 4, 5)),
            stage(channels=320, stride=1, depths=(1,)),
        ]
        return build_space("efficientnet_imagenet", family, stages, classes=classes, in_channels=in_channels)
