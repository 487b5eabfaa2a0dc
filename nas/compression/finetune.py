"""Fine-tuning of a network on its own, with distillation from a teacher."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import nn

from nas.compression.pipeline import Context
from nas.training.loop import Augment, Recipe, fit, input_size, supervised


@dataclass(frozen=True, kw_only=True)
class FineTune:
    """Train a copy of the network for ``epochs`` with peak learning rate ``lr``.

    ``distill``: share of the loss that comes from the teacher's predictions (0: labels only).
    """

    epochs: int = 20
    lr: float = 0.02
    batch_size: int = 64
    distill: float = 0.5
    name: str = "fine-tune"

    def apply(self, network: nn.Module, context: Context) -> nn.Module:
        recipe = Recipe(epochs=self.epochs, lr=self.lr, batch_size=self.batch_size)
        tuned = copy.deepcopy(network)
        teacher = context.teacher if self.distill else None
        size = max([input_size(tuned)] + ([input_size(teacher)] if teacher is not None else []))
        fit(
            tuned,
            context.data,
            recipe,
            supervised(recipe, teacher, weight=self.distill),
            size=size,
            augment=Augment.suited_to(context.data),
            seed=context.seed,
        )
        return tuned.eval()
