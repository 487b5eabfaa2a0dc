"""Which parameters of a model learn, how fast, and by which optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from nas.checks import shown
from nas.errors import BadInput
from nas.training.norms import norms_of
from nas.training.recipe import Recipe


@contextmanager
def frozen(model: nn.Module, recipe: Recipe) -> Iterator[list[nn.Module]]:
    """Inside, the blocks that the recipe freezes do not learn; gives the modules that stay in eval mode.

    Raises BadInput when nothing is left to train.
    """
    if recipe.freeze == "norms":
        yield [*norms_of(model)]
        return
    blocks = blocks_of(model)
    if 0 < recipe.freeze >= len(blocks):
        most = max(0, len(blocks) - 1)
        raise BadInput(f"freeze is {recipe.freeze}, but of {len(blocks)} blocks at most {most} can stay as they are")
    still = blocks[: recipe.freeze]
    parameters = [p for block in still for p in block.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield [m for block in still for m in block.modules()]
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """What a model does one after another: its children, or those of the only one that it has."""
    children = list(model.children())
    while len(children) == 1 and list(children[0].children()):
        children = list(children[0].children())
    return children


def optimizer_of(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Of the parameters that learn, in groups by learning rate and weight decay.

    Raises BadInput when there are none, or when an optimizer of one's own is none.
    """
    fast = _classifier(model)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        # norms, biases and kernel transforms (which start as the identity) are not pulled towards zero
        decay = 0.0 if parameter.ndim < 2 or ".transforms." in name else recipe.weight_decay
        factor = 1.0 if id(parameter) in fast else recipe.body_lr
        if parameter.requires_grad:
            groups.setdefault((factor, decay), []).append(parameter)
    if not groups:
        raise BadInput(f"{type(model).__name__} has no parameters to train")
    given = [{"params": p, "lr": recipe.lr * factor, "weight_decay": decay} for (factor, decay), p in groups.items()]
    if recipe.optimizer is None:
        return torch.optim.SGD(given, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
    optimizer = recipe.optimizer(given)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise BadInput(f"optimizer(groups) is a torch.optim.Optimizer, got {shown(optimizer)}")
    return optimizer


def _classifier(model: nn.Module) -> set[int]:
    """The parameters of the linear layers of the last block; all of that block where it has none."""
    last = next(reversed(blocks_of(model)), model)
    linear: list[nn.Module] = [m for m in last.modules() if isinstance(m, nn.Linear)]
    return {id(p) for m in linear or [last] for p in m.parameters()}
