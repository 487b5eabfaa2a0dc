"""Gradient checkpointing by block (Chen et al. 2016): activations within blocks are computed again when they are needed."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nas.training.norms import norms_of
from nas.training.parameters import blocks_of


@contextmanager
def recomputed(model: nn.Module) -> Iterator[None]:
    """Inside, blocks keep their inputs only for the backward pass.

    A block has to be the same when the gradient comes back: activate the next subnet after ``backward``.
    """
    blocks = [
        part for block in blocks_of(model) for part in (block.values() if isinstance(block, nn.ModuleDict) else [block])
    ]
    for block in blocks:
        block.forward = functools.partial(_again, block, block.forward)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward  # the class' own is seen again


def _again(block: nn.Module, forward: Any, x: Tensor) -> Tensor:
    if not block.training:
        y: Tensor = forward(x)
        return y
    # a block has no randomness of its own to repeat
    return checkpoint(
        forward, x, use_reentrant=False, preserve_rng_state=False, context_fn=lambda: (nullcontext(), _unmoved(block))
    )


@contextmanager
def _unmoved(block: nn.Module) -> Iterator[None]:
    """The second pass through a block must not move its running statistics again."""
    norms = norms_of(block)
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
