"""What the MobileNet-style families share: stages of inverted residual blocks under common genes.

Genes of every space built here: ``resolution`` and ``width`` (a channel multiplier) for the whole network; per stage
``depth``, and where the family offers alternatives ``act`` (activation) and ``se`` (squeeze-excite); per block
``kernel`` and ``expand``. Stem and head take the activation of the first and the last stage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nas.blocks import Block, DepthwiseSeparable, Head, InvertedResidual, Stem, round_channels
from nas.space import Choice, SearchSpace, Slot


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Alternatives of one stage. ``channels``: at width 1. ``stride``: of the first block."""

    channels: int
    stride: int
    depths: tuple[int, ...]
    kernels: tuple[int, ...] = (3, 5, 7)
    expansions: tuple[float, ...] = (3, 4, 6)
    acts: tuple[str, ...] = ("relu",)
    se: tuple[bool, ...] = (False,)


@dataclass(frozen=True, kw_only=True)
class Family:
    """What a family fixes. Channels are given at width 1.

    ``first``: channels of a depthwise-separable block after the stem, 0 for none. ``squeeze``: squeeze channels from
    the block's (input, expanded) channels. ``features``: see ``Head``; it does not scale with width. ``stem_act``:
    activation of the stem where it is not that of the first stage.
    """

    stem: int
    stem_stride: int = 2
    stem_act: str = ""
    first: int = 0
    hidden: int
    features: int = 0
    squeeze: Callable[[int, int], int]


def build_space(
    name: str,
    family: Family,
    stages: Sequence[Stage],
    *,
    resolutions: tuple[int, ...],
    widths: tuple[float, ...],
    classes: int,
    in_channels: int,
) -> SearchSpace:
    """The search space of ``stages`` in a ``family``."""
    choices = [Choice("resolution", resolutions), Choice("width", widths)]
    for s, stage in enumerate(stages, 1):
        choices += [Choice(f"s{s}.depth", stage.depths), Choice(f"s{s}.act", stage.acts), Choice(f"s{s}.se", stage.se)]
        for b in range(1, max(stage.depths) + 1):
            deep_enough = tuple(d for d in stage.depths if d >= b)
            condition = None if len(deep_enough) == len(stage.depths) else (f"s{s}.depth", deep_enough)
            choices.append(Choice(f"s{s}b{b}.kernel", stage.kernels, condition))
            choices.append(Choice(f"s{s}b{b}.expand", stage.expansions, condition))

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
        size = _shrink(resolution, family.stem_stride)
        return DepthwiseSeparable(in_ch=before, out_ch=after, size=size, act=act, residual=before == after)

    def head(resolution: int, width: float, act: str) -> Block:
        return Head(
            in_ch=round_channels(stages[-1].channels * width),
            hidden=round_channels(family.hidden * width),
            features=family.features,
            out_ch=classes,
            size=_shrink(resolution, family.stem_stride, *(s.stride for s in stages)),
            act=act,
        )

    slots = [Slot("stem", ("resolution", "width", "s1.act"), stem)]
    if family.first:
        slots.append(Slot("first", ("resolution", "width", "s1.act"), first))
    for s, stage in enumerate(stages, 1):
        strides_before = (family.stem_stride, *(earlier.stride for earlier in stages[: s - 1]))
        channels_before = stages[s - 2].channels if s > 1 else family.first or family.stem
        for b in range(1, max(stage.depths) + 1):
            genes = (
                "resolution",
                "width",
                f"s{s}.depth",
                f"s{s}.act",
                f"s{s}.se",
                f"s{s}b{b}.kernel",
                f"s{s}b{b}.expand",
            )
            slots.append(Slot(f"s{s}b{b}", genes, _stage_block(family, stage, b, strides_before, channels_before)))
    slots.append(Slot("head", ("resolution", "width", f"s{len(stages)}.act"), head))
    return SearchSpace(name, choices, slots)


def _stage_block(
    family: Family, stage: Stage, position: int, strides_before: tuple[int, ...], channels_before: int
) -> Callable[..., Block | None]:
    def block(
        resolution: int, width: float, depth: int, act: str, se: bool, kernel: int, expand: float
    ) -> Block | None:
        if position > depth:
            return None
        after = round_channels(stage.channels * width)
        before = round_channels(channels_before * width) if position == 1 else after
        stride = stage.stride if position == 1 else 1
        mid = round_channels(before * expand)
        size = _shrink(resolution, *strides_before, *(() if position == 1 else (stage.stride,)))
        return InvertedResidual(
            in_ch=before,
            mid=mid,
            out_ch=after,
            size=size,
            kernel=kernel,
            stride=stride,
            se=family.squeeze(before, mid) if se else 0,
            act=act,
            residual=stride == 1 and before == after,
        )

    return block


def _shrink(size: int, *strides: int) -> int:
    for stride in strides:
        size = -(-size // stride)
    return size
