"""MobileNetV3-style spaces (Howard et al. 2019; elastic as in once-for-all, Cai et al. 2020).

Activation and squeeze-excite are choices of every stage, not constants of the family: on many int8 runtimes
h-swish and squeeze-excite cost more than the whole gain of quantization, so the device's table must decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from nas.blocks import Channels, DepthwiseSeparable
from nas.checks import checked
from nas.space import SearchSpace
from search_spaces.stages import Family, Stage, build_space, network_config, quarter_of_expanded, with_mobilenet_v2

ACTS = ("relu", "relu6", "hswish")
SE = (False, True)

# the paper's tables 1 and 2: (kernel, expansion) of the blocks, activation and squeeze-excite of every stage
LARGE = (
    ([(3, 1)], "relu", False),
    ([(3, 4), (3, 3)], "relu", False),
    ([(5, 3)] * 3, "relu", True),
    ([(3, 6), (3, 2.5), (3, 2.3), (3, 2.3)], "hswish", False),
    ([(3, 6)] * 2, "hswish", True),
    ([(5, 6)] * 3, "hswish", True),
)
SMALL = (
    ([(3, 1)], "relu", True),
    ([(3, 4.5), (3, 3.67)], "relu", False),
    ([(5, 4), (5, 6), (5, 6)], "hswish", True),
    ([(5, 3)] * 2, "hswish", True),
    ([(5, 6)] * 3, "hswish", True),
)


class MobileNetV3:
    """Constructors of the family's spaces, by the size of image they are made for."""

    @staticmethod
    @checked
    def digits(*, classes: Channels = 10, in_channels: Channels = 1) -> SearchSpace:
        """16 to 24 px, 0.3 to 3.6 million MACs: microcontroller size, trains in minutes on a laptop.

        Few pixels and many channels: that is where int8 arithmetic pays on a network this small.
        """
        family = Family(resolutions=(16, 20, 24), widths=(0.75, 1.0), stem=24, hidden=256, squeeze=quarter_of_expanded)
        stage = partial(Stage, depths=(1, 2), kernels=(3, 5), expansions=(2, 3), acts=ACTS, se=SE)
        stages = [stage(channels=64, stride=2), stage(channels=128, stride=2)]
        return with_mobilenet_v2("mobilenet_v3_digits", family, stages, classes=classes, in_channels=in_channels)

    @staticmethod
    @checked
    def cifar(*, classes: Channels = 10, in_channels: Channels = 3) -> SearchSpace:
        """24 to 40 px, a stem without stride, 2.5 to 114 million MACs."""
        family = Family(
            resolutions=(24, 32, 40),
            widths=(0.5, 0.75, 1.0),
            stem=16,
            stem_stride=1,
            first=16,
            hidden=384,
            squeeze=quarter_of_expanded,
        )
        stage = partial(Stage, kernels=(3, 5), acts=ACTS, se=SE)
        places = ((24, 1, (1, 2)), (40, 2, (1, 2, 3)), (80, 2, (1, 2, 3)), (112, 1, (1, 2)))
        stages = [stage(channels=c, stride=s, depths=d) for c, s, d in places]
        return with_mobilenet_v2("mobilenet_v3_cifar", family, stages, classes=classes, in_channels=in_channels)

    @staticmethod
    @checked
    def imagenet(*, classes: Channels = 1000, in_channels: Channels = 3) -> SearchSpace:
        """128 to 224 px, five stages of two to four blocks as in once-for-all, widths 0.75 to 1.25."""
        family = Family(
            resolutions=(128, 160, 192, 224),
            widths=(0.75, 1.0, 1.25),
            stem=16,
            first=16,
            hidden=960,
            features=1280,
            squeeze=quarter_of_expanded,
        )
        stage = partial(Stage, depths=(2, 3, 4), acts=ACTS, se=SE)
        stages = [stage(channels=c, stride=s) for c, s in ((24, 2), (40, 2), (80, 2), (112, 1), (160, 2))]
        return build_space("mobilenet_v3_imagenet", family, stages, classes=classes, in_channels=in_channels)

    @staticmethod
    @checked
    def imagenet_large(*, classes: Channels = 1000, in_channels: Channels = 3) -> SearchSpace:
        """MobileNetV3-Large and what is elastic around it: 128 to 224 px, widths 0.75 and 1."""
        stage = partial(Stage, kernels=(3, 5), acts=("relu", "hswish"), se=SE)
        stages = [
            stage(channels=16, stride=1, depths=(1,), kernels=(3,), expansions=(1,), kinds=(DepthwiseSeparable,)),
            stage(channels=24, stride=2, depths=(1, 2)),
            stage(channels=40, stride=2, depths=(1, 2, 3)),
            stage(channels=80, stride=2, depths=(2, 3, 4), expansions=(2.3, 2.5, 4, 6)),
            stage(channels=112, stride=1, depths=(1, 2)),
            stage(channels=160, stride=2, depths=(1, 2, 3)),
        ]
        return _around("large", LARGE, stages, hidden=960, features=1280, classes=classes, in_channels=in_channels)

    @staticmethod
    @checked
    def imagenet_small(*, classes: Channels = 1000, in_channels: Channels = 3) -> SearchSpace:
        """MobileNetV3-Small and what is elastic around it: 128 to 224 px, widths 0.75 and 1."""
        stage = partial(Stage, kernels=(3, 5), acts=("relu", "hswish"), se=SE)
        stages = [
            stage(channels=16, stride=2, depths=(1,), kernels=(3,), expansions=(1,), kinds=(DepthwiseSeparable,)),
            stage(channels=24, stride=2, depths=(1, 2), expansions=(3, 3.67, 4.5)),
            stage(channels=40, stride=2, depths=(1, 2, 3)),
            stage(channels=48, stride=1, depths=(1, 2)),
            stage(channels=96, stride=2, depths=(1, 2, 3)),
        ]
        return _around("small", SMALL, stages, hidden=576, features=1024, classes=classes, in_channels=in_channels)


def _around(
    size: str,
    published: Sequence[tuple[Sequence[tuple[int, float]], str, bool]],
    stages: Sequence[Stage],
    *,
    hidden: int,
    features: int,
    classes: int,
    in_channels: int,
) -> SearchSpace:
    family = Family(
        resolutions=(128, 160, 192, 224),
        widths=(0.75, 1.0),
        stem=16,
        stem_act="hswish",
        hidden=hidden,
        features=features,
        squeeze=quarter_of_expanded,
    )
    members = {
        f"mobilenet_v3_{size}_{width}_{resolution}": network_config(resolution, width, published)
        for width in family.widths
        for resolution in family.resolutions
    }
    name = f"mobilenet_v3_imagenet_{size}"
    return build_space(name, family, stages, classes=classes, in_channels=in_channels, members=members)
