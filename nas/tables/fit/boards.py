"""Latency tables of Cortex-M boards, from what MLPerf Tiny's published timings support. int8, batch 1.

    block = sum over operator kinds of (cost per MAC on that board * MACs)

Nobody has timed single blocks on these boards in public, only four whole networks per board and runtime. The costs come
from ``experiments/cortex_m_boards.py``, which says how; their intervals are wide, and meant.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Annotated, Any

import numpy as np
import pandas as pd
from msgspec import Meta

from nas.blocks import Block
from nas.checks import Positive, check, checked
from nas.device import Device
from nas.errors import BadInput
from nas.files import read_json
from nas.space import Floats, SearchSpace
from nas.tables.features import OPERATORS, convolutions, macs_by_operator
from nas.tables.fit.calibration import Calibration
from nas.tables.shipped import SHIPPED
from nas.tables.table import LatencyTable, Validation
from nas.tables.validation import validated

FILE = SHIPPED / "cortex_m_boards.json"

LIMIT = 0.25
"""Boards whose networks are off by more than this on average, when none of them is fitted to, get no table."""

UNTIMED = 0.4
"""Standard deviation of the logarithm that operations add which no timed network has. A judgement: nothing tells it."""

_Z90 = 1.2816
_PARAMETERS = len(OPERATORS) + 1  # a cost per MAC of each operator, and one per network
_Costs = Annotated[tuple[float, ...], Meta(min_length=_PARAMETERS, max_length=_PARAMETERS)]
_Covariance = Annotated[tuple[_Costs, ...], Meta(min_length=_PARAMETERS, max_length=_PARAMETERS)]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One of MLPerf Tiny's networks on a board, and what fits say that have not seen it on that board, or on any."""

    measured_ms: Positive
    held_out_ms: Positive
    never_seen_ms: Positive


@dataclass(frozen=True, kw_only=True)
class Board:
    """A board and runtime of the file: ms per MAC by operator and per network (``fixed``), and how well known."""

    board: str
    runtime: str
    version: str
    core: str
    mhz: Positive
    costs: Annotated[dict[str, Positive], Meta(min_length=_PARAMETERS, max_length=_PARAMETERS)]
    log_covariance: _Covariance
    networks: dict[str, Timing]

    @property
    def name(self) -> str:
        return f"{self.board}/{self.runtime}"

    @property
    def device(self) -> Device:
        return _device(self.board, self.core, self.mhz, self.runtime, self.version)

    @cached_property
    def measured(self) -> Floats:
        """``(networks,)`` ms."""
        return np.array([n.measured_ms for n in self.networks.values()])

    @cached_property
    def never_seen(self) -> Floats:
        """``(networks,)`` ms, each by a fit that has not seen that network on any board."""
        return np.array([n.never_seen_ms for n in self.networks.values()])

    @property
    def refused(self) -> str:
        """Why the timings of this board and runtime support no table, or nothing."""
        if self.runtime == "unstated":
            return "its submission does not say which runtime was timed"
        if len(self.networks) < 4:
            return f"only {len(self.networks)} of MLPerf Tiny's 4 networks were timed on it"
        error = float(np.abs(self.never_seen / self.measured - 1).mean())
        if error > LIMIT:
            return f"its networks are off by {error:.0%} on average when held out, the limit is {LIMIT:.0%}"
        return ""


@dataclass(frozen=True, kw_only=True)
class Prior:
    """What is known of a board that nobody timed: log cost per MAC in kilocycles, and covariance."""

    log_kilocycles: _Costs
    log_covariance: _Covariance


@dataclass(frozen=True, kw_only=True)
class Timings:
    """The shipped file."""

    source: str
    licence: str
    network_macs: dict[str, Annotated[dict[str, int], Meta(min_length=len(OPERATORS), max_length=len(OPERATORS))]]
    timing_log_sd: Positive
    new_boards: dict[str, Prior]
    boards: tuple[Board, ...]

    def load(self, network: str) -> Floats:
        """``(5,)``: MACs of a network by operator, and 1 for its call."""
        return np.array([*self.network_macs[network].values(), 1.0])


