"""Objectives that want networks: built when they are evaluated, one at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from nas.checks import Seed, checked
from nas.modules import Network
from nas.objectives.objective import Objective
from nas.space import Archs, Floats, SearchSpace


@checked
def of_networks(
    fn: Callable[[nn.Module], float],
    space: SearchSpace,
    *,
    name: str = "",
    unit: str = "",
    maximize: bool = False,
    seed: Seed = 0,
    identity: str = "",
) -> Objective:
    """``fn(network)`` as an expensive objective: of the ``nas.Network`` of each architecture, its weights freshly
    initialised from ``seed`` whatever was evaluated before it.

    ``name``: its own when left out; ``identity``: what else decides its values, such as the data (see ``Objective``).
    Raises BadInput when ``fn`` is no function.
    """
    plain = Objective.of(fn)  # type: ignore[arg-type]  # its name and identity, not what it takes

    def evaluate(archs: Archs) -> Floats:
        values = np.empty(len(archs))
        for i, blocks in enumerate(space.networks(archs)):
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed)
                values[i] = fn(Network(blocks))
        return values

    return Objective(
        name=name or plain.name,
        fn=evaluate,
        unit=unit,
        maximize=maximize,
        cheap=False,
        identity=f"{plain.identity} of networks of {space.fingerprint} seed {seed} {identity}".strip(),
    )
