"""What the MobileNet-style families share: stages of inverted residual blocks under common genes.

Genes of every space built here: ``resolution`` and ``width`` (a channel multiplier) for the whole network; per stage
``depth``, and where the family offers alternatives ``act`` (activation) and ``se`` (squeeze-excite); per block
``kernel`` and ``expand``; ``kind`` of a stage where its blocks can be of several. Stem and head take the activation of the first and the last stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas.blocks import Block, DepthwiseSeparable, Head, InvertedResidual, Stem, round_channels
from nas.genes import block_choices, block_gene, stage_config, stage_gene
from nas.space import Choice, SearchSpace, Slot, Value


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Alternatives of one stage. ``channels``: at width 1. ``stride``: of the first block.

    ``kinds``: of its blocks, with the fields of an inverted residual block (but ``mid`` in those that do not expand).
    """

    channels: int
    stride: int
    depths: tuple[int, ...]
    kernels: tuple[int, ...] = (3, 5, 7)
    expansions: tuple[float, ...] = (3, 4, 6)
    acts: tuple[str, ...] = ("relu",)
    se: tuple[bool, ...] = (False,)
    kinds: tuple[type[Block], ...] = (InvertedResidual,)


@dataclass(frozen=True, kw_only=True)
class Family:
    """What a space fixes outside its stages, and the alternatives of the whole network. Channels are given at width 1.

    ``first``: channels of a depthwise-separable block after the stem, 0 for none. ``squeeze``: squeeze channels from
    the block's (input, expanded) channels. ``features``: see ``Head``; it does not scale with width. ``stem_act``:
    activation of the stem where it is not that of the first stage. ``squeeze_act``: activation of the squeeze channels
    from that of the block. ``head_width``: by what ``hidden`` is multiplied at the network's width.
    """

    resolutions: tuple[int, ...]
    widths: tuple[float, ...]
    stem: int
    stem_stride: int = 2
    stem_act: str = ""
    first: int = 0
    hidden: int
    features: int = 0
    squeeze: Callable[[int, int], int] = lambda before, mid: 0
    squeeze_act: Callable[[str], str] = lambda act: "relu"
    head_width: Callable[[float], float] = lambda width: width


def quarter_of_input(before: int, mid: int) -> int:
    """EfficientNet's squeeze channels."""
    return round_channels(before / 4, divisor=4)


def quarter_of_expanded(before: int, mid: int) -> int:
    """MobileNetV3's squeeze channels."""
    return round_channels(mid / 4)


