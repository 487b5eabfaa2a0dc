"""The layouts that can be read: names, and what the tensors' shapes do not say, as the libraries document them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nas.blocks import norm_of
from nas.layouts.layout import Family, Layout, Names, Parts
from nas.modules import Normalise

# mean and standard deviation, of pixels in [0, 1]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5,) * 3, (0.5,) * 3)
LITE = ((127 / 255,) * 3, (128 / 255,) * 3)
AS_THEY_ARE = ((0.0,) * 3, (1.0,) * 3)

# ---- names -------------------------------------------------------------------------------------------------------


def _normed(**names: tuple[str, str]) -> Parts:
    """Convolutions, each with the names there of itself and of the norm behind it."""
    return {ours: name for part, both in names.items() for ours, name in zip((part, norm_of(part)), both, strict=True)}


def _conv_bn(**names: str) -> Parts:
    """once-for-all's: a layer of one name has both."""
    return _normed(**{part: (f"{name}.conv", f"{name}.bn") for part, name in names.items()})


def _both(parts: Parts, squeeze: str, excite: str) -> tuple[Parts, Parts]:
    """With and without squeeze-excite."""
    return {**parts, "squeeze": squeeze, "excite": excite}, parts


def _numbered(*parts: str, squeeze: bool) -> Parts:
    """torchvision's MobileNetV3: convolutions and squeeze-excite of a block are numbered as they come."""
    at = len(parts) - 1  # of squeeze-excite, before the projection
    numbers = {part: i + (squeeze and i == at) for i, part in enumerate(parts)}
    layers = _normed(**{part: (f"{i}.0", f"{i}.1") for part, i in numbers.items()})
    return _both(layers, f"{at}.fc1", f"{at}.fc2")[0 if squeeze else 1]


_SEPARABLE = _normed(depthwise=("_depthwise_conv", "_bn1"), project=("_project_conv", "_bn2"))
EFFICIENTNET_PYTORCH = Names(
    library="efficientnet_pytorch",
    stem=_normed(conv=("_conv_stem", "_bn0")),
    block=r"_blocks\.(\d+)\.",
    separable=_both(_SEPARABLE, "_se_reduce", "_se_expand"),
    inverted=_both({**_normed(expand=("_expand_conv", "_bn0")), **_SEPARABLE}, "_se_reduce", "_se_expand"),
    head={**_normed(conv=("_conv_head", "_bn1")), "classify": "_fc"},
)

TIMM = Names(
    library="timm",
    stem=_normed(conv=("conv_stem", "bn1")),
    block=r"blocks\.(\d+)\.(\d+)\.",
    separable=_both(
        _normed(depthwise=("conv_dw", "bn1"), project=("conv_pw", "bn2")),
        "se.conv_reduce",
        "se.conv_expand",
    ),
    inverted=_both(
        _normed(expand=("conv_pw", "bn1"), depthwise=("conv_dw", "bn2"), project=("conv_pwl", "bn3")),
        "se.conv_reduce",
        "se.conv_expand",
    ),
    head={**_normed(conv=("conv_head", "bn2")), "classify": "classifier"},
)
# the last stage is the head's first convolution; the convolution after the pool has a bias
TIMM_V3_LARGE, TIMM_V3_SMALL = (
    replace(
        TIMM,
        block=rf"blocks\.([0-{last - 1}])\.(\d+)\.",
        head={
            **_normed(conv=(f"blocks.{last}.0.conv", f"blocks.{last}.0.bn1")),
            **{"features": "conv_head", "classify": "classifier"},
        },
    )
    for last in (6, 5)
)

TORCHVISION_V2 = Names(
    library="torchvision",
    stem=_normed(conv=("features.0.0", "features.0.1")),
    block=r"features\.(\d+)\.conv\.",
    separable=(_normed(depthwise=("0.0", "0.1"), project=("1", "2")),),
    inverted=(_normed(expand=("0.0", "0.1"), depthwise=("1.0", "1.1"), project=("2", "3")),),
    head={**_normed(conv=("features.18.0", "features.18.1")), "classify": "classifier.1"},
)
TORCHVISION_V3_LARGE, TORCHVISION_V3_SMALL = (
    Names(
        library="torchvision",
        stem=TORCHVISION_V2.stem,
        block=r"features\.(\d+)\.block\.",
        separable=tuple(_numbered("depthwise", "project", squeeze=se) for se in (True, False)),
        inverted=tuple(_numbered("expand", "depthwise", "project", squeeze=se) for se in (True, False)),
        head={
            **_normed(conv=(f"features.{last}.0", f"features.{last}.1")),
            **{"features": "classifier.0", "classify": "classifier.3"},
        },
    )
    for last in (16, 12)
)

ONCE_FOR_ALL = Names(
    library="once-for-all",
    stem=_conv_bn(conv="first_conv"),
    block=r"blocks\.(\d+)\.conv\.",
    separable=(_conv_bn(depthwise="depth_conv", project="point_linear"),),
    inverted=_both(
        _conv_bn(expand="inverted_bottleneck", depthwise="depth_conv", project="point_linear"),
        "depth_conv.se.fc.reduce",
        "depth_conv.se.fc.expand",
    ),
    head={
        **_conv_bn(conv="final_expand_layer"),
        **{"features": "feature_mix_layer.conv", "classify": "classifier.linear"},
    },
)

# ---- families ----------------------------------------------------------------------------------------------------


def _family(strides: tuple[int, ...], act: str, *, stem: str = "", first: int = 0, se: str = "relu") -> Family:
    """``first``: so many stages have relu; ``stem``: its activation where it is not ``act``."""
    acts = ("relu",) * first + (act,) * (len(strides) - first)
    return Family(strides=strides, acts=acts, stem_act=stem or act, se_act=se)


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
