"""Accuracy of many subnets at once, each with batch norm recalibrated: what extracting and evaluating one by one gives.

Architectures are taken in the order of their blocks, so that what equal beginnings compute is computed once. A block is
cut out of the supernet, its statistics are measured on training images, and its batch norm is folded into its
convolutions before it sees the validation images. Images go through in chunks whose feature maps stay in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nas.blocks import Block, Conv, norm_of
from nas.data.images import ImageData
from nas.data.inputs import chosen_inputs
from nas.modules import ACTIVATION_FUNCTIONS, BlockModule, static_part
from nas.space import Archs
from nas.supernet.recalibrate import RECALIBRATION_IMAGES
from nas.supernet.supernet import Supernet
from nas.training.evaluate import device_of, validation_inputs
from nas.training.norms import pooled

KEPT_BYTES = 2 << 30
"""Most memory for what subnets with equal beginnings share."""

Chunks = list[Tensor]
Key = tuple[int, int]  # slot and block id


@torch.no_grad()
def subnet_accuracies(supernet: Supernet, archs: Archs, data: ImageData) -> NDArray[np.float64]:
    """Validation accuracy of ``archs (n, genes)`` with the supernet's weights, batch norm recalibrated: ``(n,)``.

    Raises BadInput for what are not architectures of the space.
    """
    ids = supernet.space.block_ids(archs)
    paths: list[list[Key]] = [[(slot, int(i)) for slot, i in enumerate(row) if i] for row in ids]
    order = sorted(range(len(paths)), key=paths.__getitem__)
    shared = [_common(paths[a], paths[b]) for a, b in pairwise(order)]
    out, kept = np.empty(len(paths)), dict[int, _Reached]()
    for position, row in enumerate(order):
        kept = {depth: there for depth, there in kept.items() if depth <= shared[position - 1]} if position else {}
        # those depths at which a later subnet leaves this one
        branches = set(np.minimum.accumulate(shared[position:]).tolist()) - {0} if shared[position:] else set()
        out[row], reached = _evaluated(supernet, paths[row], kept, branches, data)
        kept |= reached
    return out


class _Reached:
    """Calibration and validation images behind a number of blocks."""

    def __init__(self, calibration: Chunks) -> None:
        self.calibration, self.validation = calibration, Chunks()


def _evaluated(
    supernet: Supernet, path: Sequence[Key], kept: Mapping[int, _Reached], branches: set[int], data: ImageData
) -> tuple[float, dict[int, _Reached]]:
    """The accuracy of one subnet from the deepest of ``kept`` on, and what it reaches at ``branches``."""
    blocks = [(slot, supernet.space.blocks[i - 1]) for slot, i in path]
    size, device = blocks[0][1].size, device_of(supernet)
    inputs, labels = validation_inputs(data, size, device)
    start = max(kept, default=0)
    if start:
        calibration, inputs = kept[start].calibration, kept[start].validation
    else:
        calibration = list(chosen_inputs(data, RECALIBRATION_IMAGES, size, device))
    modules: list[BlockModule] = []
    reached: dict[int, _Reached] = {}
    room = KEPT_BYTES - sum(_bytes(there.calibration, labels) for there in kept.values())
    for depth, (slot, block) in enumerate(blocks[start:], start + 1):
        module, calibration = calibrated_block(supernet, slot, block, calibration)
        modules.append(module)
        if depth in branches and (room := room - _bytes(calibration, labels)) > 0:
            reached[depth] = _Reached(calibration)
    guesses: Chunks = []
    for x in inputs:
        for depth, module in enumerate(modules, start + 1):
            x = module(x)
            if depth in reached:
                reached[depth].validation.append(x)
        guesses.append(x.argmax(1))
    return float((torch.cat(guesses) == labels).double().mean()), reached


def _bytes(calibration: Chunks, labels: Tensor) -> int:
    """Of those images and as many validation images as there are ``labels``."""
    images = sum(len(x) for x in calibration)
    return sum(x.nbytes for x in calibration) * (images + len(labels)) // images


def _common(a: Sequence[Key], b: Sequence[Key]) -> int:
    """How many blocks two subnets begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def calibrated_block(supernet: Supernet, slot: int, block: Block, inputs: Chunks) -> tuple[BlockModule, Chunks]:
    """``block`` cut out of ``slot``, its batch norm folded with the statistics of ``inputs``; and its outputs of these.

    ``inputs``: chunks ``(n, *block.in_shape)``, together the images that statistics are taken from.
    """
    plan = zip(block.parts().items(), supernet.plan(slot, block), strict=True)
    layers = {name: _plain(primitive.sliced(part), part) for (name, part), (primitive, _) in plan}
    module = BlockModule(block, layers)
    outputs = block.compute(_Measuring(module), inputs)
    for name, part in block.parts().items():
        if isinstance(part, Conv) and (norm := module._modules.get(norm_of(name))) is not None:
            _fold(layers[name], cast(nn.BatchNorm2d, norm))
            module.add_module(norm_of(name), nn.Identity())
    return module, outputs