def boards() -> list[str]:
    """``BOARD/RUNTIME`` of every table that ``board_table`` makes."""
    return [b.name for b in _file().boards if not b.refused]


@checked
def board_table(board: str, space: SearchSpace) -> LatencyTable:
    """The table (kind "fitted") of the blocks of ``space`` on a board, such as "NUCLEO-L4R5ZI/X-CUBE-AI".

    Without a runtime, the one submitted last is taken. Columns p10_ms and p90_ms hold the 80% interval of each block;
    ``runs`` is 0, because no block was timed. ``validation``: each of the board's networks predicted by a fit that had
    not seen that network on any board. Raises BadInput for boards without timings, or whose timings support no table.
    """
    entry = find(board)
    if entry.refused:
        raise BadInput(f"no table for {entry.name}: {entry.refused}; boards with one: {', '.join(_with_table())}")
    on_board = np.array([n.held_out_ms for n in entry.networks.values()])
    return _table(
        space,
        np.array(list(entry.costs.values())),
        np.array(entry.log_covariance),
        device=entry.device,
        validation=validated(entry.never_seen, entry.measured),
        source=_file().source,
        notes={
            "networks": len(entry.networks),
            "validation": f"{', '.join(entry.networks)} of MLPerf Tiny, each predicted by a fit without it on any board; "
            "they differ 50-fold in MACs, so their rank correlation says nothing of networks alike in size",
            "held_out_on_this_board_only_mape": round(float(np.abs(on_board / entry.measured - 1).mean()), 4),
        },
    )


@checked
def own_board_table(
    board: str,
    space: SearchSpace,
    ms: Mapping[str, float],
    *,
    core: str,
    mhz: Positive,
    runtime: str = "unknown",
    version: str = "unknown",
) -> LatencyTable:
    """The table of a board that is not among ``boards()``, from your timings of MLPerf Tiny's int8 networks on it.

    ``ms``: milliseconds by network, at least one of "ic", "vww", "kws", "ad". ``core``: such as "Cortex-M7"; of one that
    nobody submitted, more is left open. ``validation``: each network predicted from the others; None with one network.
    Raises BadInput for other networks, or times and clocks that are not positive.
    """
    known = list(_file().network_macs)
    if not ms or set(ms) - set(known):
        raise BadInput(
            f"timings of MLPerf Tiny's networks ({', '.join(known)}) are needed, got {', '.join(ms) or 'none'}"
        )
    for network, value in ms.items():
        check(f"the time of {network} in ms", value, Positive)
    costs, covariance = _learn(core, mhz, ms)
    held_out = [_file().load(n) @ _learn(core, mhz, {k: v for k, v in ms.items() if k != n})[0] for n in ms]
    return _table(
        space,
        costs,
        covariance,
        device=_device(board, core, mhz, runtime, version),
        validation=validated(np.array(held_out), np.array(list(ms.values()))) if len(ms) > 1 else None,
        source=f"own timings of {', '.join(ms)}; {_file().source}",
        notes={
            "networks": len(ms),
            "validation": "each of the board's networks predicted from the others and from other boards",
        },
    )


def _learn(core: str, mhz: float, ms: Mapping[str, float]) -> tuple[Floats, Floats]:
    """``(costs (5,) in ms, covariance (5, 5) of their logarithms)``: of a new board, given its timings ``ms``."""
    of_core = {name.lower(): prior for name, prior in _file().new_boards.items()}
    prior = of_core.get(core.lower(), of_core["other"])
    mean, covariance = np.array(prior.log_kilocycles) - np.log(mhz), np.array(prior.log_covariance)
    if not ms:
        return np.exp(mean), covariance
    load = np.array([_file().load(n) for n in ms])
    target, noise = np.log(list(ms.values())), _file().timing_log_sd ** 2 * np.eye(len(ms))
    x = mean
    for _ in range(50):  # Gauss-Newton; at most a factor of 1.65 at once
        part = np.exp(x) * load
        slope = part / part.sum(axis=1, keepdims=True)
        gain = covariance @ slope.T @ np.linalg.inv(slope @ covariance @ slope.T + noise)
        step = mean + gain @ (target - np.log(part.sum(axis=1)) + slope @ (x - mean)) - x
        x = x + step * min(1.0, 0.5 / max(float(np.abs(step).max()), 1e-12))
    return np.exp(x), covariance - gain @ slope @ covariance


