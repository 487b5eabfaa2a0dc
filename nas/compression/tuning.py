"""Training inside a compression step: on the training images, augmented, with the context's teacher."""

from __future__ import annotations

import copy

import numpy as np
from torch import Tensor, nn

from nas.compression.step import Context
from nas.training.augment import Augment
from nas.training.evaluate import input_size
from nas.training.loop import fit, supervised
from nas.training.recipe import Recipe, torch_device


def tune(
    network: nn.Module, recipe: Recipe, context: Context, *, distill: float, freeze_statistics: bool = False
) -> None:
    """Train ``network`` in place.

    ``distill``: share of the loss from the teacher's predictions. ``freeze_statistics``: batch norm keeps its running
    statistics and normalises by them.
    """
    device = torch_device(context.device)
    teacher = copy.deepcopy(context.teacher).to(device) if context.teacher is not None and distill else None
    step = supervised(recipe, teacher, weight=distill)

    def frozen(model: nn.Module, images: Tensor, labels: Tensor, rng: np.random.Generator) -> Tensor:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return step(model, images, labels, rng)

    fit(
        network,
        context.data,
        recipe,
        frozen if freeze_statistics else step,
        size=max(input_size(m) for m in (network, teacher) if m is not None),
        augment=Augment.suited_to(context.data),
        seed=context.seed,
        device=device,
        on_epoch=context.on_epoch,
        progress=context.progress,
    )
