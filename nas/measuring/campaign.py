"""A measuring campaign: time every block of a space, then whole networks, and make a table that knows its error."""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from nas.blocks import Block
from nas.errors import BadInput
from nas.files import write_text
from nas.measuring.assemble import assemble
from nas.measuring.conditions import conditions, warnings
from nas.measuring.energy import Meter, with_energy
from nas.measuring.plan import Plan, plan
from nas.measuring.timing import Direct, Failure, Isolated, Timed, Timer
from nas.runtimes import Runtime
from nas.space import SearchSpace
from nas.tables.table import COLUMNS, LatencyTable
from nas.tables.validation import repeatability

GROUP = 48  # blocks that are loaded at once and timed in turn
NETWORKS = 12  # whole networks, likewise
RETIMED = 48  # blocks that are timed a second time at the end: the campaign's own repeatability
DISTURBED = 1.10  # a group is timed again when the reference block ran this much slower than usual
_ATTEMPTS = 3

_FAILED = "failed: "
Rows = dict[str, list[Any]]


def measure(
    space: SearchSpace,
    runtime: Runtime,
    *,
    run_dir: str | os.PathLike[str],
    name: str | None = None,
    resume: bool = False,
    calibrate: int = 60,
    validate: int = 20,
    seed: int = 0,
    isolate: bool = False,
    meter: Meter | None = None,
    progress: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> LatencyTable:
    """The latency table of ``space`` on ``runtime.device``, measured now.

    Times every distinct block alone: warmed up, in groups whose members take turns, until the median is known to
    ±2% or 24 rounds have passed. Then times ``calibrate`` random whole networks and fits what isolated blocks cannot
    see (``nas.tables.fit.calibration``), then ``validate`` others, whose prediction error is recorded in the table, and last a
    sample of the blocks again, whose difference is the table's repeatability. A reference block is timed along; groups
    that it shows to be disturbed are timed again, and its drift is recorded, as are clock, temperature and load.

    ``isolate``: load and time in a process of its own, so that a block that crashes or hangs the runtime is recorded
    as failed (``notes["failed"]``; the table then lacks it) instead of ending the campaign.
    ``meter``: also the energy of every block (``nas.measuring.energy``). ``say``: is told the time estimate and warnings.

    Writes ``<name>.csv/.json`` and ``<name>_networks.csv`` into ``run_dir`` (default name: table_<precision>). With
    ``resume``, a finished table is loaded and an interrupted campaign goes on after its last finished group.
    Raises BadInput when there is one already and ``resume`` is not given, when it was made for something else, or
    when the disk is full (what was measured is kept).
    """
    campaign = plan(space, calibrate=calibrate, validate=validate, seed=seed)
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
    started, before = time.monotonic(), conditions()
    log = _Log(partial, identity)
    with contextlib.ExitStack() as stack:
        timer: Timer = Direct(runtime, meter)
        if isolate:
            timer = stack.enter_context(Isolated(runtime, meter=meter))
        watch = _Watch(timer, campaign.reference)
        _time_blocks(campaign, watch, log, runtime.device.precision, progress, say)
        # between large networks the reference finds other caches: a watch of their own
        network_ms = _time_whole(campaign, _Watch(timer, campaign.reference), log, runtime.device.precision, progress)
        again = _time_again(campaign, watch, log)
    rows = pd.DataFrame([log.rows[b.key] for b in space.blocks if b.key in log.rows], columns=list(COLUMNS))
    after = conditions()
    doubts = warnings(before, after) + watch.doubts() + [f"[{key}] failed: {text}" for key, text in log.failed.items()]
    for line in doubts:
        say(f"note: {line}")
    notes = {
        "reference_drift": round(watch.drift, 4),
        "repeatability": again,
        "conditions": {"before": before, "after": after},
        "seconds": round(time.monotonic() - started),
        "doubts": doubts,
        "failed": log.failed,
    }
    table, networks = assemble(
        campaign,
        runtime.device,
        rows,
        network_ms,
        kind=getattr(runtime, "kind", "measured"),
        source="nas.measure",
        notes=notes,
    )
    if meter is not None:
        windows = pd.DataFrame(
            [[key, *w] for key, w in log.windows.items()], columns=["block", "begin", "end", "watts"]
        )
        write_text(stem.with_name(stem.name + "_windows.csv"), windows.to_csv(index=False))
        if windows["watts"].notna().all():
            table = with_energy(table, windows)
    write_text(stem.with_name(stem.name + "_networks.csv"), networks.to_csv(index=False, float_format="%.6g"))
    table.save(stem)
    log.remove()
    return LatencyTable.load(stem)  # as a resumed run will see it, to the last digit


def add_energy(stem: str | os.PathLike[str], log: str | os.PathLike[str]) -> LatencyTable:
    """Give a table that was measured with ``energy.Later`` its energies, from the log of the user's own meter."""
    path = Path(stem).with_suffix("") if Path(stem).suffix in (".csv", ".json") else Path(stem)
    windows = path.with_name(path.name + "_windows.csv")
    if not windows.exists():
        raise BadInput(f"{windows} does not exist; measure the table with a meter (nas measure --energy later) first")
    table = with_energy(LatencyTable.load(path), pd.read_csv(windows), log)
    table.save(path)
    return table


class _Watch:
    """Times groups with the reference block among them; a group that was disturbed is timed again."""

    def __init__(self, timer: Timer, reference: Block) -> None:
        self._timer, self._reference = timer, (reference,)
        self._usual: list[float] = []
        self._disturbed = 0

    def __call__(self, networks: Sequence[Sequence[Block]], *, energy: bool = False) -> list[Timed | Failure]:
        for _ in range(_ATTEMPTS):
            *timed, check = self._timer([*networks, self._reference], energy=energy)
            if isinstance(check, Failure):
                raise BadInput(
                    f"the runtime cannot run even the reference block [{self._reference[0].key}]: {check.text}"
                )
            now = float(np.median(check.ms))
            if not self._usual or now <= DISTURBED * float(np.median(self._usual)):
                break
        else:
            self._disturbed += 1
        self._usual.append(now)
        return timed

    @property
    def drift(self) -> float:
        """From the fastest to the slowest the reference ever was, relative."""
        return max(self._usual) / min(self._usual) - 1 if self._usual else 0.0

    def doubts(self) -> list[str]:
        if not self._disturbed:
            return []
        return [
            f"{self._disturbed} of {len(self._usual)} groups ran while the reference block was more than "
            f"{DISTURBED - 1:.0%} slower than usual, three times in a row"
        ]


class _Log:
    """What is finished, on disk line by line: ``<name>.partial.csv`` for blocks, ``.partial.networks`` for the rest."""

    def __init__(self, path: Path, identity: str) -> None:
        self.path = path
        self.rows: Rows = {}
        self.failed: dict[str, str] = {}
        self.windows: Rows = {}
        self._networks = path.with_name(path.name.replace(".partial.csv", ".partial.networks"))
        if path.exists():
            self._read(identity)
        else:
            self._networks.unlink(missing_ok=True)
        columns = ",".join([*COLUMNS, "begin", "end", "watts"])
        write_text(path, f"# {identity}\n{columns}\n" + self._lines([*self.rows, *self.failed]))

    def add(self, blocks: Sequence[Block], timed: Sequence[Timed | Failure]) -> None:
        """Keep a finished group. Raises BadInput when it cannot be written."""
        for block, one in zip(blocks, timed, strict=True):
            if isinstance(one, Failure):
                self.failed[block.key] = one.text
                continue
            self.rows[block.key] = _row(block, one.ms)
            if one.window:
                self.windows[block.key] = [one.window.begin, one.window.end, one.window.watts]
        append(self.path, self._lines([b.key for b in blocks]))

    def network_ms(self) -> list[float]:
        """Whole networks timed so far, in the order of the plan."""
        if not self._networks.exists():
            return []
        text = self._networks.read_text()
        return [float(line) for line in text[: text.rfind("\n") + 1].split()]

    def add_networks(self, ms: Sequence[float]) -> None:
        append(self._networks, "".join(f"{v!r}\n" for v in ms))

    def remove(self) -> None:
        self.path.unlink()
        self._networks.unlink(missing_ok=True)

    def _lines(self, keys: Sequence[str]) -> str:
        lines = [
            [key, _FAILED + self.failed[key], *[""] * 6]
            if key in self.failed
            else [*self.rows[key], *self.windows.get(key, [""] * 3)]
            for key in keys
        ]
        return pd.DataFrame(lines).to_csv(index=False, header=False) if lines else ""

    def _read(self, identity: str) -> None:
        text = self.path.read_text()
        first, _, body = text.partition("\n")
        if first != f"# {identity}":
            raise BadInput(
                f"{self.path} is an unfinished campaign for another space, device or setting; "
                "finish it with the same settings, delete it, or choose another folder"
            )
        body = body[: body.rfind("\n") + 1]  # a line that was being written when the run was killed
        for key, ms, *rest in pd.read_csv(io.StringIO(body), dtype={"latency_ms": str}).itertuples(
            index=False, name=None
        ):
            if ms.startswith(_FAILED):
                self.failed[key] = ms.removeprefix(_FAILED)
                continue
            self.rows[key] = [key, float(ms), *rest[:3]]
            if not np.isnan(rest[3]):
                self.windows[key] = rest[3:]


def append(path: Path, text: str) -> None:
    """Add to a file so that it survives a power cut. Raises BadInput when the disk is full."""
    try:
        with path.open("a") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise BadInput(
            f"cannot write {path}: {error.strerror}; what was measured so far is kept, go on with --resume"
        ) from None


def _time_blocks(
    plan: Plan, watch: _Watch, log: _Log, precision: str, progress: bool, say: Callable[[str], None]
) -> None:
    """Time what ``log`` lacks of the blocks, keeping every group."""
    todo = [b for b in plan.order() if b.key not in log.rows and b.key not in log.failed]
    total = len(plan.space.blocks)
    with tqdm(
        total=total, initial=total - len(todo), desc=f"{precision} blocks", disable=not progress, unit="block"
    ) as bar:
        # a small first group, so that the estimate comes early
        cuts = [0, *range(min(8, len(todo)), len(todo), GROUP), len(todo)]
        for start, stop in pairwise(cuts):
            if start == stop:
                continue
            begun = time.monotonic()
            group = todo[start:stop]
            timed = watch([(block,) for block in group], energy=True)
            log.add(group, timed)
            if not log.rows:
                raise BadInput(
                    f"the runtime ran none of the first {len(log.failed)} blocks: {next(iter(log.failed.values()))}"
                )
            bar.update(len(group))
            if start == 0:
                each = (time.monotonic() - begun) / (len(group) + 1)
                networks = len(plan.archs) * 5  # a network is about five blocks' work
                say(f"{len(todo)} blocks and {len(plan.archs)} networks: about {_span(each * (len(todo) + networks))}")


def _time_whole(plan: Plan, watch: _Watch, log: _Log, precision: str, progress: bool) -> NDArray[np.float64]:
    """Median ms of the plan's networks; NaN for one that failed or holds a failed block."""
    networks = plan.space.networks(plan.archs)
    done = log.network_ms()
    with tqdm(
        total=len(networks), initial=len(done), desc=f"{precision} networks", disable=not progress, unit="network"
    ) as bar:
        while len(done) < len(networks):
            group = networks[len(done) : len(done) + NETWORKS]
            runnable = [n for n in group if not any(b.key in log.failed for b in n)]
            timed = iter(watch(runnable) if runnable else [])
            ms = [_median(next(timed)) if n in runnable else float("nan") for n in group]
            log.add_networks(ms)
            done += ms
            bar.update(len(group))
    return np.array(done)


def _time_again(plan: Plan, watch: _Watch, log: _Log) -> dict[str, float]:
    """Repeatability of a sample of the blocks, timed a second time."""
    some = [b for b in plan.order()[:: max(1, len(plan.space.blocks) // RETIMED)] if b.key in log.rows][:RETIMED]
    again = np.array([_median(t) for t in watch([(b,) for b in some])])
    once = np.array([log.rows[b.key][1] for b in some])
    return repeatability(once[np.isfinite(again)], again[np.isfinite(again)])


def _median(timed: Timed | Failure) -> float:
    return float("nan") if isinstance(timed, Failure) else float(np.median(timed.ms))


def _row(block: Block, samples: NDArray[np.float64]) -> list[Any]:
    return [block.key, np.median(samples), np.quantile(samples, 0.1), np.quantile(samples, 0.9), len(samples)]


def _matching(table: LatencyTable, space: SearchSpace, runtime: Runtime) -> LatencyTable:
    table.check_space(space)
    if table.device != runtime.device:
        differing = [k for k, v in asdict(table.device).items() if v != asdict(runtime.device)[k]]
        raise BadInput(
            f"the table there is for another device ({', '.join(differing)} differ): {table.name}, "
            f"this is {runtime.device.key}; choose another folder"
        )
    return table


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"
