"""The search space around a network that has learned something: its largest member is that network."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from nas.blocks import Block, Conv, Kernel, Pixels, round_channels
from nas.channels import is_removable, with_sorted_channels
from nas.checks import Count, Text, checked
from nas.errors import BadInput
from nas.genes import block_gene, choices_of_block, stage_gene
from nas.modules import Network, weights_digest
from nas.space import Archs, Choice, SearchSpace, Slot

Ratio = Annotated[float, Meta(gt=0, le=1)]

SIZES = (0.5, 0.625, 0.75, 0.875)
"""Of the network's resolution: those that are tried beside its own, in whole multiples of ``STEP`` pixels."""
STEP = 8


class SpaceAround(SearchSpace):
    """A space that starts from weights: its largest member's, ``source``, whose channels are in order of importance.

    ``start``: 16 hex digits of the weights that it was made from; ``fingerprint`` is of the networks alone.
    """

    def __init__(
        self, name: str, choices: Sequence[Choice], slots: Sequence[Slot], *, source: Network, start: str
    ) -> None:
        super().__init__(name, choices, slots)
        self.source = source
        self.start = start

    @property
    def whole(self) -> Archs:
        """The source itself at every resolution, ``(resolutions, genes)``, its own last."""
        archs = np.tile(self.sizes - 1, (int(self.sizes[0]), 1)).astype(np.uint8)
        archs[:, 0] = np.arange(len(archs))
        return archs


@checked
def around(
    network: Network,
    *,
    resolutions: tuple[Pixels, ...] | None = None,
    widths: tuple[Ratio, ...] = (0.75, 0.875),
    expansions: tuple[Ratio, ...] = (0.5, 0.75),
    min_kernel: Kernel = 3,
    min_depth: Count | None = None,
    name: Text = "around",
) -> SpaceAround:
    """The search space whose largest member is ``network``; a supernet of it starts from the network's weights.

    Genes: ``resolution`` (None: half to 7/8 of the network's own), ``width`` (share of all channels between image and
    classes), a stage's ``depth`` (its last residual blocks go, down to ``min_depth`` blocks, None: half of them), and a
    block's ``kernel`` (odd, down to ``min_kernel``) and ``expand`` (share of the inner channels, of kinds with ``mid``).
    The network's own value is always among a gene's; alternatives that make no difference are not. Its first and last
    block stay as they are; a stage is a block and what follows it with a residual and of the same kind and shape.

    Raises BadInput for a resolution above the network's, and for a network to which there is no alternative.
    """
    source = _Source(network.describe())
    last = len(source.blocks) - 1
    sizes, shares = source.resolutions(resolutions), source.widths(widths)
    choices = [Choice("resolution", sizes), Choice("width", shares)]
    slots = [Slot("stem", ("resolution", "width"), source.slot(0))]
    for s, stage in enumerate(_stages(source.blocks), 1):
        fewest = min(len(stage), min_depth or math.ceil(len(stage) / 2))
        depths, deep = tuple(range(fewest, len(stage) + 1)), stage_gene(s, "depth")
        choices.append(Choice(deep, depths))
        for b, i in enumerate(stage, 1):
            genes = {"kernel": source.kernels(i, min_kernel), "expand": source.expansions(i, expansions)}
            genes = {gene: values for gene, values in genes.items() if len(values) > 1}
            choices += choices_of_block(s, b, depths, genes)
            named = ("resolution", "width", deep, *(block_gene(s, b, gene) for gene in genes))
            slots.append(Slot(block_gene(s, b), named, source.slot(i, b, tuple(genes))))
    if last:
        slots.append(Slot("head", ("resolution", "width"), source.slot(last)))
    if all(len(choice.values) == 1 for choice in choices):
        raise BadInput(f"{name}: there is no alternative to this network of {last + 1} blocks at {sizes[0]} px")
    start = weights_digest(repr([block.key for block in source.blocks]), network)
    return SpaceAround(name, choices, slots, source=with_sorted_channels(network), start=start)


