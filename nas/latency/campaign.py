"""A measuring campaign: time every block of a space, then whole networks, and make a table that knows its error."""

from __future__ import annotations

import datetime
import gc
import io
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from nas.blocks import Block
from nas.errors import BadInput
from nas.latency.fit import fit_calibration
from nas.latency.table import COLUMNS, LatencyTable, Validation, write_text
from nas.modules import Network, build
from nas.runtimes import Runtime
from nas.space import Archs, SearchSpace

GROUP = 48  # blocks that are loaded at once and timed in turn
MIN_ROUNDS, MAX_ROUNDS = 6, 24
SAMPLES = 4  # per visit; the first finds cold caches and is dropped
TIGHT = 0.02  # a block is done when the 95% interval of its median is within ±2%
DISTURBED = 1.10  # a group is timed again when the reference block ran this much slower than usual


def measure(
    space: SearchSpace,
    runtime: Runtime,
    *,
    run_dir: str | os.PathLike[str],
    name: str | None = None,
    resume: bool = False,
    calibrate: int = 30,
    validate: int = 20,
    seed: int = 0,
    progress: bool = False,
) -> LatencyTable:
    """The latency table of ``space`` on ``runtime.device``, measured now.

    Times every distinct block alone: warmed up, in groups whose members take turns, until the median is known to
    ±2% or 24 rounds have passed. Then times ``calibrate`` random whole networks and fits what isolated blocks cannot
    see (``nas.latency.fit``), then ``validate`` others, whose prediction error is recorded in the table. A reference
    block is timed along; groups that it shows to be disturbed are timed again.

    Writes ``<name>.csv/.json`` and ``<name>_networks.csv`` into ``run_dir`` (default name: table_<precision>). With
    ``resume``, a finished table is loaded and an interrupted campaign goes on after its last finished group.
    Raises BadInput when there is one already and ``resume`` is not given, or it was made for something else.
    """
    if calibrate < 8 or validate < 2:
        raise BadInput(f"calibrate at least 8 networks and validate at least 2, got {calibrate} and {validate}")
    folder = Path(run_dir)
    stem = folder / (name or f"table_{runtime.device.precision}")
    partial = stem.with_name(stem.name + ".partial.csv")
    finished = stem.with_name(stem.name + ".json")
    identity = json.dumps(
        {"space": space.fingerprint, "device": asdict(runtime.device), "networks": [calibrate, validate, seed]}
    )
    if finished.exists() or partial.exists():
        if not resume:
            raise BadInput(f"{folder} already holds {stem.name}; pass resume (--resume) to use it, or another folder")
        if finished.exists():
            return _matching(LatencyTable.load(stem), space, runtime)
    rows = _read_partial(partial, identity) if partial.exists() else {}
    _start(partial, identity, rows)
    drift = _time_blocks(space, runtime, partial, rows, seed, progress)
    table = LatencyTable(
        device=runtime.device,
        rows=pd.DataFrame([rows[b.key] for b in space.blocks], columns=list(COLUMNS)),
        space={"name": space.name, "fingerprint": space.fingerprint},
        date=datetime.date.today().isoformat(),
        source="measured by nas.measure",
        notes={"reference_drift": round(drift, 4)},
    )
    table, networks = _with_networks(table, space, runtime, calibrate, validate, seed, progress)
    write_text(stem.with_name(stem.name + "_networks.csv"), networks.to_csv(index=False, float_format="%.6g"))
    table.save(stem)
    partial.unlink()
    return LatencyTable.load(stem)  # as a resumed run will see it, to the last digit


def time_interleaved(
    runtime: Runtime, prepared: Sequence[Any], *, min_rounds: int = MIN_ROUNDS, max_rounds: int = MAX_ROUNDS
) -> list[NDArray[np.float64]]:
    """Samples in ms for each of ``prepared``, taken in turns so that a disturbance hits all and not one.

    Each stops by itself when its median is known to ±2%.
    """
    samples: list[list[float]] = [[] for _ in prepared]
    open_ = set(range(len(prepared)))
    with _no_garbage_collection():
        for done in range(1, max_rounds + 1):
            for i in sorted(open_):
                samples[i].extend(runtime.time(prepared[i], SAMPLES)[1:])
            if done >= min_rounds:
                open_ = {i for i in open_ if _median_interval(samples[i]) > TIGHT}
            if not open_:
                break
    return [np.array(s) for s in samples]


def distinct_archs(space: SearchSpace, n: int, seed: int, exclude: Archs | None = None) -> Archs:
    """Up to ``n`` different random architectures that are not among ``exclude``."""
    rng = np.random.default_rng(seed)
    pool = space.sample(4 * n + 64, rng)
    seen = {row.tobytes() for row in exclude} if exclude is not None else set()
    chosen: list[NDArray[np.uint8]] = []
    for row in pool:
        if len(chosen) < n and row.tobytes() not in seen:
            seen.add(row.tobytes())
            chosen.append(row)
    return np.array(chosen, dtype=np.uint8).reshape(-1, space.genes)


