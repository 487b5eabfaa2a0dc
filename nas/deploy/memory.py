"""What a microcontroller needs for int8 networks, by what runs them there: the one place that knows the choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from nas.blocks import Block
from nas.deploy import arena
from nas.deploy.buffers import Ints
from nas.deploy.c import memory

McuRuntime = Annotated[
    Literal["tflm", "c"],
    "what runs the network on a microcontroller: TensorFlow Lite Micro, or the C library that nas export writes",
]


class Memory(Protocol):
    """Memory of networks, each a row of ids: positions in a list of blocks plus one, 0 where there is none."""

    @property
    def version(self) -> str:
        """Of what is predicted."""

    @property
    def alive(self) -> NDArray[np.integer]:
        """``(blocks,)`` bytes of RAM that any network with the block needs at least, besides those that are ``kept``."""

    @property
    def kept(self) -> NDArray[np.integer]:
        """``(blocks,)`` bytes of RAM that add up over a network."""

    @property
    def flash(self) -> NDArray[np.integer]:
        """``(blocks,)`` bytes of flash that add up over a network."""

    def activations(self, ids: NDArray[np.integer]) -> Ints:
        """``(n,)`` bytes of RAM that activations share."""

    def arena(self, ids: NDArray[np.integer]) -> Ints:
        """``(n,)`` bytes of RAM."""

    def stored(self, ids: NDArray[np.integer]) -> Ints:
        """``(n,)`` bytes of flash."""


def memory_of(blocks: Sequence[Block], runtime: McuRuntime) -> Memory:
    """The memory of networks made of ``blocks``. Raises BadInput for a block kind that ``runtime`` cannot run."""
    return memory.LibraryMemory(blocks) if runtime == "c" else arena.MemoryModel(blocks)
