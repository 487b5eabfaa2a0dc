"""Training inside a compression step: on the training images, augmented, with the context's teacher."""

from __future__ import annotations

from torch import nn

from nas.compression.step import Context
from nas.training.augment import Augment
from nas.training.network import learn
from nas.training.recipe import Recipe


def tune(network: nn.Module, recipe: Recipe, context: Context, *, distill: float) -> None:
    """Train ``network`` in place. ``distill``: share of the loss from the teacher's predictions."""
    learn(
        network,
        context.data,
        recipe,
        augment=Augment.suited_to(context.data) if context.augment is None else context.augment,
        teacher=context.teacher,
        distill=distill,
        seed=context.seed,
        device=context.device,
        on_epoch=context.on_epoch,
        progress=context.progress,
    )
