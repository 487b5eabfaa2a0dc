"""Networks for microcontrollers: int8 in some 64 KB to 1 MB of SRAM (Lin et al., "MCUNet", 2020).

Inverted residuals with ReLU or ReLU6 and without squeeze-excite: all that they compute has a kernel of a few lines in C.
Large kernels cost little there, since depthwise convolutions work in place (``nas.deploy.c.plan``).
"""

from __future__ import annotations

from functools import partial

from nas.blocks import Channels
from nas.checks import checked
from nas.space import SearchSpace
from search_spaces.stages import Family, Stage, with_mobilenet_v2

_stage = partial(Stage, kernels=(3, 5, 7), acts=("relu", "relu6"))


class Mcu:
    """Constructors of the family's spaces, by the size of image they are made for."""

    @staticmethod
    @checked
    def small(*, classes: Channels = 10, in_channels: Channels = 3) -> SearchSpace:
        """32 to 64 px, a stem without stride, 0.7 to 89 million MACs."""
        family = Family(
            resolutions=(32, 48, 64), widths=(0.25, 0.5, 0.75, 1.0), stem=16, stem_stride=1, first=16, hidden=256
        )
        places = ((24, 2, (1, 2)), (40, 2, (1, 2, 3)), (80, 2, (1, 2, 3)), (96, 1, (1, 2)))
        stages = [_stage(channels=c, stride=s, depths=d, expansions=(2, 4, 6)) for c, s, d in places]
        return with_mobilenet_v2("mcu_small", family, stages, classes=classes, in_channels=in_channels)

    @staticmethod
    @checked
    def photos(*, classes: Channels = 10, in_channels: Channels = 3) -> SearchSpace:
        """64 to 160 px, 1 to 79 million MACs."""
        family = Family(resolutions=(64, 96, 128, 160), widths=(0.25, 0.35, 0.5), stem=16, first=16, hidden=640)
        places = ((24, 2), (40, 2), (80, 2), (96, 1), (160, 2))
        stages = [_stage(channels=c, stride=s, depths=(1, 2, 3), expansions=(3, 4, 6)) for c, s in places]
        return with_mobilenet_v2("mcu_photos", family, stages, classes=classes, in_channels=in_channels)
