"""Structured pruning: whole channels, so that every runtime gains, with Torch-Pruning (Fang et al., CVPR 2023)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated

import torch
from msgspec import Meta
from torch import nn

from nas.checks import Count, checked
from nas.compression.step import Context, float_network
from nas.modules import Network
from nas.training.evaluate import device_of


@checked
@dataclass(frozen=True, kw_only=True)
class Prune:
    """Remove the least important channels of every layer (group L2 magnitude).

    Runtimes compute in packs of channels: a count between two multiples of ``round_to`` costs what the larger one
    does. The classifier keeps its classes. Fine-tune afterwards.
    """

    ratio: Annotated[float, Meta(gt=0, lt=1), "share of channels that is removed"] = 0.3
    round_to: Annotated[Count, "channel counts stay multiples of it"] = 16
    name: str = "prune"

    @checked
    def apply(self, network: nn.Module, context: Context) -> Network:
        import torch_pruning as tp

        pruned = copy.deepcopy(float_network(network, self.name)).cpu().eval()
        tp.pruner.BasePruner(
            pruned,
            torch.zeros(1, *pruned.input_shape),
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=self.ratio,
            round_to=self.round_to,
            ignored_layers=[pruned[-1].classify],
        ).step()
        # built anew from what the layers now are: no trace of the pruner, and proof that they still form blocks
        clean = Network(pruned.describe())
        clean.load_state_dict(pruned.state_dict())
        clean.normalise = pruned.normalise
        return clean.to(device_of(network)).eval()
