"""The layouts that can be read: names, and what the tensors' shapes do not say, as the libraries document them."""

from __future__ import annotations

from nas.layouts.layout import Family, Layout, Names, Stage

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
LITE = ((127 / 255,) * 3, (128 / 255,) * 3)

TF = {"padding": "tf", "eps": 1e-3}

# ---- names -------------------------------------------------------------------------------------------------------

_SE = {"squeeze": "_se_reduce", "excite": "_se_expand"}
_PLAIN = {"depthwise": "_depthwise_conv", "depthwise_norm": "_bn1", "project": "_project_conv", "project_norm": "_bn2"}
_EXPANDING = {"expand": "_expand_conv", "expand_norm": "_bn0", **_PLAIN}
EFFICIENTNET_PYTORCH = Names(
    library="efficientnet_pytorch",
    stem={"conv": "_conv_stem", "norm": "_bn0"},
    block=r"_blocks\.(\d+)\.",
    separable=({**_PLAIN, **_SE}, _PLAIN),
    inverted=({**_EXPANDING, **_SE}, _EXPANDING),
    head={"conv": "_conv_head", "norm": "_bn1", "classify": "_fc"},
)

# ---- families ----------------------------------------------------------------------------------------------------

_STRIDES = (1, 2, 2, 2, 1, 2, 1)
EFFICIENTNET = Family(stages=tuple(Stage(stride=s, act="silu") for s in _STRIDES), stem_act="silu", se_act="silu")
EFFICIENTNET_LITE = Family(stages=tuple(Stage(stride=s, act="relu6") for s in _STRIDES), stem_act="relu6")

_LITE_SIZES = (224, 240, 260, 280, 300)
_B_SIZES = (224, 240, 260, 300, 380, 456, 528, 600)

LAYOUTS: tuple[Layout, ...] = (
    *(
        Layout(
            name=f"efficientnet_lite{i}",
            names=EFFICIENTNET_PYTORCH,
            family=EFFICIENTNET_LITE,
            size=size,
            normalise=LITE,
            padding="tf",
            eps=1e-3,
        )
        for i, size in enumerate(_LITE_SIZES)
    ),
)
