"""Energy: a network runs without pause for a window, a meter tells what the device took meanwhile.

A meter counts joules. ``Rapl`` (Intel and AMD CPUs under Linux), ``Nvml`` (NVIDIA GPUs) and ``SysfsPower`` (the INA
sensors of a Jetson, or any file with a power) count while it runs; ``Later`` counts nothing: the windows are kept, and
``with_energy`` reads the log of the user's own meter afterwards. All count what the whole package takes, idle included.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from nas.errors import BadInput, MissingPackage
from nas.files import first_line
from nas.on_device.power import Power, Rail, power_rails
from nas.tables.table import LatencyTable


class Meter(Protocol):
    """Can be sent to another process before its first use."""

    def joules(self) -> float:
        """A count that only grows; NaN when the energy comes later from a log."""


@dataclass
class Rapl:
    """Intel's and AMD's energy counters: the sum over the CPU packages.

    Raises BadInput where the machine has none (virtual machines) or only root may read them.
    """

    root: Path = Path("/sys/class/powercap")

    def __post_init__(self) -> None:
        self._files = sorted(self.root.glob("intel-rapl:[0-9]*/energy_uj"))
        self._files = [f for f in self._files if f.parent.name.count(":") == 1]
        self._last: dict[Path, int] = {}
        self._total = 0
        if not self._files:
            raise BadInput(f"this machine shows no energy counter of its CPU ({self.root}/intel-rapl:*)")
        self.joules()

    def joules(self) -> float:
        for file in self._files:
            now = _count(file)
            before = self._last.get(file, now)
            # the counter starts again at 0 after its range
            wrapped = _count(file.parent / "max_energy_range_uj") if now < before else 0
            self._total += now - before + wrapped
            self._last[file] = now
        return self._total / 1e6


def _count(file: Path) -> int:
    try:
        return int(file.read_text())
    except PermissionError:
        raise BadInput(f"{file} may only be read by root: sudo chmod a+r {file.parent.parent}/*/{file.name}") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{file} is no energy counter: {first_line(error)}") from None


@dataclass
class SysfsPower:
    """A file that holds the present power, such as ``/sys/class/hwmon/hwmon1/power1_input`` (µW), sampled and summed.

    ``current``: then ``path`` holds a voltage (mV) and this the current (mA). ``more``: others, which are added.
    Raises BadInput when they do not hold a power now.
    """

    path: Path
    current: Path | None = None
    watts_per_unit: float = 1e-6
    more: tuple[Rail, ...] = ()

    def __post_init__(self) -> None:
        self._power: Power | None = None
        try:
            self._opened().watts()
        except ValueError:
            raise BadInput(f"{self.path} does not hold a power") from None

    def joules(self) -> float:
        if self._power is None:
            self._power = self._opened().__enter__()  # for as long as this process lasts
        return self._power.joules()

    def _opened(self) -> Power:
        return Power([["", self.path, self.current, self.watts_per_unit], *self.more])


def jetson_power(root: Path = Path("/sys")) -> SysfsPower:
    """The INA3221 of a Jetson, its main supply where that has a name. Raises BadInput where there is none."""
    rails = power_rails(str(root))
    if not rails:
        raise BadInput(
            f"no INA power sensor below {root}/bus/i2c/drivers; name its file with nas.measuring.energy.SysfsPower"
        )
    (_, path, current, factor), *more = rails
    return SysfsPower(Path(path), Path(current) if current else None, factor, tuple(more))


@dataclass
class Nvml:
    """The energy counter of an NVIDIA GPU (Volta and later). Raises MissingPackage or BadInput where there is none."""

    index: int = 0

    def joules(self) -> float:
        try:
            import pynvml
        except ImportError:
            raise MissingPackage("nvidia-ml-py", "cuda") from None
        try:
            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByIndex(self.index)
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
        except pynvml.NVMLError as error:
            raise BadInput(f"GPU {self.index} gives no energy: {error}") from None


class Later:
    """Counts nothing: the energy comes from a log (``with_energy``)."""

    def joules(self) -> float:
        return float("nan")


def with_energy(table: LatencyTable, windows: pd.DataFrame, log: str | os.PathLike[str] | None = None) -> LatencyTable:
    """The table with a column ``energy_mj``: power in each block's window times its latency inside a network.

    ``windows``: columns block, begin, end, watts, as a campaign writes them (``<name>_windows.csv``). ``log``: a CSV
    with the columns ``time`` (Unix seconds) and ``watts``, from the user's own meter, its clock set to this machine's.
    Raises BadInput when the log is unreadable, or has fewer than 2 samples in some window.
    """
    watts = windows["watts"].to_numpy(float) if log is None else _from_log(windows, Path(log))
    if not ((watts > 0) & np.isfinite(watts)).all():
        raise BadInput("no power is known for some blocks; give the log of your meter")
    by_block = dict(zip(windows["block"], watts, strict=True))
    lacking = [key for key in table.rows["block"] if key not in by_block]
    if lacking:
        raise BadInput(f"{len(lacking)} blocks of table {table.name} have no window, such as [{lacking[0]}]")
    power = np.array([by_block[key] for key in table.rows["block"]])
    return dataclasses.replace(table, rows=table.rows.assign(energy_mj=power * table.effective_ms))


def _from_log(windows: pd.DataFrame, path: Path) -> Any:
    try:
        log = pd.read_csv(path)
        at, watts = log["time"].to_numpy(float), log["watts"].to_numpy(float)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{path} is not a log with the columns time (Unix seconds) and watts: {first_line(error)}"
        ) from None
    if not (np.isfinite(at).all() and np.isfinite(watts).all()):
        raise BadInput(f"{path} holds times or watts that are not finite numbers")
    order = np.argsort(at)
    at, watts = at[order], watts[order]
    first = np.searchsorted(at, windows["begin"].to_numpy(float))
    last = np.searchsorted(at, windows["end"].to_numpy(float))
    few = np.flatnonzero(last - first < 2)
    if len(few):
        raise BadInput(
            f"{path} has fewer than 2 samples while [{windows['block'].iloc[few[0]]}] ran (and {len(few) - 1} others); "
            "log faster, or check that both clocks agree"
        )
    total = np.concatenate([[0.0], np.cumsum(watts)])
    return (total[last] - total[first]) / (last - first)
