"""The layouts that can be read: names, and what the tensors' shapes do not say, as the libraries document them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nas.layouts.layout import Family, Layout, Names, Parts, Stage
from nas.modules import Normalise

# mean and standard deviation, of pixels in [0, 1]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5,) * 3, (0.5,) * 3)
LITE = ((127 / 255,) * 3, (128 / 255,) * 3)
AS_THEY_ARE = ((0.0,) * 3, (1.0,) * 3)

# ---- names -------------------------------------------------------------------------------------------------------


def _both(parts: Parts, squeeze: str, excite: str) -> tuple[Parts, Parts]:
    """With and without squeeze-excite."""
    return {**parts, "squeeze": squeeze, "excite": excite}, parts


def _numbered(*parts: str, squeeze: bool) -> Parts:
    """torchvision's MobileNetV3: convolutions and squeeze-excite of a block are numbered as they come."""
    found: dict[str, str] = {}
    for number, part in enumerate(parts):
        after = number + (squeeze and part == "project")
        found |= {part: f"{after}.0", f"{part}_norm": f"{after}.1"}
    at = len(parts) - 1
    return found | ({"squeeze": f"{at}.fc1", "excite": f"{at}.fc2"} if squeeze else {})


_DEPTHWISE = {"depthwise": "_depthwise_conv", "depthwise_norm": "_bn1"}
_PROJECT = {"project": "_project_conv", "project_norm": "_bn2"}
_EXPAND = {"expand": "_expand_conv", "expand_norm": "_bn0"}
EFFICIENTNET_PYTORCH = Names(
    library="efficientnet_pytorch",
    stem={"conv": "_conv_stem", "norm": "_bn0"},
    block=r"_blocks\.(\d+)\.",
    separable=_both({**_DEPTHWISE, **_PROJECT}, "_se_reduce", "_se_expand"),
    inverted=_both({**_EXPAND, **_DEPTHWISE, **_PROJECT}, "_se_reduce", "_se_expand"),
    head={"conv": "_conv_head", "norm": "_bn1", "classify": "_fc"},
)

TIMM = Names(
    library="timm",
    stem={"conv": "conv_stem", "norm": "bn1"},
    block=r"blocks\.(\d+)\.(\d+)\.",
    separable=_both(
        {"depthwise": "conv_dw", "depthwise_norm": "bn1", "project": "conv_pw", "project_norm": "bn2"},
        "se.conv_reduce",
        "se.conv_expand",
    ),
    inverted=_both(
        {
            **{"expand": "conv_pw", "expand_norm": "bn1", "depthwise": "conv_dw", "depthwise_norm": "bn2"},
            **{"project": "conv_pwl", "project_norm": "bn3"},
        },
        "se.conv_reduce",
        "se.conv_expand",
    ),
    head={"conv": "conv_head", "norm": "bn2", "classify": "classifier"},
)
# the last stage is the head's first convolution; the convolution after the pool has a bias
TIMM_V3_LARGE, TIMM_V3_SMALL = (
    replace(
        TIMM,
        block=rf"blocks\.([0-{last - 1}])\.(\d+)\.",
        head={
            **{"conv": f"blocks.{last}.0.conv", "norm": f"blocks.{last}.0.bn1"},
            **{"features": "conv_head", "classify": "classifier"},
        },
    )
    for last in (6, 5)
)

TORCHVISION_V2 = Names(
    library="torchvision",
    stem={"conv": "features.0.0", "norm": "features.0.1"},
    block=r"features\.(\d+)\.conv\.",
    separable=({"depthwise": "0.0", "depthwise_norm": "0.1", "project": "1", "project_norm": "2"},),
    inverted=(
        {
            **{"expand": "0.0", "expand_norm": "0.1", "depthwise": "1.0", "depthwise_norm": "1.1"},
            **{"project": "2", "project_norm": "3"},
        },
    ),
    head={"conv": "features.18.0", "norm": "features.18.1", "classify": "classifier.1"},
)
TORCHVISION_V3_LARGE, TORCHVISION_V3_SMALL = (
    Names(
        library="torchvision",
        stem=TORCHVISION_V2.stem,
        block=r"features\.(\d+)\.block\.",
        separable=tuple(_numbered("depthwise", "project", squeeze=se) for se in (True, False)),
        inverted=tuple(_numbered("expand", "depthwise", "project", squeeze=se) for se in (True, False)),
        head={
            **{"conv": f"features.{last}.0", "norm": f"features.{last}.1"},
            **{"features": "classifier.0", "classify": "classifier.3"},
        },
    )
    for last in (16, 12)
)

_ONE = {"depthwise": "depth_conv.conv", "depthwise_norm": "depth_conv.bn"}
_TWO = {"project": "point_linear.conv", "project_norm": "point_linear.bn"}
ONCE_FOR_ALL = Names(
    library="once-for-all",
    stem={"conv": "first_conv.conv", "norm": "first_conv.bn"},
    block=r"blocks\.(\d+)\.conv\.",
    separable=({**_ONE, **_TWO},),
    inverted=_both(
        {"expand": "inverted_bottleneck.conv", "expand_norm": "inverted_bottleneck.bn", **_ONE, **_TWO},
        "depth_conv.se.fc.reduce",
        "depth_conv.se.fc.expand",
    ),
    head={
        **{"conv": "final_expand_layer.conv", "norm": "final_expand_layer.bn"},
        **{"features": "feature_mix_layer.conv", "classify": "classifier.linear"},
    },
)

