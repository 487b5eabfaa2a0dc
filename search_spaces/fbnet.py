"""FBNet's space (Wu et al., CVPR 2019): 22 positions, each filled by one of eight blocks or left out."""

from __future__ import annotations

from dataclasses import dataclass

from nas.blocks import Block, Channels, Head, InvertedResidual, Pixels, Stem
from nas.checks import checked
from nas.space import Choice, SearchSpace, Slot

CANDIDATES = ("k3_e1", "k3_e1_g2", "k3_e3", "k3_e6", "k5_e1", "k5_e1_g2", "k5_e3", "k5_e6", "skip")
"""Kernel, expansion, groups of the 1x1 convolutions; in the order of HW-NAS-Bench."""

STEM = 16
STAGES = ((16, 1, 1), (24, 4, 1), (32, 4, 2), (64, 4, 2), (112, 4, 1), (184, 4, 2), (352, 1, 1))
"""Channels, positions, and stride of the first position, as HW-NAS-Bench has them for CIFAR."""


class FBNet:
    """Constructors of the space."""

    @staticmethod
    @checked
    def cifar100(*, classes: Channels = 100, in_channels: Channels = 3, resolution: Pixels = 32) -> SearchSpace:
        """The variant of HW-NAS-Bench (Li et al., ICLR 2021), 9^22 networks of 32 px: stem without stride, head 1504."""
        choices: list[Choice] = []
        slots = [Slot("stem", (), lambda: Stem(in_ch=in_channels, out_ch=STEM, size=resolution, stride=1))]
        before, size = STEM, resolution
        for channels, positions, first_stride in STAGES:
            for stride in (first_stride, *(1,) * (positions - 1)):
                gene = f"b{len(choices):02d}"
                place = _Place(in_ch=before, out_ch=channels, size=size, stride=stride)
                choices.append(Choice(gene, CANDIDATES))
                slots.append(Slot(gene, (gene,), place.block))
                if not place.same_shape:
                    slots.append(Slot(f"{gene}.skip", (gene,), place.skip))
                before, size = channels, -(-size // stride)
        last, last_size = before, size
        slots.append(Slot("head", (), lambda: Head(in_ch=last, hidden=1504, out_ch=classes, size=last_size)))
        return SearchSpace("fbnet_cifar100", choices, slots)


@dataclass(frozen=True, kw_only=True)
class _Place:
    in_ch: int
    out_ch: int
    size: int
    stride: int

    @property
    def same_shape(self) -> bool:
        return self.stride == 1 and self.in_ch == self.out_ch

    def block(self, candidate: str) -> Block | None:
        if candidate == "skip":
            return None
        kernel, expansion, *groups = (int(part[1:]) for part in candidate.split("_"))
        return InvertedResidual(
            in_ch=self.in_ch,
            mid=self.in_ch * expansion,
            out_ch=self.out_ch,
            size=self.size,
            kernel=kernel,
            stride=self.stride,
            residual=self.same_shape,
            groups=groups[0] if groups else 1,
        )

    def skip(self, candidate: str) -> Block | None:
        """Where the shape changes, "skip" is a 1x1 convolution."""
        if candidate != "skip":
            return None
        return Stem(in_ch=self.in_ch, out_ch=self.out_ch, size=self.size, kernel=1, stride=self.stride)
