"""One ``nn.Module`` per block kind, and ``Network``, a sequence of them.

A module's forward is written once over named parts. Which class a part becomes is a parameter: plain layers here,
elastic ones in ``nas.supernet.elastic``. So the supernet and the extracted network run the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.blocks import Block, Conv, DepthwiseSeparable, Head, InvertedResidual, Linear, Norm, Part, Stem, chain_error
from nas.errors import BadInput

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "hswish": F.hardswish,
    "silu": F.silu,
}


def static_part(part: Part) -> nn.Module:
    """The plain torch layer of a part."""
    match part:
        case Conv():
            return nn.Conv2d(
                part.in_ch,
                part.out_ch,
                part.kernel,
                part.stride,
                padding=part.kernel // 2,
                groups=part.in_ch if part.depthwise else part.groups,
                bias=part.bias,
            )
        case Norm():
            return nn.BatchNorm2d(part.channels)
        case Linear():
            return nn.Linear(part.in_ch, part.out_ch)


class BlockModule(nn.Module):
    """Base of the modules: holds the block and its parts as submodules of the same names."""

    block: Any
    if TYPE_CHECKING:  # parts are known by name only

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, block: Block, parts: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.block = block
        for name, part in parts.items():
            self.add_module(name, part)

    def _bottleneck(self, x: Tensor) -> Tensor:
        """Depthwise convolution, squeeze-excite, projection: the tail that both MobileNet blocks share."""
        block = self.block
        x = _ACTIVATIONS[block.act](self.depthwise_norm(self.depthwise(x)))
        if block.se:
            squeezed = F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))
            gate = torch.sigmoid if block.act == "silu" else F.hardsigmoid
            x = x * gate(self.excite(squeezed))
        return self.project_norm(self.project(x))


class StemModule(BlockModule):
    def forward(self, x: Tensor) -> Tensor:
        return _ACTIVATIONS[self.block.act](self.norm(self.conv(x)))


class DepthwiseSeparableModule(BlockModule):
    def forward(self, x: Tensor) -> Tensor:
        y = self._bottleneck(x)
        return x + y if self.block.residual else y


class InvertedResidualModule(BlockModule):
    def forward(self, x: Tensor) -> Tensor:
        wide = _ACTIVATIONS[self.block.act](self.expand_norm(self.expand(x)))
        if self.block.groups > 1:
            # a channel shuffle; F.channel_shuffle has no ONNX export
            wide = wide.unflatten(1, (self.block.groups, -1)).transpose(1, 2).flatten(1, 2)
        y = self._bottleneck(wide)
        return x + y if self.block.residual else y


class HeadModule(BlockModule):
    def forward(self, x: Tensor) -> Tensor:
        act = _ACTIVATIONS[self.block.act]
        x = act(self.norm(self.conv(x)))
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        if self.block.features:
            x = act(self.features(x))
        return self.classify(x)


_MODULES: dict[type[Block], type[BlockModule]] = {
    Stem: StemModule,
    DepthwiseSeparable: DepthwiseSeparableModule,
    InvertedResidual: InvertedResidualModule,
    Head: HeadModule,
}


def build(block: Block, parts: Mapping[str, nn.Module] | None = None) -> BlockModule:
    """The module of one block, freshly initialised.

    ``parts``: a module for each part by name; plain torch layers when left out (elastic ones make a supernet slot).
    """
    if parts is None:
        parts = {name: static_part(part) for name, part in block.parts().items()}
    return _initialise(_MODULES[type(block)](block, parts))


def describe(module: BlockModule) -> Block:
    """The block that a module now *is*, read from its layers: the inverse of ``build``, also after pruning.

    Raises BadInput when the layers no longer form a block of that kind.
    """
    planned = module.block.parts()
    seen = {name: _seen(module.get_submodule(name), part) for name, part in planned.items()}
    block = module.block.resized(seen)
    if block.parts() != seen:
        raise BadInput(f"the layers of [{module.block.key}] no longer form a {module.block.kind}: {seen}")
    return block


class Network(nn.Sequential):
    """A network as a sequence of blocks; input ``(n, *input_shape)`` float32, output logits ``(n, classes)``.

    Raises BadInput when the blocks do not follow one another.
    """

    def __init__(self, blocks: Iterable[Block]) -> None:
        blocks = tuple(blocks)
        if error := chain_error(blocks):
            raise BadInput(error)
        super().__init__(*(build(block) for block in blocks))

    def describe(self) -> tuple[Block, ...]:
        """The blocks that the network is made of now (see ``describe``)."""
        return tuple(describe(module) for module in self)  # type: ignore[arg-type]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        first = self[0]
        assert isinstance(first, BlockModule)
        return first.block.in_shape


def _seen(layer: nn.Module, planned: Part) -> Part:
    match layer, planned:
        case nn.Conv2d(), Conv():
            depthwise = planned.depthwise and layer.groups == layer.in_channels
            return Conv(
                in_ch=layer.in_channels,
                out_ch=layer.out_channels,
                kernel=layer.kernel_size[0],
                stride=layer.stride[0],
                depthwise=depthwise,
                groups=1 if depthwise else layer.groups,
                bias=layer.bias is not None,
                size=planned.size,
            )
        case nn.BatchNorm2d(), Norm():
            return Norm(channels=layer.num_features)
        case nn.Linear(), Linear():
            return Linear(in_ch=layer.in_features, out_ch=layer.out_features)
    raise BadInput(f"expected the layer of {planned}, found {layer}")


def _initialise(module: BlockModule) -> BlockModule:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
    return module