def shrunk(size: int, *strides: int) -> int:
    """Pixels of a side after convolutions with these strides."""
    for stride in strides:
        size = -(-size // stride)
    return size


def network_config(
    resolution: int, width: float, stages: Sequence[tuple[Sequence[tuple[int, float]], str, bool]]
) -> dict[str, Value]:
    """A configuration (``SearchSpace.encode``) of stages, each (blocks as in ``stage_config``, act, se)."""
    config: dict[str, Value] = {"resolution": resolution, "width": width}
    for s, (blocks, act, se) in enumerate(stages, 1):
        config |= stage_config(s, blocks, act=act, se=se)
    return config


def mobilenet_v2(
    family: Family, stages: Sequence[Stage], depths: Sequence[int] | None = None
) -> dict[str, dict[str, Value]]:
    """MobileNetV2 in these stages at every width and resolution, by names such as "mobilenet_v2_0.5_96".

    The baseline that a user would scale by hand: 3x3 kernels, the largest expansion, ReLU6 (ReLU where there is no
    other), no squeeze-excite. ``depths``: of the stages, by default the largest.
    """
    depths = depths or [max(stage.depths) for stage in stages]
    acts = ["relu6" if "relu6" in stage.acts else "relu" for stage in stages]
    parts = [([(3, max(stage.expansions))] * d, a, False) for stage, d, a in zip(stages, depths, acts, strict=True)]
    kinds: dict[str, Value] = {
        stage_gene(s, "kind"): InvertedResidual.kind for s, stage in enumerate(stages, 1) if len(stage.kinds) > 1
    }
    return {
        f"mobilenet_v2_{width}_{resolution}": network_config(resolution, width, parts) | kinds
        for width in family.widths
        for resolution in family.resolutions
    }


def build_space(
    name: str,
    family: Family,
    stages: Sequence[Stage],
    *,
    classes: int,
    in_channels: int,
    members: Mapping[str, Mapping[str, Value]] | None = None,
) -> SearchSpace:
    """The search space of ``stages`` in a ``family``; ``members``: see ``SearchSpace``."""
    choices = [Choice("resolution", family.resolutions), Choice("width", family.widths)]
    slots = _first_slots(family, in_channels)
    strides, before = [family.stem_stride], family.first or family.stem
    for s, stage in enumerate(stages, 1):
        genes: dict[str, tuple[Value, ...]] = {"depth": stage.depths, "act": stage.acts, "se": stage.se}
        kinds = {kind.kind: kind for kind in stage.kinds}
        searched = ("kind",) if len(kinds) > 1 else ()
        choices += [Choice(stage_gene(s, gene), values) for gene, values in genes.items()]
        choices += [Choice(stage_gene(s, gene), tuple(kinds)) for gene in searched]
        choices += block_choices(s, stage.depths, {"kernel": stage.kernels, "expand": stage.expansions})
        for b in range(1, max(stage.depths) + 1):
            names = (
                *("resolution", "width"),
                *(stage_gene(s, gene) for gene in genes),
                *(block_gene(s, b, gene) for gene in ("kernel", "expand")),
                *(stage_gene(s, gene) for gene in searched),
            )
            place = _Place(family=family, stage=stage, position=b, strides=tuple(strides), channels=before)
            slots.append(Slot(block_gene(s, b), names, place.block))
            if b == 1:
                strides.append(stage.stride)
        before = stage.channels

    def head(resolution: int, width: float, act: str) -> Block:
        return Head(
            in_ch=round_channels(before * width),
            hidden=round_channels(family.hidden * family.head_width(width)),
            features=family.features,
            out_ch=classes,
            size=shrunk(resolution, *strides),
            act=act,
        )

    slots.append(Slot("head", ("resolution", "width", stage_gene(len(stages), "act")), head))
    return SearchSpace(name, choices, slots, members=members or {})


def with_mobilenet_v2(
    name: str,
    family: Family,
    stages: Sequence[Stage],
    *,
    classes: int,
    in_channels: int,
    depths: Sequence[int] | None = None,
) -> SearchSpace:
    """``build_space`` with the members of ``mobilenet_v2(family, stages, depths)``."""
    members = mobilenet_v2(family, stages, depths)
    return build_space(name, family, stages, classes=classes, in_channels=in_channels, members=members)


def _first_slots(family: Family, in_channels: int) -> list[Slot]:
    def stem(resolution: int, width: float, act: str) -> Block:
        return Stem(
            in_ch=in_channels,
            out_ch=round_channels(family.stem * width),
            size=resolution,
            stride=family.stem_stride,
            act=family.stem_act or act,
        )

    def first(resolution: int, width: float, act: str) -> Block:
        before, after = round_channels(family.stem * width), round_channels(family.first * width)
        size = shrunk(resolution, family.stem_stride)
        return DepthwiseSeparable(in_ch=before, out_ch=after, size=size, act=act, residual=before == after)

    genes = ("resolution", "width", stage_gene(1, "act"))
    return [Slot("stem", genes, stem), *([Slot("first", genes, first)] if family.first else [])]


@dataclass(frozen=True, kw_only=True)
class _Place:
    """One position of a stage, from 1; before it ``strides`` and, at width 1, ``channels``."""

    family: Family
    stage: Stage
    position: int
    strides: tuple[int, ...]
    channels: int

    def block(
        self, resolution: int, width: float, depth: int, act: str, se: bool, kernel: int, expand: float, kind: str = ""
    ) -> Block | None:
        if self.position > depth:
            return None
        stage = self.stage
        before, after = round_channels(self.channels * width), round_channels(stage.channels * width)
        if self.position > 1:
            before = after
        stride = stage.stride if self.position == 1 else 1
        mid = round_channels(before * expand)
        make: Any = next(k for k in stage.kinds if kind in ("", k.kind))
        block: Block = make(
            **({"mid": mid} if "mid" in make.__dataclass_fields__ else {}),
            in_ch=before,
            out_ch=after,
            size=shrunk(resolution, *self.strides),
            kernel=kernel,
            stride=stride,
            se=self.family.squeeze(before, mid) if se else 0,
            se_act=self.family.squeeze_act(act) if se else "relu",
            act=act,
            residual=stride == 1 and before == after,
        )
        return block
