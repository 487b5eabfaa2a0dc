"""Energy: a network runs without pause for a window, a meter tells what the device took meanwhile.

A meter counts joules. ``Rapl`` (Intel and AMD CPUs under Linux), ``Nvml`` (NVIDIA GPUs) and ``SysfsPower`` (the INA
sensors of a Jetson, or any file with a power) count while it runs; ``Later`` counts nothing: the windows are kept, and
``with_energy`` reads the log of the user's own meter afterwards. All count what the whole package takes, idle included.
"""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from nas.errors import BadInput, MissingPackage
from nas.runtimes import Runtime
from nas.tables.table import LatencyTable

WINDOW_S = 0.25
"""How long a network runs alone for its energy: hundreds of updates of RAPL, a few of a board's sensor."""


class Meter(Protocol):
    """Can be sent to another process before its first use."""

    def joules(self) -> float:
        """A count that only grows; NaN when the energy comes later from a log."""


@dataclass(frozen=True)
class Window:
    """A network ran from ``begin`` to ``end`` (Unix seconds), ``mean_ms`` each time, at ``watts`` (NaN: not known yet)."""

    begin: float
    end: float
    mean_ms: float
    watts: float


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
        try:
            self.joules()
        except PermissionError:
            raise BadInput(
                f"{self._files[0]} may only be read by root: sudo chmod a+r {self.root}/intel-rapl:*/energy_uj"
            ) from None

    def joules(self) -> float:
        for file in self._files:
            now = int(file.read_text())
            before = self._last.get(file, now)
            # the counter starts again at 0 after its range
            wrapped = int((file.parent / "max_energy_range_uj").read_text()) if now < before else 0
            self._total += now - before + wrapped
            self._last[file] = now
        return self._total / 1e6


@dataclass
class SysfsPower:
    """A file that holds the present power, such as ``/sys/class/hwmon/hwmon1/power1_input`` (µW), sampled and summed.

    ``current``: then ``path`` holds a voltage (mV) and this the current (mA).
    """

    path: Path
    current: Path | None = None
    watts_per_unit: float = 1e-6
    every_s: float = 0.005

    def __post_init__(self) -> None:
        self._joules = 0.0
        self._thread: threading.Thread | None = None
        self._read()

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__post_init__()

    def joules(self) -> float:
        if self._thread is None:
            self._thread = threading.Thread(target=self._sample, daemon=True)
            self._thread.start()
        return self._joules

    def _sample(self) -> None:
        last = time.monotonic()
        while True:
            try:
                watts = self._read()
            except BadInput:  # the sensor stopped answering: what follows is unknown, not 0
                self._joules = float("nan")
                return
            time.sleep(self.every_s)
            now = time.monotonic()
            self._joules += watts * (now - last)
            last = now

    def _read(self) -> float:
        try:
            times = float(Path(self.current).read_text()) if self.current else 1.0
            return float(Path(self.path).read_text()) * times * self.watts_per_unit
        except (OSError, ValueError) as error:
            raise BadInput(f"{self.path} does not hold a power: {error}") from None


def jetson_power(root: Path = Path("/sys")) -> SysfsPower:
    """The INA3221 of a Jetson's main supply rail (its first channel). Raises BadInput where there is none."""
    found = sorted(root.glob("bus/i2c/drivers/ina3221*/*/hwmon/hwmon*/in1_label"))
    for label in found:
        voltage, current = label.with_name("in1_input"), label.with_name("curr1_input")
        if voltage.exists() and current.exists():
            return SysfsPower(voltage, current)
    old = sorted(root.glob("bus/i2c/drivers/ina3221x/*/iio:device*/in_power0_input"))
    if old:
        return SysfsPower(old[0], watts_per_unit=1e-3)
    raise BadInput(
        f"no INA power sensor below {root}/bus/i2c/drivers; name its file with nas.measuring.energy.SysfsPower"
    )


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


def sustain(runtime: Runtime, prepared: Any, meter: Meter) -> Window:
    """Run ``prepared`` without pause for about ``WINDOW_S``."""
    ms: list[float] = []
    begin, before = time.time(), meter.joules()
    stop = time.monotonic() + WINDOW_S
    while time.monotonic() < stop:
        ms.extend(runtime.time(prepared, 8))
    end, after = time.time(), meter.joules()
    return Window(begin, end, float(np.mean(ms)), (after - before) / (end - begin))


def with_energy(table: LatencyTable, windows: pd.DataFrame, log: str | os.PathLike[str] | None = None) -> LatencyTable:
    """The table with a column ``energy_mj``: power in each block's window times its latency inside a network.

    ``windows``: columns block, begin, end, watts, as a campaign writes them (``<name>_windows.csv``). ``log``: a CSV
    with the columns ``time`` (Unix seconds) and ``watts``, from the user's own meter, its clock set to this machine's.
    Raises BadInput when the log is unreadable, or has fewer than 2 samples in some window.
    """
    watts = windows["watts"].to_numpy(float) if log is None else _from_log(windows, Path(log))
    if not (watts > 0).all():
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
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{path} is not a log with the columns time (Unix seconds) and watts: {error}") from None
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
