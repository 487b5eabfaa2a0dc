"""The weight-sharing supernet: every architecture of a space in one set of weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from nas.blocks import Block, Part
from nas.checks import Seed, checked
from nas.errors import BadInput
from nas.modules import BlockModule, Network, build
from nas.space import Archs, SearchSpace
from nas.space_around import SpaceAround
from nas.supernet.elastic import Elastic, elastic_part, load_part


@checked
class Supernet(nn.Module):
    """All networks of ``space`` at once; ``seed`` decides the initial weights, but of a space around a network: its own.

    Starts as the largest network (most MACs). ``activate`` chooses the one that ``forward`` runs; ``extract`` cuts
    one out. Options of one slot share weights within a kind of block. Raises BadInput when they cannot (they differ in
    stride, say), and for a space without blocks.
    """

    def __init__(self, space: SearchSpace, seed: Seed = 0) -> None:
        super().__init__()
        self.space = space
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.slots = nn.ModuleList(_elastic_slot(space, i) for i in range(len(space.slots)))
        extremes = space.extremes(space.per_block(lambda block: block.macs))
        self.largest: Archs = extremes.argmax
        self.smallest: Archs = extremes.argmin
        self._running: list[BlockModule] = []
        self._plans: dict[tuple[int, Block], list[tuple[Elastic, Part]]] = {}
        if isinstance(space, SpaceAround):
            for (slot, block), plain in zip(self._filled(self.largest), space.source, strict=True):
                for (primitive, part), name in zip(self.plan(slot, block), block.parts(), strict=True):
                    load_part(primitive, part, plain.get_submodule(name).state_dict())
        self.activate(self.largest)

    def activate(self, arch: ArrayLike) -> None:
        """Run as ``arch (genes,)`` from now on. Raises BadInput for what is not one architecture of the space."""
        self._running = []
        for slot, block in self._filled(arch):
            module = self._module(slot, block)
            module.block = block
            for primitive, part in self.plan(slot, block):
                primitive.activate(part)
            self._running.append(module)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) that the active architecture takes."""
        return self._running[0].block.in_shape

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, classes)`` of the active architecture for ``x (n, *input_shape)``."""
        for module in self._running:
            x = module(x)
        return x

    def __repr__(self) -> str:
        weights = sum(parameter.numel() for parameter in self.parameters())
        return f"Supernet({self.space!r}, {weights:,} weights)"

    @torch.no_grad()
    def extract(self, arch: ArrayLike) -> Network:
        """``arch (genes,)`` as a plain network with its own copy of the weights, in this module's train/eval mode.

        Batch-norm statistics are copied as they are; they are meaningful only after ``recalibrate``. Raises BadInput as
        ``activate``.
        """
        filled = self._filled(arch)
        network = Network(block for _, block in filled)
        for (slot, block), plain in zip(filled, network, strict=True):
            for (primitive, part), name in zip(self.plan(slot, block), block.parts(), strict=True):
                plain.get_submodule(name).load_state_dict(primitive.sliced(part))
        return network.to(next(self.parameters()).device).train(self.training)

    def plan(self, slot: int, block: Block) -> list[tuple[Elastic, Part]]:
        """Which primitive runs as which part when ``slot`` is ``block``, in the order of its parts."""
        key = (slot, block)
        if key not in self._plans:  # kept, because every training step asks
            module, parts = self._module(slot, block), block.parts().items()
            self._plans[key] = [(cast(Elastic, module.get_submodule(name)), part) for name, part in parts]
        return self._plans[key]

    def _module(self, slot: int, block: Block) -> BlockModule:
        module = self.slots[slot]
        return cast(BlockModule, module[block.kind] if isinstance(module, nn.ModuleDict) else module)

    def _filled(self, arch: ArrayLike) -> list[tuple[int, Block]]:
        """The slots that ``arch`` fills, with their blocks."""
        given = np.asarray(arch)
        if given.ndim != 1:
            raise BadInput(f"one architecture has shape ({self.space.genes},), got {given.shape}")
        ids = self.space.block_ids(given[None])[0]
        return [(slot, self.space.blocks[i - 1]) for slot, i in enumerate(ids) if i]


def _elastic_slot(space: SearchSpace, slot: int) -> nn.Module:
    """One module for all options of a slot, or one per kind where they are of several: weights are shared within a kind."""
    options = space.slot_options(slot)
    kinds = dict.fromkeys(block.kind for block in options)
    modules = {kind: _elastic([block for block in options if block.kind == kind]) for kind in kinds}
    return nn.ModuleDict(modules) if len(modules) > 1 else modules[options[0].kind]


def _elastic(options: Sequence[Block]) -> BlockModule:
    parts: dict[str, list[Part]] = {}
    for block in options:
        for name, part in block.parts().items():
            parts.setdefault(name, []).append(part)
    return build(options[0], {name: elastic_part(seen) for name, seen in parts.items()})
