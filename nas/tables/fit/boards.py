"""Latency tables of Cortex-M boards, from what MLPerf Tiny's published timings support. int8, batch 1.

    block = sum over operator kinds of (cost per MAC on that board * MACs)

Nobody has timed single blocks on these boards in public, only four whole networks per board and runtime. The costs come
from ``experiments/cortex_m_boards.py``, which says how; their intervals are wide, and meant.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nas.blocks import Block, Conv, Linear
from nas.device import Device
from nas.errors import BadInput
from nas.space import SearchSpace
from nas.tables.fit.calibration import Calibration
from nas.tables.table import LatencyTable, Validation
from nas.tables.validation import validated

FILE = Path(__file__).parents[3] / "latency_tables" / "cortex_m_boards.json"

OPERATORS = ("full", "pointwise", "depthwise", "dense")
"""Kinds of MACs: kxk, 1x1 and depthwise convolutions; matrix times vector, which squeeze-excite is too."""

LIMIT = 0.25
"""Boards whose networks are off by more than this on average, when none of them is fitted to, get no table."""

UNTIMED = 0.4
"""Standard deviation of the logarithm that operations add which no timed network has. A judgement: nothing tells it."""

_Z90 = 1.2816


def boards() -> list[str]:
    """``BOARD/RUNTIME`` of every table that ``board_table`` makes."""
    return [_name(b) for b in _known() if not _why_not(b)]


def board_table(board: str, space: SearchSpace) -> LatencyTable:
    """The table (kind "fitted") of the blocks of ``space`` on a board, such as "NUCLEO-L4R5ZI/X-CUBE-AI".

    Without a runtime, the one submitted last is taken. Columns p10_ms and p90_ms hold the 80% interval of each block;
    ``runs`` is 0, because no block was timed. ``validation``: each of the board's networks predicted by a fit that had
    not seen that network on any board. Raises BadInput for boards without timings, or whose timings support no table.
    """
    entry = _find(board)
    if refused := _why_not(entry):
        raise BadInput(f"no table for {_name(entry)}: {refused}; boards with one: {', '.join(_with_table())}")
    networks = entry["networks"]
    measured = np.array([n["measured_ms"] for n in networks.values()])
    on_board = np.array([n["held_out_ms"] for n in networks.values()])
    return _table(
        space,
        np.array(list(entry["costs"].values())),
        np.array(entry["log_covariance"]),
        device=_device(entry["board"], entry["core"], entry["mhz"], entry["runtime"], entry["version"]),
        validation=validated(_never_seen(entry), measured),
        source=_file()["source"],
        notes={
            "networks": len(networks),
            "validation": f"{', '.join(networks)} of MLPerf Tiny, each predicted by a fit without it on any board; they "
            "differ 50-fold in MACs, so their rank correlation says nothing of networks alike in size",
            "held_out_on_this_board_only_mape": round(float(np.abs(on_board / measured - 1).mean()), 4),
        },
    )


def own_board_table(
    board: str,
    space: SearchSpace,
    ms: Mapping[str, float],
    *,
    core: str,
    mhz: float,
    runtime: str = "unknown",
    version: str = "unknown",
) -> LatencyTable:
    """The table of a board that is not among ``boards()``, from your timings of MLPerf Tiny's int8 networks on it.

    ``ms``: milliseconds by network, at least one of "ic", "vww", "kws", "ad". ``core``: such as "Cortex-M7"; of one that
    nobody submitted, more is left open. ``validation``: each network predicted from the others; None with one network.
    Raises BadInput for other networks, or times and clocks that are not positive.
    """
    known = list(_file()["network_macs"])
    if not ms or set(ms) - set(known):
        raise BadInput(
            f"timings of MLPerf Tiny's networks ({', '.join(known)}) are needed, got {', '.join(ms) or 'none'}"
        )
    if not all(np.isfinite(v) and v > 0 for v in [*ms.values(), mhz]):
        raise BadInput(f"milliseconds and MHz are positive numbers, got {dict(ms)} at {mhz} MHz")
    costs, covariance = _learn(core, mhz, ms)
    measured = np.array(list(ms.values()))
    held_out = [_network_ms(n, _learn(core, mhz, {k: v for k, v in ms.items() if k != n})[0]) for n in ms]
    return _table(
        space,
        costs,
        covariance,
        device=_device(board, core, mhz, runtime, version),
        validation=validated(np.array(held_out), measured) if len(ms) > 1 else None,
        source=f"own timings of {', '.join(ms)}; {_file()['source']}",
        notes={
            "networks": len(ms),
            "validation": "each of the board's networks predicted from the others and from other boards",
        },
    )


def _learn(core: str, mhz: float, ms: Mapping[str, float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``(costs (5,) in ms, covariance of their logarithms)``: what is believed of new boards, given ``ms``."""
    new = {name.lower(): belief for name, belief in _file()["new_boards"].items()}
    belief = new.get(core.lower(), new["other"])
    prior, covariance = np.array(belief["log_kilocycles"]) - np.log(mhz), np.array(belief["log_covariance"])
    if not ms:
        return np.exp(prior), covariance
    load = np.array([[*_file()["network_macs"][n].values(), 1.0] for n in ms])
    target, noise = np.log(list(ms.values())), _file()["timing_log_sd"] ** 2 * np.eye(len(ms))
    x = prior
    for _ in range(50):  # Gauss-Newton; at most a factor of 1.65 at once
        part = np.exp(x) * load
        slope = part / part.sum(axis=1, keepdims=True)
        gain = covariance @ slope.T @ np.linalg.inv(slope @ covariance @ slope.T + noise)
        step = prior + gain @ (target - np.log(part.sum(axis=1)) + slope @ (x - prior)) - x
        x = x + step * min(1.0, 0.5 / max(float(np.abs(step).max()), 1e-12))
    return np.exp(x), covariance - gain @ slope @ covariance


