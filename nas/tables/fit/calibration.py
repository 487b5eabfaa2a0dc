"""Calibration: from blocks timed alone to what they cost inside a network.

A block timed alone pays for a call of its own, and for turning its input and output into the runtime's inner layout
(channel packing in fp32, quantizing and de-quantizing in int8), which inside a network happens once or never. So

    network = fixed + sum over blocks of (scale * alone + per_block + per_element * elements)

with four coefficients, ``elements`` being a block's input plus output size. They are fitted to the timings of whole
networks, on relative errors, with a loss that is linear for outliers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from msgspec import Meta

from nas.blocks import Block
from nas.checks import Positive, checked
from nas.space import Floats
from nas.tables.features import elements

_FLOOR = 0.05  # a block never costs less than this share of its time alone
_Finite = Annotated[float, Meta(ge=-1e12, le=1e12)]


@checked
@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The four coefficients. The defaults change nothing. Times in ms."""

    scale: Positive = 1.0
    fixed_ms: Annotated[float, Meta(ge=0, le=1e12)] = 0.0
    per_block_ms: _Finite = 0.0
    per_element_ms: _Finite = 0.0

    def apply(self, blocks: Sequence[Block], alone_ms: Floats) -> Floats:
        """``(blocks,)``: ms inside a network, from ``alone_ms (blocks,)``; always positive."""
        inside = self.scale * alone_ms + self.per_block_ms + self.per_element_ms * elements(blocks)
        return np.maximum(inside, _FLOOR * alone_ms)


def fit_calibration(
    networks: Sequence[Sequence[Block]], alone_ms: Sequence[Floats], measured_ms: Floats
) -> Calibration:
    """The calibration that best explains ``measured_ms (n,)`` of ``networks (n)`` whose blocks took ``alone_ms`` each.

    Weakly drawn towards changing nothing, so that few or nearly equal networks cannot produce wild coefficients.
    """
    from scipy.optimize import least_squares

    rows = [[ms.sum(), 1.0, len(blocks), elements(blocks).sum()] for blocks, ms in zip(networks, alone_ms, strict=True)]
    features = np.array(rows) / measured_ms[:, None]  # relative: every network counts the same
    size = np.abs(features).max(axis=0)
    unchanged = np.array([1.0, 0.0, 0.0, 0.0]) * size
    weight = 0.01 * np.sqrt(len(rows))

    def residuals(x: Floats) -> Floats:
        return np.concatenate([(features / size) @ x - 1.0, weight * (x - unchanged) * [0.1, 1, 1, 1]])

    lower, upper = np.array([0.2, 0.0, -np.inf, -np.inf]) * size, np.array([3.0, np.inf, np.inf, np.inf]) * size
    solution = least_squares(residuals, unchanged, bounds=(lower, upper), loss="soft_l1", f_scale=0.05)
    scale, fixed, per_block, per_element = (solution.x / size).tolist()
    return Calibration(scale=scale, fixed_ms=fixed, per_block_ms=per_block, per_element_ms=per_element)
