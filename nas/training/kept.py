"""Copies of a model's state beside it: the running average of its weights, and those of its best epoch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Kept:
    """A copy of all weights and buffers of ``model``, as they are now."""

    def __init__(self, model: nn.Module) -> None:
        self.state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def take(self, model: nn.Module, share: float = 1.0) -> None:
        """Move by ``share`` of the way to what ``model`` has now; counters become equal to its."""
        now = model.state_dict()
        moving = [name for name, tensor in self.state.items() if tensor.is_floating_point() and share < 1]
        if moving:
            torch._foreach_lerp_([self.state[name] for name in moving], [now[name] for name in moving], share)
        for name in self.state.keys() - set(moving):
            self.state[name].copy_(now[name])

    @contextmanager
    def inside(self, model: nn.Module) -> Iterator[None]:
        """Inside, ``model`` has the copy's weights."""
        own = Kept(model)
        self.give(model)
        try:
            yield
        finally:
            own.give(model)

    @torch.no_grad()
    def give(self, model: nn.Module) -> None:
        """Set the weights of ``model`` to the copy's."""
        for name, tensor in model.state_dict().items():
            tensor.copy_(self.state[name])

    def state_dict(self) -> dict[str, Tensor]:
        """The copies by name, of the model's shapes, such as ``weight (out, in)``."""
        return self.state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over ``state``, of the same shapes, such as ``weight (out, in)``. Raises RuntimeError for other tensors."""
        if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in self.state.items()}:
            raise RuntimeError("the copied weights are of another model")
        self.state = state
