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
    ``separable``, ``inverted``: parts of a block without and with expansion, with squeeze-excite and then without: a block
    has the first whose squeeze layer is in the file. ``head``: with "features" where there is such a layer.
    """

    library: str
    stem: Parts
    block: str
    separable: tuple[Parts, ...]
    inverted: tuple[Parts, ...]
    head: Parts


@dataclass(frozen=True, kw_only=True)
class Family:
    """What is the same for all networks of a family. Blocks of the first stage have no expansion, all others have one.

    ``strides``: of each stage's first block, the others have 1; ``acts``: of the stages. The stem has stride 2, the head the
    last stage's activation.
    """

    strides: tuple[int, ...]
    acts: tuple[str, ...]
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