def _device(board: str, core: str, mhz: float, runtime: str, version: str) -> Device:
    chip = f"{core} at {mhz:g} MHz"
    return Device(name=board, chip=chip, runtime=runtime, version=version, precision="int8")


def _table(
    space: SearchSpace,
    costs: Floats,
    covariance: Floats,
    *,
    device: Device,
    validation: Validation | None,
    source: str,
    notes: Mapping[str, Any],
) -> LatencyTable:
    """``costs (5,)``: ms per MAC by operator, and per network; ``covariance (5, 5)`` of their logarithms."""
    parts = macs_by_operator(space.blocks) * costs[:-1]
    ms = parts.sum(axis=1)
    untimed = np.array([_is_untimed(b) for b in space.blocks])
    half = np.exp(_Z90 * _deviation(parts / ms[:, None], covariance[:-1, :-1], untimed))
    keys = [b.key for b in space.blocks]
    return LatencyTable(
        device=device,
        rows=pd.DataFrame({"block": keys, "latency_ms": ms, "p10_ms": ms / half, "p90_ms": ms * half, "runs": 0}),
        calibration=Calibration(fixed_ms=float(costs[-1])),
        validation=validation,
        kind="fitted",
        space={"name": space.name, "fingerprint": space.fingerprint},
        date=datetime.date.today().isoformat(),
        source=source,
        licence=_file().licence,
        notes={
            **notes,
            "percentiles": "the model's own 80% interval for the block, not the spread of timings",
            "depthwise": "hardly told apart from 1x1 by these networks, both have the same share of it: known within a "
            f"factor of {np.exp(_Z90 * covariance[2, 2] ** 0.5):.1f}",
            "blocks_with_untimed_operations": int(untimed.sum()),
            "operators": "milliseconds per MAC: "
            + ", ".join(f"{k} {c:.3g}" for k, c in zip(OPERATORS, costs, strict=False)),
        },
    )


def _deviation(shares: Floats, covariance: Floats, untimed: Any) -> Floats:
    """``(blocks,)`` standard deviation of the logarithm: of the costs, of the model, of what was never timed.

    ``shares (blocks, 4)`` of the operators, ``covariance (4, 4)``, ``untimed (blocks,) bool``.
    """
    costs = np.einsum("ij,jk,ik->i", shares, covariance, shares)
    return np.asarray(np.sqrt(costs + _model_error() ** 2 + UNTIMED**2 * untimed))


@cache
def _model_error() -> float:
    """Root mean square of the log errors of networks never seen, over all boards: what MACs by kind do not explain."""
    errors = [np.log(b.never_seen / b.measured) for b in _file().boards]
    return float(np.sqrt(np.mean(np.concatenate(errors) ** 2)))


def _is_untimed(block: Block) -> bool:
    """Whether it has operations that none of the four networks has."""
    return (
        getattr(block, "act", "relu") not in ("relu", "relu6")
        or getattr(block, "se", 0) > 0
        or any(p.groups > 1 or (p.depthwise and p.kernel > 3) for p in convolutions(block))
    )


def find(board: str) -> Board:
    """The timings of a board, such as "NUCLEO-L4R5ZI/X-CUBE-AI". Raises BadInput, with what there is, for others."""
    wanted, _, runtime = board.strip().lower().partition("/")
    of_board = [b for b in _file().boards if b.board.lower() == wanted]
    found = [b for b in of_board if not runtime or b.runtime.lower() == runtime]
    if not found:
        choice = [b.name for b in of_board] or _with_table()
        raise BadInput(
            f"no timings of {board[:60]!r} are published in MLPerf Tiny; there are some of {', '.join(choice)}; "
            "own timings of its networks on another board make a table with nas.tables.fit.boards.own_board_table"
        )
    return max(found, key=lambda b: (not b.refused, b.version))


def _with_table() -> list[str]:
    return list(dict.fromkeys(name.partition("/")[0] for name in boards()))


@cache
def _file() -> Timings:
    return read_json(FILE, Timings)