def _network_ms(network: str, costs: NDArray[np.float64]) -> float:
    return float(np.dot([*_file()["network_macs"][network].values(), 1.0], costs))


def _device(board: str, core: str, mhz: float, runtime: str, version: str) -> Device:
    chip = f"{core} at {mhz:g} MHz"
    return Device(name=board, chip=chip, runtime=runtime, version=version, precision="int8")


def _table(
    space: SearchSpace,
    costs: NDArray[np.float64],
    covariance: NDArray[np.float64],
    *,
    device: Device,
    validation: Validation | None,
    source: str,
    notes: Mapping[str, Any],
) -> LatencyTable:
    """``costs (5,)``: ms per MAC by operator, and per network; ``covariance (5, 5)`` of their logarithms."""
    blocks = space.blocks
    parts = np.array([operator_macs(b) for b in blocks], dtype=float) * costs[:-1]
    ms = parts.sum(axis=1)
    untimed = np.array([_is_untimed(b) for b in blocks])
    half = np.exp(_Z90 * _deviation(parts / ms[:, None], covariance[:-1, :-1], untimed))
    rows = pd.DataFrame(
        {"block": [b.key for b in blocks], "latency_ms": ms, "p10_ms": ms / half, "p90_ms": ms * half, "runs": 0}
    )
    return LatencyTable(
        device=device,
        rows=rows,
        calibration=Calibration(fixed_ms=float(costs[-1])),
        validation=validation,
        kind="fitted",
        space={"name": space.name, "fingerprint": space.fingerprint},
        date=datetime.date.today().isoformat(),
        source=source,
        licence=_file()["licence"],
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


def operator_macs(block: Block) -> tuple[int, ...]:
    """MACs of one block by kind, in the order of ``OPERATORS``."""
    macs = dict.fromkeys(OPERATORS, 0)
    for part in block.parts().values():
        if isinstance(part, Conv):
            kernel = "pointwise" if part.kernel == 1 else "full"
            macs["depthwise" if part.depthwise else "dense" if part.size == 1 else kernel] += part.macs
        elif isinstance(part, Linear):
            macs["dense"] += part.macs
    return tuple(macs.values())


def _deviation(
    shares: NDArray[np.float64], covariance: NDArray[np.float64], untimed: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """``(blocks,)`` standard deviation of the logarithm: of the costs, of the model, of what was never timed."""
    costs = np.einsum("ij,jk,ik->i", shares, covariance, shares)
    return np.asarray(np.sqrt(costs + _model_error() ** 2 + UNTIMED**2 * untimed))


@cache
def _model_error() -> float:
    """Root mean square of the log errors of networks never seen, over all boards: what MACs by kind do not explain."""
    errors = [
        np.log(_never_seen(b) / [n["measured_ms"] for n in b["networks"].values()]) for b in _known() if b["networks"]
    ]
    return float(np.sqrt(np.mean(np.concatenate(errors) ** 2)))


def _is_untimed(block: Block) -> bool:
    """Whether it has operations that none of the four networks has."""
    convolutions = [p for p in block.parts().values() if isinstance(p, Conv)]
    return (
        getattr(block, "act", "relu") not in ("relu", "relu6")
        or getattr(block, "se", 0) > 0
        or any(p.groups > 1 or (p.depthwise and p.kernel > 3) for p in convolutions)
    )


def _never_seen(entry: Mapping[str, Any]) -> NDArray[np.float64]:
    return np.array([n["never_seen_ms"] for n in entry["networks"].values()])


def _why_not(entry: Mapping[str, Any]) -> str:
    """Why the timings of a board and runtime support no table, or nothing."""
    networks = entry["networks"].values()
    if entry["runtime"] == "unstated":
        return "its submission does not say which runtime was timed"
    if len(networks) < 4:
        return f"only {len(networks)} of MLPerf Tiny's 4 networks were timed on it"
    error = float(np.mean([abs(n["never_seen_ms"] / n["measured_ms"] - 1) for n in networks]))
    if error > LIMIT:
        return f"its networks are off by {error:.0%} on average when held out, the limit is {LIMIT:.0%}"
    return ""


def _find(board: str) -> Mapping[str, Any]:
    wanted, _, runtime = board.strip().lower().partition("/")
    of_board = [b for b in _known() if b["board"].lower() == wanted]
    found = [b for b in of_board if not runtime or b["runtime"].lower() == runtime]
    if not found:
        choice = [_name(b) for b in of_board] or _with_table()
        raise BadInput(
            f"no timings of {board!r} are published in MLPerf Tiny; there are some of {', '.join(choice)}; "
            "own timings of its networks on another board make a table with nas.tables.fit.boards.own_board_table"
        )
    return max(found, key=lambda b: (not _why_not(b), b["version"]))


def _with_table() -> list[str]:
    return list(dict.fromkeys(name.partition("/")[0] for name in boards()))


def _name(entry: Mapping[str, Any]) -> str:
    return f"{entry['board']}/{entry['runtime']}"


def _known() -> Sequence[Mapping[str, Any]]:
    known: Sequence[Mapping[str, Any]] = _file()["boards"]
    return known


@cache
def _file() -> Mapping[str, Any]:
    try:
        content: Mapping[str, Any] = json.loads(FILE.read_text())
    except (OSError, ValueError) as error:
        raise BadInput(f"{FILE} is missing or damaged: {error}") from None
    return content
