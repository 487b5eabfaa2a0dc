"""Which channels of a network belong together, and its channels in order of importance.

A kind's ``compute`` says it (``nas.blocks``): a convolution's or linear layer's outputs are a group of channels, batch
norm and depthwise convolutions keep it, sums and gates unite two. The channels of a group can change places in all
layers at once, and the network computes what it did before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from nas.blocks import Block, norm_of
from nas.modules import Network


@dataclass(frozen=True, kw_only=True)
class _Map:
    """A feature map: its ``group`` of channels, the batch norms that its values come from (``norms``, none for pixels).

    ``passes``: whether the input of the block is in it as it came, as a residual's is.
    """

    group: int
    norms: tuple[str, ...] = ()
    passes: bool = False


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """A layer's name, and the groups of its output and, unless it works channel by channel, its input."""

    name: str
    writes: int
    reads: _Map | None = None


@dataclass(kw_only=True)
class _Groups:
    """``Operators`` on groups of channels. ``pinned``: those whose order means something."""

    prefix: str = ""
    same: list[int] = field(default_factory=list)
    pinned: set[int] = field(default_factory=set)
    layers: list[_Layer] = field(default_factory=list)

    def new(self, *, pinned: bool = False) -> int:
        self.same.append(len(self.same))
        if pinned:
            self.pin(len(self.same) - 1)
        return len(self.same) - 1

    def pin(self, group: int) -> None:
        self.pinned.add(self.root(group))

    def root(self, group: int) -> int:
        while self.same[group] != group:
            group = self.same[group]
        return group

    def conv(self, name: str, x: _Map, out_ch: int, *, norm: bool = True, act: str = "", **sizes: Any) -> _Map:
        grouped, depthwise = sizes.get("groups", 1) > 1, sizes.get("depthwise", False)
        if grouped:
            self.pin(x.group)
        group = x.group if depthwise else self.new(pinned=grouped)
        self.layers.append(_Layer(name=self.prefix + name, writes=group, reads=None if depthwise or grouped else x))
        if norm:
            self.layers.append(_Layer(name=self.prefix + norm_of(name), writes=group))
        return _Map(group=group, norms=(self.prefix + norm_of(name),) if norm else ())

    def linear(self, name: str, x: _Map, out_ch: int, *, act: str = "") -> _Map:
        group = self.new()
        self.layers.append(_Layer(name=self.prefix + name, writes=group, reads=x))
        return _Map(group=group)

    def pool(self, x: _Map, *, flat: bool = False) -> _Map:
        return replace(x, passes=False)

    def scale(self, x: _Map, gate: _Map) -> _Map:
        self._unite(x, gate)
        return replace(x, passes=False)

    def add(self, x: _Map, y: _Map, *, act: str = "") -> _Map:
        self._unite(x, y)
        return replace(x, norms=tuple(dict.fromkeys(x.norms + y.norms)), passes=x.passes or y.passes)

    def shuffle(self, x: _Map, groups: int) -> _Map:
        self.pin(x.group)
        return _Map(group=self.new(pinned=True), norms=x.norms)

    def custom(self, name: str, xs: Sequence[_Map], torch: Callable[..., Any], *, channels: int, size: int) -> _Map:
        for x in xs:
            self.pin(x.group)
        return _Map(group=self.new(pinned=True))

    def _unite(self, x: _Map, y: _Map) -> None:
        kept, gone = self.root(x.group), self.root(y.group)
        self.same[gone] = kept
        if gone in self.pinned:
            self.pin(kept)


def is_removable(block: Block) -> bool:
    """Whether a network is whole without it: its input has the output's shape, and is added as it came."""
    groups = _Groups()
    return block.in_shape == block.out_shape and block.compute(groups, _Map(group=groups.new(), passes=True)).passes


@torch.no_grad()
def with_sorted_channels(network: Network) -> Network:
    """A copy that computes the same, its most important channels first.

    A channel is as important as the weights that read it (L1 norm, as in once-for-all) times the batch-norm scale of
    what they read. The image's channels, the classes, and what grouped convolutions, channel shuffles and operators of
    your own read or write stay in their order.
    """
    blocks = network.describe()
    copied = Network(blocks).train(network.training)
    copied.load_state_dict(network.state_dict())
    copied.normalise = network.normalise
    groups = _Groups()
    x = _Map(group=groups.new(pinned=True))
    for i, block in enumerate(blocks):
        groups.prefix = f"{i}."
        x = block.compute(groups, replace(x, passes=False))
    groups.pin(x.group)
    orders = _orders(groups, dict(copied.named_parameters()))
    for layer in groups.layers:
        tensors = [t for t in copied.get_submodule(layer.name).state_dict().values() if t.ndim]
        for dim, group in enumerate((layer.writes, layer.reads.group if layer.reads else None)):
            order = None if group is None else orders.get(groups.root(group))
            for tensor in tensors:
                if order is not None and tensor.ndim > dim:
                    tensor.copy_(tensor.index_select(dim, order))
    return copied


def _orders(groups: _Groups, weights: dict[str, Tensor]) -> dict[int, Tensor]:
    """The order of every group that has no order of its own, the most important channel first."""
    importance: dict[int, Tensor] = {}
    for layer in groups.layers:
        if layer.reads is None or (root := groups.root(layer.reads.group)) in groups.pinned:
            continue
        seen = weights[f"{layer.name}.weight"].abs().transpose(0, 1).flatten(1).sum(1)
        scales = [weights[f"{norm}.weight"].abs() for norm in layer.reads.norms]
        importance[root] = importance.get(root, torch.zeros(())) + seen * (sum(scales) if scales else 1.0)
    return {root: values.argsort(descending=True, stable=True) for root, values in importance.items()}
