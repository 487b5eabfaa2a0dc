"""Elastic primitives: layers at the largest size of a slot that run as any smaller one.

Each primitive knows how to cut its weights to a part (``sliced``); forward and extraction both use that cut.
Smaller channel counts are the first channels. Smaller kernels are the centre of the larger one; depthwise ones are also
multiplied by a learned matrix (Cai et al., "Once for All", ICLR 2020, section 3.3).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.blocks import Conv, Linear, Norm, Part
from nas.errors import BadInput


class Elastic(Protocol):
    """What the supernet asks of a primitive."""

    def activate(self, part: Part) -> None:
        """Run as ``part`` from now on."""

    def sliced(self, part: Part) -> dict[str, Tensor]:
        """The state dict of the plain layer that equals this one running as ``part``.

        Tensors shaped as that layer's, such as a weight ``(out_ch, in_ch)``.
        """


class ElasticConv2d(nn.Conv2d):
    """Convolution with elastic input and output channels and an elastic kernel: ``(n, c, h, w)`` to the same.

    A grouped convolution is the diagonal blocks of the dense one that it shares weights with.
    """

    def __init__(self, options: Sequence[Conv]) -> None:
        first = options[0]
        if any((o.stride, o.depthwise, o.bias) != (first.stride, first.depthwise, first.bias) for o in options):
            raise BadInput(
                "the convolutions of one slot differ in stride, bias or being depthwise: they cannot share weights"
            )
        kernels = sorted({o.kernel for o in options}, reverse=True)
        in_ch, out_ch = max(o.in_ch for o in options), max(o.out_ch for o in options)
        super().__init__(
            in_ch,
            out_ch,
            kernels[0],
            first.stride,
            groups=in_ch if first.depthwise else 1,
            bias=first.bias,
        )
        self.depthwise = first.depthwise
        # one matrix per step down: 7 -> 5 has 25 x 25 entries, 5 -> 3 has 9 x 9
        self.smaller_kernels = kernels[1:]
        matrices = kernels[1:] if first.depthwise else []
        self.transforms = nn.ParameterDict({str(k): nn.Parameter(torch.eye(k * k)) for k in matrices})
        self.part = first

    def activate(self, part: Part) -> None:
        self.part = cast(Conv, part)

    def sliced(self, part: Part) -> dict[str, Tensor]:
        part = cast(Conv, part)
        weight, bias = self._slice(part)
        return {"weight": weight} if bias is None else {"weight": weight, "bias": bias}

    def forward(self, x: Tensor) -> Tensor:
        part = self.part
        weight, bias = self._slice(part)
        groups = part.in_ch if self.depthwise else part.groups
        return F.conv2d(x, weight, bias, part.stride, part.padding[0], 1, groups)

    def _slice(self, part: Conv) -> tuple[Tensor, Tensor | None]:
        weight: Tensor = self.weight
        if part.out_ch < self.out_channels:  # a slice of everything would still cost a copy going back
            weight = weight[: part.out_ch]
        if not self.depthwise and part.in_ch < self.in_channels:
            weight = weight[:, : part.in_ch]
        if part.groups > 1:
            by_group = weight.unflatten(0, (part.groups, -1)).unflatten(2, (part.groups, -1))
            weight = by_group.diagonal(dim1=0, dim2=2).movedim(-1, 0).flatten(0, 1)
        for smaller in self.smaller_kernels:
            if smaller < part.kernel:
                break
            margin = (weight.shape[-1] - smaller) // 2
            weight = weight[:, :, margin : margin + smaller, margin : margin + smaller]
            if self.depthwise:
                weight = (weight.flatten(1) @ self.transforms[str(smaller)]).view(part.out_ch, 1, smaller, smaller)
        return weight, None if self.bias is None else self.bias[: part.out_ch]


class ElasticBatchNorm2d(nn.BatchNorm2d):
    """Batch norm of ``(n, channels, h, w)`` by the first channels' statistics, which are shared: recalibrate before use."""

    def __init__(self, options: Sequence[Norm]) -> None:
        super().__init__(max(o.channels for o in options))
        self.activate(options[0])

    def activate(self, part: Part) -> None:
        self.part = cast(Norm, part)
        self.eps = self.part.eps

    def sliced(self, part: Part) -> dict[str, Tensor]:
        channels = cast(Norm, part).channels
        names = ("weight", "bias", "running_mean", "running_var")
        return {name: getattr(self, name)[:channels] for name in names} | {
            "num_batches_tracked": cast(Tensor, self.num_batches_tracked)
        }

    def forward(self, x: Tensor) -> Tensor:
        n = self.part.channels
        if n == self.num_features:
            return super().forward(x)
        mean, var = cast(Tensor, self.running_mean)[:n], cast(Tensor, self.running_var)[:n]
        return F.batch_norm(x, mean, var, self.weight[:n], self.bias[:n], self.training, self.momentum or 0.0, self.eps)


class ElasticLinear(nn.Linear):
    """Linear layer over the first inputs and outputs: ``(n, in_ch)`` to ``(n, out_ch)``."""

    def __init__(self, options: Sequence[Linear]) -> None:
        super().__init__(max(o.in_ch for o in options), max(o.out_ch for o in options))
        self.part = options[0]

    def activate(self, part: Part) -> None:
        self.part = cast(Linear, part)

    def sliced(self, part: Part) -> dict[str, Tensor]:
        part = cast(Linear, part)
        return {"weight": self.weight[: part.out_ch, : part.in_ch], "bias": self.bias[: part.out_ch]}

    def forward(self, x: Tensor) -> Tensor:
        part = self.part
        return F.linear(x, self.weight[: part.out_ch, : part.in_ch], self.bias[: part.out_ch])


def elastic_part(options: Sequence[Part]) -> nn.Module:
    """The elastic layer that can run as any of ``options`` (all of one kind)."""
    match options[0]:
        case Conv():
            return ElasticConv2d(cast(Sequence[Conv], options))
        case Norm():
            return ElasticBatchNorm2d(cast(Sequence[Norm], options))
        case Linear():
            return ElasticLinear(cast(Sequence[Linear], options))


@torch.no_grad()
def load_part(primitive: Elastic, part: Part, plain: Mapping[str, Tensor]) -> None:
    """``primitive``, running as its largest ``part``, equals the plain layer of this state dict: ``sliced``'s inverse.

    Tensors shaped as that layer's, such as a weight ``(out_ch, in_ch)``. Of a grouped convolution, the weights of the
    dense one that no group has become zeros.
    """
    if isinstance(part, Conv) and part.groups > 1:
        blocks = plain["weight"].unflatten(0, (part.groups, -1))
        dense = blocks.new_zeros(part.groups, blocks.shape[1], part.groups, *blocks.shape[2:])
        dense[range(part.groups), :, range(part.groups)] = blocks
        plain = {**plain, "weight": dense.flatten(2, 3).flatten(0, 1)}
        part = dataclasses.replace(part, groups=1)
    for name, own in primitive.sliced(part).items():
        own.copy_(plain[name])
