"""What a layout is: the names of tensors, and what their shapes do not say of a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nas.blocks import Padding
from nas.modules import Normalise

Parts = Mapping[str, str]
"""Our name of a block's part -> the name there, of its tensors without the last word ("weight", "bias", ...)."""


@dataclass(frozen=True, kw_only=True)
class Names:
    """How a library names the tensors of a network.

    ``block``: a pattern of what the names of a block begin with; its groups number stage and block, or blocks alone.
    ``separable``, ``inverted``: parts of a block without and with expansion, each with squeeze-excite and without, where
    that changes names; a file has the first whose squeeze layer it names. ``convolution``: of a last stage that is the
    head's convolution already, as the pattern ``block`` would find it.
    """

    library: str
    stem: Parts
    block: str
    separable: tuple[Parts, ...]
    inverted: tuple[Parts, ...]
    head: Parts


@dataclass(frozen=True, kw_only=True)
class Stage:
    """``stride`` of its first block; the others have 1. ``blocks``: how many, where names do not tell, else 0."""

    stride: int
    act: str
    blocks: int = 0


@dataclass(frozen=True, kw_only=True)
class Family:
    """What is the same for all networks of a family. Blocks of the first stage have no expansion, all others have one.

    ``head_act``: "" for the last stage's.
    """

    stages: tuple[Stage, ...]
    stem_act: str
    se_act: str = "relu"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One network (or several that differ in shapes alone) as one library publishes it.

    ``name``: what the published files' names begin with. ``size``: height and width of the images that it was taught
    with, normalised by ``normalise`` (mean and standard deviation of each channel, of pixels in [0, 1]).
    """

    name: str
    names: Names
    family: Family
    size: int
    normalise: Normalise
    padding: Padding = "symmetric"
    eps: float = 1e-5

    @property
    def full_name(self) -> str:
        """With the library: "timm/efficientnet_b0"."""
        return f"{self.names.library}/{self.name}"
