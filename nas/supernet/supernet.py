"""The weight-sharing supernet: every architecture of a space in one set of weights."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from nas.blocks import Block, Part
from nas.errors import BadInput
from nas.modules import BlockModule, Network, build
from nas.space import Archs, SearchSpace
from nas.supernet.elastic import Elastic, elastic_part


class Supernet(nn.Module):
    """All networks of ``space`` at once; ``seed`` decides the initial weights.

    Starts as the largest network (most MACs). ``activate`` chooses the one that ``forward`` runs; ``extract`` cuts
    one out. Raises BadInput when a slot's options cannot share weights.
    """

    def __init__(self, space: SearchSpace, seed: int = 0) -> None:
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
        self.activate(self.largest)

    def activate(self, arch: ArrayLike) -> None:
        """Run as ``arch (genes,)`` from now on."""
        self._running = []
        for module, block in self._filled(arch):
            module.block = block
            for primitive, part in self._plan(module, block):
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

    @torch.no_grad()
    def extract(self, arch: ArrayLike) -> Network:
        """``arch (genes,)`` as a plain network with its own copy of the weights, in this module's train/eval mode.

        Batch-norm statistics are copied as they are; they are meaningful only after ``recalibrate``.
        """
        filled = self._filled(arch)
        network = Network(block for _, block in filled)
        for (elastic, block), plain in zip(filled, network, strict=True):
            for (primitive, part), name in zip(self._plan(elastic, block), block.parts(), strict=True):
                plain.get_submodule(name).load_state_dict(primitive.sliced(part))
        return network.to(next(self.parameters()).device).train(self.training)

    def _plan(self, module: BlockModule, block: Block) -> list[tuple[Elastic, Part]]:
        """Which primitive runs as which part when ``module`` is ``block``; kept, because every training step asks."""
        key = (id(module), block)
        if key not in self._plans:
            parts = block.parts().items()
            self._plans[key] = [(cast(Elastic, module.get_submodule(name)), part) for name, part in parts]
        return self._plans[key]

    def _filled(self, arch: ArrayLike) -> list[tuple[BlockModule, Block]]:
        given = np.asarray(arch)
        if given.ndim != 1:
            raise BadInput(f"one architecture has shape ({self.space.genes},), got {given.shape}")
        ids = self.space.block_ids(given[None])[0]
        return [
            (cast(BlockModule, module), self.space.blocks[i - 1])
            for module, i in zip(self.slots, ids, strict=True)
            if i
        ]


def _elastic_slot(space: SearchSpace, slot: int) -> BlockModule:
    options = space.slot_options(slot)
    if len({type(block) for block in options}) != 1:
        raise BadInput(f"slot {space.slots[slot].name} mixes kinds of blocks: they cannot share weights")
    parts: dict[str, list[Part]] = {}
    for block in options:
        for name, part in block.parts().items():
            parts.setdefault(name, []).append(part)
    return build(options[0], {name: elastic_part(seen) for name, seen in parts.items()})
