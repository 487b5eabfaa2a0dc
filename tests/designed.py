"""Tables of networks as their papers have them, which several tests compare ours with."""

from __future__ import annotations

# stages of EfficientNet-B0 and MobileNetV2, (kernel, expansion, output channels, stride, blocks): they differ in three columns
EXPANSIONS, STRIDES = (1, 6, 6, 6, 6, 6, 6), (1, 2, 2, 2, 1, 2, 1)
B0 = [
    *zip(
        (3, 3, 5, 3, 5, 5, 3), EXPANSIONS, (16, 24, 40, 80, 112, 192, 320), STRIDES, (1, 2, 2, 3, 3, 4, 1), strict=True
    )
]
V2 = [*zip((3,) * 7, EXPANSIONS, (16, 24, 32, 64, 96, 160, 320), STRIDES, (1, 2, 3, 4, 3, 3, 1), strict=True)]
# MobileNetV3: per stage its blocks, (kernel, expanded, output, squeeze-excite channels (0: none), activation, stride)
V3_LARGE = [
    [(3, 16, 16, 0, "relu", 1)],
    [(3, 64, 24, 0, "relu", 2), (3, 72, 24, 0, "relu", 1)],
    [(5, 72, 40, 24, "relu", 2), (5, 120, 40, 32, "relu", 1), (5, 120, 40, 32, "relu", 1)],
    [(3, mid, 80, 0, "hswish", stride) for mid, stride in ((240, 2), (200, 1), (184, 1), (184, 1))],
    [(3, 480, 112, 120, "hswish", 1), (3, 672, 112, 168, "hswish", 1)],
    [(5, 672, 160, 168, "hswish", 2), (5, 960, 160, 240, "hswish", 1), (5, 960, 160, 240, "hswish", 1)],
]
V3_SMALL = [
    [(3, 16, 16, 8, "relu", 2)],
    [(3, 72, 24, 0, "relu", 2), (3, 88, 24, 0, "relu", 1)],
    [(5, 96, 40, 24, "hswish", 2), (5, 240, 40, 64, "hswish", 1), (5, 240, 40, 64, "hswish", 1)],
    [(5, 120, 48, 32, "hswish", 1), (5, 144, 48, 40, "hswish", 1)],
    [(5, 288, 96, 72, "hswish", 2), (5, 576, 96, 144, "hswish", 1), (5, 576, 96, 144, "hswish", 1)],
]
