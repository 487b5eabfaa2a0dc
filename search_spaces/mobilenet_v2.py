"""MobileNetV2-style spaces (Sandler et al. 2018): ReLU6 or ReLU, no squeeze-excite. The safest choice for int8."""

from __future__ import annotations

from functools import partial

from nas.blocks import Channels
from nas.checks import checked
from nas.space import SearchSpace
from search_spaces.stages import Family, Stage, with_mobilenet_v2

ACTS = ("relu", "relu6")


class MobileNetV2:
    """Constructors of the family's spaces, by the size of image they are made for."""

    @staticmethod
    @checked
    def digits(*, classes: Channels = 10, in_channels: Channels = 1) -> SearchSpace:
        """16 to 32 px, 0.06 to 4 million MACs."""
        family = Family(resolutions=(16, 24, 32), widths=(0.5, 1.0), stem=16, hidden=64)
        stage = partial(Stage, kernels=(3, 5), expansions=(2, 4), acts=ACTS)
        stages = [stage(channels=c, stride=s, depths=(1, 2)) for c, s in ((16, 1), (32, 2), (48, 2))]
        return with_mobilenet_v2("mobilenet_v2_digits", family, stages, classes=classes, in_channels=in_channels)

    @staticmethod
    @checked
    def photos(*, classes: Channels = 10, in_channels: Channels = 3) -> SearchSpace:
        """64 to 96 px, 2 to 66 million MACs: photographs on a machine without a GPU. Few kinds of blocks to measure."""
        family = Family(resolutions=(64, 80, 96), widths=(0.5, 0.75, 1.0), stem=16, first=16, hidden=576, features=768)
        stage = partial(Stage, depths=(1, 2, 3), kernels=(3, 5), expansions=(3, 6), acts=("relu6",))
        stages = [stage(channels=c, stride=s) for c, s in ((24, 2), (40, 2), (80, 2), (112, 1), (160, 2))]
        return with_mobilenet_v2("mobilenet_v2_photos", family, stages, classes=classes, in_channels=in_channels)

    @staticmethod
    @checked
    def imagenet(*, classes: Channels = 1000, in_channels: Channels = 3) -> SearchSpace:
        """96 to 224 px, six stages, widths 0.35 to 1.4: all networks of the paper and of its published table of models."""
        family = Family(
            resolutions=(96, 128, 160, 192, 224),
            widths=(0.35, 0.5, 0.75, 1.0, 1.3, 1.4),
            stem=32,
            first=16,
            hidden=1280,
            head_width=lambda width: max(width, 1.0),
        )
        stages = [
            Stage(channels=24, stride=2, depths=(2, 3), acts=ACTS),
            Stage(channels=32, stride=2, depths=(2, 3, 4), acts=ACTS),
            Stage(channels=64, stride=2, depths=(2, 3, 4), acts=ACTS),
            Stage(channels=96, stride=1, depths=(2, 3, 4), acts=ACTS),
            Stage(channels=160, stride=2, depths=(2, 3, 4), acts=ACTS),
            Stage(channels=320, stride=1, depths=(1,), acts=ACTS),
        ]
        return with_mobilenet_v2(
            "mobilenet_v2_imagenet", family, stages, classes=classes, in_channels=in_channels, depths=(2, 3, 4, 3, 3, 1)
        )
