"""Once-for-all's MobileNetV3 space (Cai et al., ICLR 2020): activation and squeeze-excite are fixed per stage."""

from __future__ import annotations

from nas.blocks import Channels, round_channels
from nas.checks import Positive, checked
from nas.space import SearchSpace
from search_spaces.stages import Family, Stage, build_space

RESOLUTIONS = (160, 176, 192, 208, 224)
"""Those that the published Note10 table covers."""


class OnceForAll:
    """Constructors of the published spaces."""

    @staticmethod
    @checked
    def mobilenet_v3(
        *,
        width: Positive = 1.2,
        resolutions: tuple[int, ...] = RESOLUTIONS,
        classes: Channels = 1000,
        in_channels: Channels = 3,
    ) -> SearchSpace:
        """Five stages of two to four blocks. ``width`` 1.2 is that of the published table and accuracy predictor."""
        family = Family(
            stem=16,
            stem_act="hswish",
            first=16,
            hidden=960,
            features=round_channels(1280 * width),
            squeeze=lambda before, mid: round_channels(mid / 4),
        )
        kinds = (
            (24, 2, "relu", False),
            (40, 2, "relu", True),
            (80, 2, "hswish", False),
            (112, 1, "hswish", True),
            (160, 2, "hswish", True),
        )
        stages = [
            Stage(channels=channels, stride=stride, depths=(2, 3, 4), acts=(act,), se=(se,))
            for channels, stride, act, se in kinds
        ]
        return build_space(
            f"ofa_mobilenet_v3_w{width:g}",
            family,
            stages,
            resolutions=resolutions,
            widths=(width,),
            classes=classes,
            in_channels=in_channels,
        )

    @staticmethod
    @checked
    def proxyless_nas(*, classes: Channels = 1000, in_channels: Channels = 3) -> SearchSpace:
        """ProxylessNAS's mobile space (Cai et al., ICLR 2019) at 224 px: six stages, blocks may be left out but the first."""
        family = Family(stem=32, first=16, hidden=1280, squeeze=lambda before, mid: 0)
        shared = {"kernels": (3, 5, 7), "expansions": (3, 6), "acts": ("relu6",)}
        stages = [
            Stage(channels=channels, stride=stride, depths=tuple(range(1, deepest + 1)), **shared)  # type: ignore[arg-type]
            for channels, stride, deepest in ((24, 2, 4), (40, 2, 4), (80, 2, 4), (96, 1, 4), (192, 2, 4), (320, 1, 1))
        ]
        return build_space(
            "proxyless_nas",
            family,
            stages,
            resolutions=(224,),
            widths=(1.0,),
            classes=classes,
            in_channels=in_channels,
        )
