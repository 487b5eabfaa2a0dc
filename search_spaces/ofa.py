"""Once-for-all's MobileNetV3 space (Cai et al., ICLR 2020): activation and squeeze-excite are fixed per stage."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from nas.blocks import Channels, round_channels
from nas.checks import Positive, checked
from nas.genes import stage_config
from nas.space import SearchSpace, Value
from search_spaces.stages import Family, Stage, build_space, quarter_of_expanded

RESOLUTIONS = (160, 176, 192, 208, 224)
"""Those that the published Note10 table covers."""

ACTS = ("relu", "relu", "hswish", "hswish", "hswish")
SE = (False, True, False, True, True)


def published_config(
    depths: Sequence[int],
    kernels: Sequence[int],
    expansions: Sequence[float],
    *,
    resolution: int,
    width: float = 1.2,
    acts: Sequence[str] = ACTS,
    se: Sequence[bool] = SE,
) -> dict[str, Value]:
    """A network as once-for-all publishes it, as choices (``SearchSpace.encode``).

    ``kernels``, ``expansions``: one per block of the network, or as many per stage whether they are used or not.
    """
    config: dict[str, Value] = {"resolution": resolution, "width": width}
    apart = len(kernels) // len(depths) if len(kernels) > sum(depths) else 0
    start = 0
    for s, depth in enumerate(depths):
        blocks = list(zip(kernels[start : start + depth], expansions[start : start + depth], strict=True))
        config |= stage_config(s + 1, blocks, act=acts[s], se=se[s])
        start += apart or depth
    return config


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
            resolutions=resolutions,
            widths=(width,),
            stem=16,
            stem_act="hswish",
            first=16,
            hidden=960,
            features=round_channels(1280 * width),
            squeeze=quarter_of_expanded,
        )
        widths = ((24, 2), (40, 2), (80, 2), (112, 1), (160, 2))
        stages = [
            Stage(channels=channels, stride=stride, depths=(2, 3, 4), acts=(act,), se=(se,))
            for (channels, stride), act, se in zip(widths, ACTS, SE, strict=True)
        ]
        return build_space(f"ofa_mobilenet_v3_w{width:g}", family, stages, classes=classes, in_channels=in_channels)

    @staticmethod
    @checked
    def proxyless_nas(*, classes: Channels = 1000, in_channels: Channels = 3) -> SearchSpace:
        """ProxylessNAS's mobile space (Cai et al., ICLR 2019) at 224 px: six stages, blocks may be left out but the first."""
        family = Family(resolutions=(224,), widths=(1.0,), stem=32, first=16, hidden=1280)
        stage = partial(Stage, kernels=(3, 5, 7), expansions=(3, 6), acts=("relu6",))
        stages = [
            stage(channels=channels, stride=stride, depths=tuple(range(1, deepest + 1)))
            for channels, stride, deepest in ((24, 2, 4), (40, 2, 4), (80, 2, 4), (96, 1, 4), (192, 2, 4), (320, 1, 1))
        ]
        return build_space("proxyless_nas", family, stages, classes=classes, in_channels=in_channels)
