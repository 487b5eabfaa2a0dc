"""Fine-tuning of a network on its own, with distillation from a teacher."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated

from torch import nn

from nas.checks import Batch, CountOrNone, Positive, Probability, checked
from nas.compression.step import Context
from nas.compression.tuning import tune
from nas.training.recipe import Recipe, settled

_USUAL = Recipe(epochs=20, lr=0.02, batch_size=64)


@checked
@dataclass(frozen=True, kw_only=True)
class FineTune:
    """Train a copy of the network; without a teacher in the context, on labels only.

    ``recipe``: for whatever else there is to say; it says epochs, lr and batch size, too. Raises BadInput when both do, and
    differ.
    """

    epochs: Annotated[CountOrNone | None, "epochs; 0: the network stays as it is (default: 20)"] = None
    lr: Annotated[Positive | None, "peak learning rate (default: 0.02)"] = None
    batch_size: Annotated[Batch | None, "images per step (default: 64)"] = None
    distill: Annotated[Probability, "share of the loss that comes from the teacher's predictions"] = 0.5
    recipe: Recipe | None = None
    name: str = "fine-tune"

    def __post_init__(self) -> None:
        self._recipe()

    @checked
    def apply(self, network: nn.Module, context: Context) -> nn.Module:
        tuned = copy.deepcopy(network)
        if recipe := self._recipe():
            tune(tuned, recipe, context, distill=self.distill)
        return tuned.eval()

    def _recipe(self) -> Recipe | None:
        """None for no epochs."""
        if self.epochs == 0 and self.recipe is None:
            return None
        return settled(_USUAL, self.recipe, epochs=self.epochs, lr=self.lr, batch_size=self.batch_size)
