"""Where others' published timings lie (../shared/data beside the project), and how their networks read as our choices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nas.space import SearchSpace

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
TABLES = ROOT / "latency_tables"
OFA_SIZES = tuple(range(128, 225, 4))
"""Image sizes of HELP's networks of once-for-all."""


def staged(
    space: SearchSpace, resolution: int, kernels: str, expands: str, depths: str, *, listed: int = 0
) -> dict[str, Any]:
    """A network of a space of stages, from lists such as "3-5-7": per block in network order, and per stage.

    ``listed``: blocks that the lists hold for every stage, be it as deep or not; 0: those that there are.
    """
    kernel, expand, depth = (_numbers(text) for text in (kernels, expands, depths))
    config: dict[str, Any] = {c.name: c.values[0] for c in space.choices if len(c.values) == 1}
    config["resolution"], at = resolution, 0
    for s, deep in enumerate(depth, 1):
        config[f"s{s}.depth"] = deep
        for b in range(deep):
            config |= {f"s{s}b{b + 1}.kernel": kernel[at + b], f"s{s}b{b + 1}.expand": expand[at + b]}
        at += listed or deep
    return config


def _numbers(text: str) -> Sequence[int]:
    return [int(number) for number in text.split("-")]
