"""Blocks as ``nn.Module``s, and ``Network``, a sequence of them.

How a block computes is written once, in its kind (``nas.blocks``); here it runs on tensors and named layers. Which class
a layer has is a parameter: plain ones here, elastic ones in ``nas.supernet.elastic``. So the supernet and the extracted
network run the same code.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.blocks import ACTIVATIONS, Block, Conv, Linear, Norm, Part, chain_error, norm_of
from nas.checks import checked, shown
from nas.errors import BadInput

Normalise = tuple[tuple[float, ...], tuple[float, ...]]

ACTIVATION_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    name: operator.attrgetter(activation.torch)(torch) for name, activation in ACTIVATIONS.items()
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
                padding=part.padding[0],  # what is more after than before, ``_Layers`` adds
                groups=part.in_ch if part.depthwise else part.groups,
                bias=part.bias,
            )
        case Norm():
            return nn.BatchNorm2d(part.channels, part.eps)
        case Linear():
            return nn.Linear(part.in_ch, part.out_ch)


class BlockModule(nn.Module):
    """The module of any block: holds it, and its parts as submodules of the same names."""

    block: Any
    if TYPE_CHECKING:  # parts are known by name only

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, block: Block, parts: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.block = block
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, *in_shape)`` to ``(n, *out_shape)``, or ``(n, classes)`` of a head."""
        y: Tensor = self.block.compute(self.operators, x)
        return y

    @property
    def operators(self) -> _Layers:
        """What ``Block.compute`` runs on."""
        return _Layers(self._modules, self.block.trace.parts)


class _Layers:
    """``Operators`` on tensors. The layers know their sizes, which an elastic one changes from call to call."""

    def __init__(self, layers: Mapping[str, Any], parts: Mapping[str, Any]) -> None:
        self.layers, self.parts = layers, parts

    def conv(self, name: str, x: Tensor, out_ch: int, *, norm: bool = True, act: str = "", **sizes: Any) -> Tensor:
        before, after = self.parts[name].padding
        if more := after - before:  # a layer pads alike on both sides
            x = F.pad(x, (0, more, 0, more))
        x = self.layers[name](x)
        return _activated(self.layers[norm_of(name)](x) if norm else x, act)

    def linear(self, name: str, x: Tensor, out_ch: int, *, act: str = "") -> Tensor:
        return _activated(self.layers[name](x), act)

    def pool(self, x: Tensor, *, flat: bool = False) -> Tensor:
        pooled = F.adaptive_avg_pool2d(x, 1)
        return pooled.flatten(1) if flat else pooled

    def scale(self, x: Tensor, gate: Tensor) -> Tensor:
        return x * gate

    def add(self, x: Tensor, y: Tensor, *, act: str = "") -> Tensor:
        return _activated(x + y, act)

    def shuffle(self, x: Tensor, groups: int) -> Tensor:
        # F.channel_shuffle has no ONNX export
        return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)

    def custom(
        self, name: str, xs: Sequence[Tensor], torch: Callable[..., Tensor], *, channels: int, size: int
    ) -> Tensor:
        return torch(*xs)


def _activated(x: Tensor, act: str) -> Tensor:
    return ACTIVATION_FUNCTIONS[act](x) if act else x


def build(block: Block, parts: Mapping[str, nn.Module] | None = None) -> BlockModule:
    """The module of one block, freshly initialised.

    ``parts``: a module for each part by name; plain torch layers when left out (elastic ones make a supernet slot).
    """
    if parts is None:
        parts = {name: static_part(part) for name, part in block.parts().items()}
    return _initialise(BlockModule(block, parts))


def describe(module: BlockModule) -> Block:
    """The block that a module now *is*, read from its layers: the inverse of ``build``, also after pruning.

    Raises BadInput when the layers no longer form a block of that kind.
    """
    planned = module.block.parts()
    seen = {name: _seen(module.get_submodule(name), part) for name, part in planned.items()}
    try:
        block: Block = module.block.resized(seen)
        if block.parts() == seen:
            return block
    except BadInput:  # no block of this kind has such sizes
        pass
    raise BadInput(f"the layers of [{module.block.key}] no longer form a {module.block.kind}: {seen}")


@checked
class Network(nn.Sequential):
    """A plain torch network, a sequence of blocks; input ``(n, *input_shape)`` float32, output logits ``(n, classes)``.

    ``normalise``: mean and standard deviation per channel, of pixels in [0, 1], that a pretrained one was taught with.
    Raises BadInput when there are none, or when they do not follow one another.
    """

    normalise: Normalise | None = None

    def __init__(self, blocks: Iterable[Block]) -> None:
        blocks = tuple(blocks)
        if not blocks or not all(isinstance(block, Block) for block in blocks):
            raise BadInput(f"a network is made of one block or more, got {shown(blocks)}")
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


def weights_digest(what: str, model: nn.Module) -> str:
    """16 hex digits over ``what`` the model is and all its weights and buffers, by name."""
    digest = hashlib.sha256(what.encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


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
                spared=planned.spared,
                size=planned.size,
            )
        case nn.BatchNorm2d(), Norm():
            return Norm(channels=layer.num_features, eps=layer.eps)
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
