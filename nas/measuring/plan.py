"""What a campaign times, decided before anything is timed, and the figures that judge what it found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nas.blocks import Block
from nas.checks import Count, Seed, checked
from nas.errors import BadInput
from nas.space import Archs, SearchSpace
from nas.tables.validation import distinct_archs

CALIBRATE, VALIDATE = 60, 20
"""Whole networks that a campaign times unless it is said: to fit what blocks alone do not show, and to judge the table by."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """The networks of a campaign; its blocks are all of ``space.blocks``.

    ``calibrate (n, genes)``: networks from cheap to dear, on which the calibration is fitted. ``validate (m, genes)``:
    others, drawn at random, whose prediction error the table records. ``reference``: the block that is timed along.
    """

    space: SearchSpace
    calibrate: Archs
    validate: Archs
    seed: int = 0

    @property
    def archs(self) -> Archs:
        """``(calibrate + validate, genes)``, in this order."""
        return np.concatenate([self.calibrate, self.validate])

    @property
    def reference(self) -> Block:
        """The block of median MACs: long enough to be timed well, short enough to be cheap."""
        blocks = self.space.blocks
        return sorted(blocks, key=lambda b: b.macs)[len(blocks) // 2]

    def models(self) -> list[dict[str, Any]]:
        """What a campaign times, in its order, as its log knows them: {file, role, key}, and of a network its ``blocks``.

        Blocks come first, as ``order`` has them; ``blocks`` are positions among them.
        """
        blocks = self.order()
        position = {block: i for i, block in enumerate(blocks)}
        models: list[dict[str, Any]] = [
            {"file": f"blocks/{i:05d}", "role": "block", "key": b.key} for i, b in enumerate(blocks)
        ]
        names, networks = self.space.describe(self.archs), self.space.networks(self.archs)
        for i, (name, network) in enumerate(zip(names, networks, strict=True)):
            role = "calibrate" if i < len(self.calibrate) else "validate"
            held = [position[b] for b in network]
            models.append({"file": f"networks/{i:05d}", "role": role, "key": name, "blocks": held})
        return models

    def order(self) -> list[Block]:
        """The blocks in an order without pattern, so that a disturbance does not hit all blocks of a kind."""
        return [self.space.blocks[i] for i in np.random.default_rng(self.seed).permutation(len(self.space.blocks))]


@checked
def plan(space: SearchSpace, *, calibrate: Count = CALIBRATE, validate: Count = VALIDATE, seed: Seed = 0) -> Plan:
    """Choose the whole networks of a campaign. Raises BadInput for too few to fit or to judge by."""
    if calibrate < 8 or validate < 2:
        raise BadInput(f"calibrate at least 8 networks and validate at least 2, got {calibrate} and {validate}")
    pool = distinct_archs(space, 40 * calibrate, seed + 1)
    if len(pool) < calibrate + validate:  # a tiny space: what there is, in the same proportion
        calibrate = len(pool) * calibrate // (calibrate + validate)
    # spread evenly from cheap to dear: uniform sampling hardly ever draws small networks, which searches prefer
    by_macs = np.argsort(space.scorer(space.per_block(lambda b: b.macs))(pool), kind="stable")
    first = pool[by_macs[np.linspace(0, len(pool) - 1, calibrate).astype(int)]]
    return Plan(
        space=space, calibrate=first, validate=distinct_archs(space, validate, seed + 2, exclude=first), seed=seed
    )