def kendall_tau(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Rank correlation of two vectors."""
    from scipy.stats import kendalltau

    return float(kendalltau(a, b).statistic)


def _time_blocks(
    space: SearchSpace,
    runtime: Runtime,
    partial: Path,
    rows: dict[str, list[Any]],
    seed: int,
    progress: bool,
) -> float:
    """Fill ``rows`` for all blocks, appending to ``partial`` after every group; returns the reference's drift."""
    order = np.random.default_rng(seed).permutation(len(space.blocks))
    todo = [space.blocks[i] for i in order if space.blocks[i].key not in rows]
    # the block of median cost: long enough to be timed well, short enough to be cheap
    reference = _prepared(runtime, sorted(space.blocks, key=lambda b: b.macs)[len(space.blocks) // 2])
    usual: list[float] = []
    label = f"{runtime.device.precision} blocks"
    with tqdm(total=len(space.blocks), initial=len(rows), desc=label, disable=not progress, unit="block") as bar:
        for start in range(0, len(todo), GROUP):
            group = todo[start : start + GROUP]
            prepared = [_prepared(runtime, block) for block in group] + [reference]
            for _ in range(3):
                *samples, check = time_interleaved(runtime, prepared)
                now = float(np.median(check))
                if not usual or now <= DISTURBED * float(np.median(usual)):
                    break
            usual.append(now)
            new = [_row(block, ms) for block, ms in zip(group, samples, strict=True)]
            rows.update({row[0]: row for row in new})
            _append(partial, new)
            bar.update(len(group))
    return max(usual) / min(usual) - 1 if usual else 0.0


def _with_networks(
    table: LatencyTable, space: SearchSpace, runtime: Runtime, calibrate: int, validate: int, seed: int, progress: bool
) -> tuple[LatencyTable, pd.DataFrame]:
    """Time whole networks; the first set calibrates the table, the second measures its error."""
    pool = distinct_archs(space, 40 * calibrate, seed + 1)
    # spread evenly from fast to slow: uniform sampling hardly ever draws small networks, which searches prefer
    by_latency = np.argsort(space.scorer(table.lookup(space.blocks))(pool))
    first = pool[by_latency[np.linspace(0, len(pool) - 1, calibrate).astype(int)]]
    second = distinct_archs(space, validate, seed + 2, exclude=first)
    archs = np.concatenate([first, second])
    networks = space.networks(archs)
    prepared = []
    label = f"{runtime.device.precision} networks"
    for blocks in tqdm(networks, desc=label, disable=not progress, unit="network"):
        prepared.append(runtime.prepare(Network(blocks), blocks[0].in_shape))
    samples = time_interleaved(runtime, prepared)
    measured = np.array([np.median(s) for s in samples])
    alone = dict(zip(table.rows["block"], table.rows["latency_ms"], strict=True))
    calibration = fit_calibration(
        networks[: len(first)],
        [np.array([alone[b.key] for b in blocks]) for blocks in networks[: len(first)]],
        measured[: len(first)],
    )
    table = replace(table, calibration=calibration)
    predicted = np.array([table.predict(blocks) for blocks in networks])
    table = replace(table, validation=validated(predicted[len(first) :], measured[len(first) :]))
    frame = pd.DataFrame(
        {
            "role": ["calibrate"] * len(first) + ["validate"] * len(second),
            "architecture": space.describe(archs),
            "predicted_ms": predicted,
            "measured_ms": measured,
            "p10_ms": [np.quantile(s, 0.1) for s in samples],
            "p90_ms": [np.quantile(s, 0.9) for s in samples],
        }
    )
    return table, frame


def validated(predicted: NDArray[np.float64], measured: NDArray[np.float64]) -> Validation:
    """The figures of a table's validation, from ms ``(n,)`` each."""
    error = np.abs(predicted / measured - 1)
    return Validation(
        networks=len(measured),
        kendall_tau=round(kendall_tau(predicted, measured), 4),
        mape=round(float(error.mean()), 4),
        within_10pct=round(float((error <= 0.1).mean()), 4),
    )


def _prepared(runtime: Runtime, block: Block) -> Any:
    return runtime.prepare(build(block), block.in_shape)


def _row(block: Block, samples: NDArray[np.float64]) -> list[Any]:
    return [block.key, np.median(samples), np.quantile(samples, 0.1), np.quantile(samples, 0.9), len(samples)]


def _median_interval(samples: Sequence[float]) -> float:
    """Half width of the 95% interval of the median, relative; from order statistics, no distribution assumed."""
    ordered = np.sort(samples)
    half = 0.98 * math.sqrt(len(ordered))
    low, high = max(0, math.floor(len(ordered) / 2 - half)), min(len(ordered) - 1, math.ceil(len(ordered) / 2 + half))
    return float((ordered[high] - ordered[low]) / (2 * np.median(ordered)))


def _matching(table: LatencyTable, space: SearchSpace, runtime: Runtime) -> LatencyTable:
    table.check_space(space)
    if table.device != runtime.device:
        differing = [k for k, v in asdict(table.device).items() if v != asdict(runtime.device)[k]]
        raise BadInput(
            f"the table there is for another device ({', '.join(differing)} differ): {table.name}, "
            f"this is {runtime.device.key}; choose another folder"
        )
    return table


def _start(partial: Path, identity: str, rows: dict[str, list[Any]]) -> None:
    text = f"# {identity}\n" + pd.DataFrame(list(rows.values()), columns=list(COLUMNS)).to_csv(index=False)
    write_text(partial, text)


def _append(partial: Path, rows: list[list[Any]]) -> None:
    with partial.open("a") as file:
        file.write(pd.DataFrame(rows).to_csv(index=False, header=False))
        file.flush()
        os.fsync(file.fileno())


def _read_partial(partial: Path, identity: str) -> dict[str, list[Any]]:
    text = partial.read_text()
    first, _, body = text.partition("\n")
    if first != f"# {identity}":
        raise BadInput(
            f"{partial} is an unfinished campaign for another space, device or setting; "
            "finish it with the same settings, delete it, or choose another folder"
        )
    body = body[: body.rfind("\n") + 1]  # a line that was being written when the run was killed
    return {row[0]: list(row) for row in pd.read_csv(io.StringIO(body)).itertuples(index=False, name=None)}


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
