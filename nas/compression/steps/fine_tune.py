"""Fine-tuning of a network on its own, with distillation from a teacher."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated

from torch import nn

from nas.checks import Batch, CountOrNone, Positive, Probability, checked
from nas.compression.step import Context
from nas.compression.tuning import tune
from nas.training.recipe import Recipe


@checked
@dataclass(frozen=True, kw_only=True)
class FineTune:
    """Train a copy of the network; without a teacher in the context, on labels only."""

    epochs: Annotated[CountOrNone, "epochs; 0: the network stays as it is"] = 20
    lr: Annotated[Positive, "peak learning rate"] = 0.02
    batch_size: Batch = 64
    distill: Annotated[Probability, "share of the loss that comes from the teacher's predictions"] = 0.5
    name: str = "fine-tune"

    @checked
    def apply(self, network: nn.Module, context: Context) -> nn.Module:
        tuned = copy.deepcopy(network)
        if self.epochs:
            recipe = Recipe(epochs=self.epochs, lr=self.lr, batch_size=self.batch_size)
            tune(tuned, recipe, context, distill=self.distill)
        return tuned.eval()