# ---- families ----------------------------------------------------------------------------------------------------


def _family(strides: tuple[int, ...], act: str, *, stem: str = "", first: int = 0, se: str = "relu") -> Family:
    """``first``: so many stages have relu; ``stem``: its activation where it is not ``act``."""
    stages = (Stage(stride=stride, act="relu" if s < first else act) for s, stride in enumerate(strides))
    return Family(stages=tuple(stages), stem_act=stem or act, se_act=se)


_SEVEN = (1, 2, 2, 2, 1, 2, 1)
EFFICIENTNET = _family(_SEVEN, "silu", se="silu")
RELU6 = _family(_SEVEN, "relu6")  # EfficientNet-Lite and MobileNetV2
V3_LARGE = _family((1, 2, 2, 2, 1, 2), "hswish", first=3)
V3_SMALL = _family((2, 2, 2, 1, 2), "hswish", first=2)
V3_LARGE_MINIMAL, V3_SMALL_MINIMAL = _family((1, 2, 2, 2, 1, 2), "relu"), _family((2, 2, 2, 1, 2), "relu")

# ---- layouts -----------------------------------------------------------------------------------------------------

_LITE_SIZES = (224, 240, 260, 280, 300)
_TIMM_LITE_SIZES = (224, 240, 260, 300, 380)
_B_SIZES = (224, 240, 260, 300, 380, 456, 528, 600, 672)
_TIMM_B_SIZES = (224, 256, 256, 288, 320, 448, 528, 600)


def _layouts(
    name: str,
    names: Names,
    family: Family,
    sizes: tuple[int, ...],
    normalise: Normalise,
    *,
    tf: bool = False,
    eps: float = 1e-5,
) -> list[Layout]:
    """Networks that are numbered in the order of their ``sizes``, where "#" is in ``name``. ``tf``: of TensorFlow's."""
    how: dict[str, Any] = {"padding": "tf", "eps": 1e-3} if tf else {"eps": eps}
    how |= {"names": names, "family": family, "normalise": normalise}
    return [Layout(name=name.replace("#", str(i)), size=size, **how) for i, size in enumerate(sizes)]


LAYOUTS: tuple[Layout, ...] = (
    *_layouts("efficientnet_lite#", EFFICIENTNET_PYTORCH, RELU6, _LITE_SIZES, LITE, tf=True),
    *_layouts("efficientnet_b#", EFFICIENTNET_PYTORCH, EFFICIENTNET, _B_SIZES, IMAGENET, tf=True),
    *_layouts("efficientnet_lite#", TIMM, RELU6, _TIMM_LITE_SIZES, IMAGENET),
    *_layouts("tf_efficientnet_lite#", TIMM, RELU6, _TIMM_LITE_SIZES, HALF, tf=True),
    *_layouts("efficientnet_b#", TIMM, EFFICIENTNET, _TIMM_B_SIZES, IMAGENET),
    *_layouts("efficientnet_b#_ra4", TIMM, EFFICIENTNET, (224, 240), HALF),
    *_layouts("efficientnet_b#_pruned", TIMM, EFFICIENTNET, _B_SIZES[:4], HALF, tf=True),
    *_layouts("tf_efficientnet_b#", TIMM, EFFICIENTNET, _B_SIZES, IMAGENET, tf=True),
    *_layouts("tf_efficientnet_b#_ap", TIMM, EFFICIENTNET, _B_SIZES, HALF, tf=True),
    *_layouts("mobilenetv2", TIMM, RELU6, (224,), IMAGENET),
    *_layouts("mobilenetv3_large", TIMM_V3_LARGE, V3_LARGE, (224,), IMAGENET),
    *_layouts("mobilenetv3_large_100_ra4", TIMM_V3_LARGE, V3_LARGE, (224,), HALF),
    *_layouts("mobilenetv3_large_150d", TIMM_V3_LARGE, V3_LARGE, (256,), HALF),
    *_layouts("mobilenetv3_large_100_miil", TIMM_V3_LARGE, V3_LARGE, (224,), AS_THEY_ARE),
    *_layouts("mobilenetv3_small", TIMM_V3_SMALL, V3_SMALL, (224,), IMAGENET),
    *_layouts("tf_mobilenetv3_large", TIMM_V3_LARGE, V3_LARGE, (224,), HALF, tf=True),
    *_layouts("tf_mobilenetv3_small", TIMM_V3_SMALL, V3_SMALL, (224,), HALF, tf=True),
    *_layouts("tf_mobilenetv3_large_minimal", TIMM_V3_LARGE, V3_LARGE_MINIMAL, (224,), HALF, tf=True),
    *_layouts("tf_mobilenetv3_small_minimal", TIMM_V3_SMALL, V3_SMALL_MINIMAL, (224,), HALF, tf=True),
    *_layouts("mobilenet_v2", TORCHVISION_V2, RELU6, (224,), IMAGENET),
    *_layouts("mobilenet_v3_large", TORCHVISION_V3_LARGE, V3_LARGE, (224,), IMAGENET, eps=1e-3),
    *_layouts("mobilenet_v3_small", TORCHVISION_V3_SMALL, V3_SMALL, (224,), IMAGENET, eps=1e-3),
)
