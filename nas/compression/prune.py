"""Structured pruning: whole channels, so that every runtime gains, with Torch-Pruning (Fang et al., CVPR 2023)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from nas.errors import BadInput
from nas.modules import Network

if TYPE_CHECKING:
    from nas.compression.pipeline import Context


@dataclass(frozen=True, kw_only=True)
class Prune:
    """Remove the ``ratio`` least important channels of every layer (group L2 magnitude).

    ``round_to``: channel counts stay multiples of it, because runtimes compute in such packs and a count between two
    multiples costs what the larger one does. The classifier keeps its classes. Fine-tune afterwards.
    """

    ratio: float = 0.3
    round_to: int = 16
    name: str = "prune"

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise BadInput(f"the share of channels to prune lies between 0 and 1, got {self.ratio}")

    def apply(self, network: nn.Module, context: Context) -> Network:
        import torch_pruning as tp

        if not isinstance(network, Network):
            raise BadInput(f"pruning takes a network of blocks, got {type(network).__name__}; prune before quantizing")
        pruned = copy.deepcopy(network).eval()
        classifier = pruned[-1].classify
        tp.pruner.BasePruner(
            pruned,
            torch.zeros(1, *network.input_shape),
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=self.ratio,
            round_to=self.round_to,
            ignored_layers=[classifier],
        ).step()
        # built anew from what the layers now are: no trace of the pruner, and proof that they still form blocks
        clean = Network(pruned.describe())
        clean.load_state_dict(pruned.state_dict())
        return clean.eval()
