"""ResNet-style spaces (He et al. 2016): depth, width, inner channels and kernels of dense convolutions are searched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nas.blocks import Block, Channels, Stem, round_channels
from nas.blocks.resnet import BasicBlock, Bottleneck, Classifier
from nas.checks import checked
from nas.genes import block_choices, block_gene, stage_gene
from nas.space import Choice, SearchSpace, Slot
from search_spaces.stages import shrunk

KINDS = {kind.kind: kind for kind in (BasicBlock, Bottleneck)}


@dataclass(frozen=True, kw_only=True)
class _Stage:
    """Alternatives of one stage. ``channels``: of its output, at width 1. ``stride``: of the first block."""

    channels: int
    stride: int
    depths: tuple[int, ...]
    kernels: tuple[int, ...]
    kinds: tuple[str, ...]


class ResNet:
    """Constructors of the family's spaces, by the size of image they are made for."""

    @staticmethod
    @checked
    def cifar(*, classes: Channels = 10, in_channels: Channels = 3) -> SearchSpace:
        """24 and 32 px, three stages of basic or bottleneck blocks with kernels 3 and 5, 2 to 435 million MACs."""
        stages = [
            _Stage(channels=channels, stride=stride, depths=(1, 2, 3), kernels=(3, 5), kinds=tuple(KINDS))
            for channels, stride in ((32, 1), (64, 2), (128, 2))
        ]
        stem = (16, 3, 1)
        general = {"resolution": (24, 32), "width": (0.5, 1.0), "expand": (0.5, 1.0)}
        return _space("resnet_cifar", stages, stem, general, classes=classes, in_channels=in_channels)

    @staticmethod
    @checked
    def imagenet(*, classes: Channels = 1000, in_channels: Channels = 3) -> SearchSpace:
        """ResNet-50 with depth, width and inner channels as elastic as in once-for-all's (Cai et al. 2020).

        128 to 224 px; the first stage's stride stands for the max pooling after the stem.
        """
        stages = [
            _Stage(channels=channels, stride=2, depths=depths, kernels=(3,), kinds=("bottleneck",))
            for channels, depths in ((256, (2, 3)), (512, (2, 3, 4)), (1024, (4, 5, 6)), (2048, (2, 3)))
        ]
        stem = (64, 7, 2)
        general = {"resolution": (128, 160, 192, 224), "width": (0.65, 0.8, 1.0), "expand": (0.2, 0.25, 0.35)}
        return _space("resnet_imagenet", stages, stem, general, classes=classes, in_channels=in_channels)


def _space(
    name: str,
    stages: Sequence[_Stage],
    stem: tuple[int, int, int],
    general: Mapping[str, tuple[float, ...]],
    *,
    classes: int,
    in_channels: int,
) -> SearchSpace:
    """``stem``: channels, kernel, stride. ``general["expand"]``: a block's inner channels, as a share of its output's."""
    channels, kernel, stride = stem
    choices = [Choice(gene, general[gene]) for gene in ("resolution", "width")]
    slots = [
        Slot(
            "stem",
            ("resolution", "width"),
            lambda resolution, width: Stem(
                in_ch=in_channels,
                out_ch=round_channels(channels * width),
                size=resolution,
                kernel=kernel,
                stride=stride,
            ),
        )
    ]
    before, strides = channels, [stride]
    genes = ("kernel", "expand")
    for s, stage in enumerate(stages, 1):
        of_stage = (stage_gene(s, "depth"), stage_gene(s, "kind"))
        choices += [Choice(of_stage[0], stage.depths), Choice(of_stage[1], stage.kinds)]
        choices += block_choices(s, stage.depths, dict(zip(genes, (stage.kernels, general["expand"]), strict=True)))
        for b in range(1, max(stage.depths) + 1):
            names = ("resolution", "width", *of_stage, *(block_gene(s, b, gene) for gene in genes))
            slots.append(Slot(block_gene(s, b), names, _block(stage, b, before, tuple(strides))))
            if b == 1:
                before, strides = stage.channels, [*strides, stage.stride]
    last = before

    def classifier(resolution: int, width: float) -> Block:
        return Classifier(in_ch=round_channels(last * width), out_ch=classes, size=shrunk(resolution, *strides))

    slots.append(Slot("head", ("resolution", "width"), classifier))
    return SearchSpace(name, choices, slots)


def _block(stage: _Stage, position: int, before: int, strides: tuple[int, ...]) -> Callable[..., Block | None]:
    """The slot's function: ``before`` channels at width 1, after ``strides``."""

    def block(resolution: int, width: float, depth: int, kind: str, kernel: int, expand: float) -> Block | None:
        if position > depth:
            return None
        in_ch, out_ch = round_channels(before * width), round_channels(stage.channels * width)
        stride = stage.stride if position == 1 else 1
        return KINDS[kind](
            in_ch=in_ch,
            mid=round_channels(out_ch * expand),
            out_ch=out_ch,
            size=shrunk(resolution, *strides),
            kernel=kernel,
            stride=stride,
            downsample=stride != 1 or in_ch != out_ch,
        )

    return block
