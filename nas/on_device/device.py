"""The device: its name, clock, temperature and power."""

# ruff: noqa: UP006, UP035, B905 - Python 3.8
from __future__ import annotations

import contextlib
import glob
import hashlib
import math
import os
import platform
import re
import statistics
import threading
import time
from typing import Any, Callable, Dict

WINDOW_S = 0.3  # over which the power rails are averaged

Json = Dict[str, Any]


def conditions(read: Callable[[str], list[str]]) -> Json:
    """The state of the device now; names as in nas.measuring.conditions. Jetson: power mode and GPU clock too.

    ``read``: the texts of the files that match a pattern.
    """

    def numbers(pattern: str) -> list[float]:
        return [float(word) for text in read(pattern) for word in text.split()[:1] if re.fullmatch(r"\d+\.?\d*", word)]

    cpu = "/sys/devices/system/cpu/cpu[0-9]*"
    clocks, limits = numbers(f"{cpu}/cpufreq/scaling_cur_freq"), numbers(f"{cpu}/cpufreq/scaling_max_freq")
    heat = [v for v in numbers("/sys/class/thermal/thermal_zone*/temp") if v < 200_000]
    found = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpus": len(affinity()) if read is texts_of else len(clocks),
        "load": next(iter(numbers("/proc/loadavg")), None),
        "mhz": round(statistics.mean(clocks) / 1000) if clocks else None,
        "max_mhz": round(max(limits) / 1000) if limits else None,
        "governor": ", ".join(sorted(set(read(f"{cpu}/cpufreq/scaling_governor")))),
        "hottest_c": round(max(heat) / 1000, 1) if heat else None,
        "throttled": int(sum(numbers(f"{cpu}/thermal_throttle/core_throttle_count"))),
        "nvpmodel": " ".join(read("/var/lib/nvpmodel/status")),
        "gpu_mhz": next((round(v / 1e6) for v in numbers("/sys/class/devfreq/*.g[pva]*/cur_freq")), None),
    }
    return {k: v for k, v in found.items() if v not in (None, "")}


def affinity() -> list[int]:
    """The cores this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def power_rails(root: str = "/sys") -> list[list[Any]]:
    """[label, file, file or None, factor]: power is the product of the files times the factor, in W.

    The INA3221 of a Jetson: its supply rail where it has that name, else all rails of its first chip, to be summed.
    """
    rails: list[list[Any]] = []
    for hwmon in sorted(glob.glob(f"{root}/bus/i2c/drivers/ina3221*/*/hwmon/hwmon*")):
        channels = [(text_of(f"{hwmon}/in{c}_label"), f"{hwmon}/in{c}_input", f"{hwmon}/curr{c}_input") for c in "123"]
        here: list[list[Any]] = [[name, v, a, 1e-6] for name, v, a in channels if name and text_of(v) and text_of(a)]
        if supply := [rail for rail in here if rail[0] in ("VDD_IN", "POM_5V_IN")]:  # mV and mA
            return supply
        rails = rails or here
    old = sorted(glob.glob(f"{root}/bus/i2c/drivers/ina3221x/*/iio:device*/in_power0_input"))  # mW
    return rails or [["in_power0", path, None, 1e-3] for path in old[:1]]


class Power:
    """Samples the rails while it is open; nothing when there are none."""

    def __init__(self, rails: list[list[Any]]) -> None:
        self.rails = rails
        self.samples: list[tuple[float, float]] = []
        self.stop = threading.Event()

    def __enter__(self) -> Power:
        self.thread = threading.Thread(target=self._sample, daemon=True)
        if self.rails:
            self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.end = time.time()
        if self.rails:
            self.thread.join()

    def window(self, before_end: float = 0.0) -> Json:
        """{watts, begin, end} over WINDOW_S, ``before_end`` seconds before it was closed; {} without samples."""
        end = self.end - before_end
        watts = [w for at, w in self.samples if end - WINDOW_S <= at <= end]
        return {"watts": statistics.mean(watts), "begin": end - WINDOW_S, "end": end} if watts else {}

    def _sample(self) -> None:
        while not self.stop.wait(0.01):
            with contextlib.suppress(ValueError):  # a sensor that does not answer gives no sample
                values = [[float(text_of(path) or "") for path in rail[1:3] if path] for rail in self.rails]
                watts = sum(math.prod(v) * rail[3] for v, rail in zip(values, self.rails))
                self.samples.append((time.time(), watts))


def cpu_name() -> str:
    for line in (text_of("/proc/cpuinfo") or "").splitlines():
        if line.startswith(("model name", "Model")):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine() or "cpu"


def machine(name: str) -> str:
    """One name per architecture."""
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name.lower(), name.lower())


def digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def texts_of(pattern: str) -> list[str]:
    return [text for path in sorted(glob.glob(pattern)) for text in [text_of(path)] if text]


def text_of(path: str) -> str | None:
    try:
        with open(path, errors="replace") as file:
            return file.read().strip()
    except OSError:
        return None
