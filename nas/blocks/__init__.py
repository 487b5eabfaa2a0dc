"""Block kinds: what a network is made of, without torch. Every file of this package is loaded, and its kinds are known."""

from nas.blocks.activations import ACTIVATIONS, Act
from nas.blocks.block import (
    KINDS,
    LATER,
    Block,
    Channels,
    ChannelsOrNone,
    Groups,
    Kernel,
    Pixels,
    Stride,
    chain_error,
    from_key,
    round_channels,
)
from nas.blocks.mobile import DepthwiseSeparable, Head, InvertedResidual, Stem, squeeze_excite
from nas.blocks.operators import Conv, Linear, Norm, Operators, Padding, Part, norm_of
from nas.discovery import Files

Files(package=__name__, kind="block kind").modules()

__all__ = [
    "ACTIVATIONS",
    "KINDS",
    "LATER",
    "Act",
    "Block",
    "Channels",
    "ChannelsOrNone",
    "Conv",
    "DepthwiseSeparable",
    "Groups",
    "Head",
    "InvertedResidual",
    "Kernel",
    "Linear",
    "Norm",
    "Operators",
    "Padding",
    "Part",
    "Pixels",
    "Stem",
    "Stride",
    "chain_error",
    "from_key",
    "norm_of",
    "round_channels",
    "squeeze_excite",
]