def _plain(state: Mapping[str, Tensor], part: Any) -> nn.Module:
    """The plain layer of ``part`` with the weights of ``state``, which it may share."""
    with torch.device("meta"):
        layer = static_part(part)
    layer.load_state_dict(state, assign=True)
    if isinstance(layer, nn.Conv2d):
        layer.weight = _constant(layer.weight)
    return layer.eval()


def _fold(conv: nn.Module, norm: nn.BatchNorm2d) -> None:
    conv = cast(nn.Conv2d, conv)
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    conv.weight = _constant(conv.weight * scale.view(-1, 1, 1, 1))
    conv.bias = nn.Parameter(norm.bias - norm.running_mean * scale, requires_grad=False)


def _constant(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight.contiguous(memory_format=torch.channels_last), requires_grad=False)


class _Measuring:
    """``Operators`` on chunks of images: every norm uses the statistics of all of them, and keeps them."""

    def __init__(self, module: BlockModule) -> None:
        self.ops, self.layers = module.operators, module._modules

    def conv(self, name: str, x: Chunks, out_ch: int, *, norm: bool = True, act: str = "", **sizes: Any) -> Chunks:
        ys = [self.ops.conv(name, one, out_ch, norm=False, **sizes) for one in x]
        if norm:
            _normalise(cast(nn.BatchNorm2d, self.layers[norm_of(name)]), ys)
        return [ACTIVATION_FUNCTIONS[act](y) for y in ys] if act else ys

    def linear(self, name: str, x: Chunks, out_ch: int, *, act: str = "") -> Chunks:
        return [self.ops.linear(name, one, out_ch, act=act) for one in x]

    def pool(self, x: Chunks, *, flat: bool = False) -> Chunks:
        return [self.ops.pool(one, flat=flat) for one in x]

    def scale(self, x: Chunks, gate: Chunks) -> Chunks:
        return [self.ops.scale(*both) for both in zip(x, gate, strict=True)]

    def add(self, x: Chunks, y: Chunks, *, act: str = "") -> Chunks:
        return [self.ops.add(*both, act=act) for both in zip(x, y, strict=True)]

    def shuffle(self, x: Chunks, groups: int) -> Chunks:
        return [self.ops.shuffle(one, groups) for one in x]

    def custom(
        self, name: str, xs: Sequence[Chunks], torch: Callable[..., Tensor], *, channels: int, size: int
    ) -> Chunks:
        return [self.ops.custom(name, x, torch, channels=channels, size=size) for x in zip(*xs, strict=True)]


def _normalise(norm: nn.BatchNorm2d, ys: Chunks) -> None:
    """Normalise ``ys`` in place by the statistics of them all, which become the running statistics of ``norm``."""
    mean, var = statistics_of(ys)
    pixels = sum(y.numel() // y.shape[1] for y in ys)
    for i, y in enumerate(ys):
        ys[i] = nn.functional.batch_norm(y, mean, var, norm.weight, norm.bias, eps=norm.eps)
    norm.running_mean, norm.running_var = mean, var * (pixels / max(1, pixels - 1))  # as torch: of all, unbiased


def statistics_of(ys: Chunks) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel over all pixels of the chunks ``(n, c, h, w)``: ``(c,)`` each."""
    each = [torch.batch_norm_update_stats(y, None, None, 0.0) for y in ys]
    means, variances = (torch.stack([stats[i] for stats in each]).double() for i in (0, 1))
    weight = means.new_tensor([y.numel() // y.shape[1] for y in ys])[:, None]
    weight /= weight.sum()
    mean, var = pooled(weight, means, variances)
    return mean.float(), var.float()