@dataclass(frozen=True, eq=False)
class _Source:
    """The network's blocks, and each as it is with fewer pixels or channels, or a smaller kernel."""

    blocks: tuple[Block, ...]

    def resolutions(self, wanted: tuple[int, ...] | None) -> tuple[int, ...]:
        own = self.blocks[0].size
        if wanted and max(wanted) > own:
            raise BadInput(f"the largest member is the network itself, at {own} px; got a resolution of {max(wanted)}")
        if wanted is None:
            wanted = tuple(math.ceil(own * share / STEP) * STEP for share in SIZES)
        sizes = sorted({own, *(size for size in wanted if size < own)})
        return _different(sizes, lambda size: sum(block.macs for block in self.at(size)))

    def widths(self, wanted: tuple[float, ...]) -> tuple[float, ...]:
        return _different(
            sorted({*wanted, 1.0}), lambda width: tuple(self.channels(i, width) for i in range(len(self.blocks)))
        )

    def kernels(self, i: int, smallest: int) -> tuple[int, ...]:
        own = getattr(self.blocks[i], "kernel", 1)
        return (*range(smallest, own, 2), own)

    def expansions(self, i: int, wanted: tuple[float, ...]) -> tuple[float, ...]:
        return _different(sorted({*wanted, 1.0}), lambda share: self.channels(i, 1.0, share))

    def at(self, resolution: int) -> list[Block]:
        """The network for images of ``resolution`` pixels."""
        resized: list[Block] = []
        for block in self.blocks:
            resized.append(replace(block, size=resized[-1].out_size if resized else resolution))
        return resized

    def channels(self, i: int, width: float, expand: float = 1.0) -> tuple[tuple[str, int], ...]:
        """Block ``i``'s fields that are channel counts, in a network of ``width``; the inner ones times ``expand``."""
        block = self.blocks[i]
        inner = expand if hasattr(block, "mid") else 1.0
        shares = {f: width * inner for f, place in block.read_from.items() if place.endswith("_ch")}
        shares |= {"in_ch": width if i else 1.0, "out_ch": width if i < len(self.blocks) - 1 else 1.0}
        return tuple((f, self._fewer(getattr(block, f), share)) for f, share in shares.items())

    def slot(self, i: int, position: int = 1, genes: tuple[str, ...] = ()) -> Callable[..., Block | None]:
        """The function of a slot: of resolution, width, and in a stage its depth and the ``genes`` of the block."""
        at = cache(self.at)

        def block(resolution: int, width: float, depth: int = 1, *values: Any) -> Block | None:
            if position > depth:
                return None
            own = dict(zip(genes, values, strict=True))
            changed: dict[str, Any] = dict(self.channels(i, width, own.pop("expand", 1.0))) | own
            return replace(at(resolution)[i], **changed)

        return block

    def _fewer(self, channels: int, share: float) -> int:
        return channels if share == 1 else min(channels, round_channels(channels * share, self._divisor))

    @property
    def _divisor(self) -> int:
        """Of all channel counts: those of grouped convolutions are multiples of their groups."""
        parts = (part for block in self.blocks for part in block.parts().values())
        return math.lcm(8, *(part.groups for part in parts if isinstance(part, Conv)))


def _different(values: Sequence[Any], effect: Callable[[Any], Hashable]) -> tuple[Any, ...]:
    """``values``, rising, but those that have the effect of a larger one."""
    seen: dict[Hashable, Any] = {}
    for value in reversed(values):
        seen.setdefault(effect(value), value)
    return tuple(reversed(seen.values()))


def _stages(blocks: Sequence[Block]) -> list[list[int]]:
    """Positions of the blocks of every stage: all but the first and the last block."""
    stages: list[list[int]] = []
    for i in range(1, len(blocks) - 1):
        before, block = blocks[i - 1], blocks[i]
        same = i > 1 and block.kind == before.kind and block.out_shape == before.out_shape
        if same and is_removable(block):
            stages[-1].append(i)
        else:
            stages.append([i])
    return stages
