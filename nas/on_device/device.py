"""The device: its name, its clock, temperature and load while something is timed."""

# ruff: noqa: UP006, UP035 - Python 3.8
from __future__ import annotations

import glob
import hashlib
import os
import platform
import re
import statistics
import time
from typing import Any, Callable, Dict

Json = Dict[str, Any]


def conditions(read: Callable[[str], list[str]]) -> Json:
    """The state of the device now; what it does not tell is left out.

    ``time`` (UTC), ``load`` (1 minute), ``cpus`` (this process may use), ``mhz`` (mean over the cores), ``max_mhz``,
    ``governor``, ``turbo``, ``hottest_c`` (°C), ``throttled`` (times a core was slowed for heat); of a Jetson its power
    mode ``nvpmodel`` and ``gpu_mhz``. ``read``: the texts of the files that match a pattern.
    """

    def numbers(pattern: str) -> list[float]:
        return [float(word) for text in read(pattern) for word in text.split()[:1] if re.fullmatch(r"\d+\.?\d*", word)]

    def first(pattern: str) -> float | None:
        return next(iter(numbers(pattern)), None)

    cpu = "/sys/devices/system/cpu/cpu[0-9]*"
    clocks, limits = numbers(f"{cpu}/cpufreq/scaling_cur_freq"), numbers(f"{cpu}/cpufreq/scaling_max_freq")
    told = re.findall(r"^cpu MHz\s*: (\d+\.?\d*)", "\n".join(read("/proc/cpuinfo")), re.MULTILINE)  # where that is all
    clocks = clocks or [1000 * float(mhz) for mhz in told]
    heat = [v for v in numbers("/sys/class/thermal/thermal_zone*/temp") if v < 200_000]
    slowed = numbers(f"{cpu}/thermal_throttle/core_throttle_count")
    off = first("/sys/devices/system/cpu/intel_pstate/no_turbo")
    boost = first("/sys/devices/system/cpu/cpufreq/boost")
    found = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpus": len(affinity()) if read is texts_of else len(clocks),
        "load": first("/proc/loadavg"),
        "mhz": round(statistics.mean(clocks) / 1000) if clocks else None,
        "max_mhz": round(max(limits) / 1000) if limits else None,
        "governor": ", ".join(sorted(set(read(f"{cpu}/cpufreq/scaling_governor")))),
        "turbo": not off if off is not None else None if boost is None else bool(boost),
        "hottest_c": round(max(heat) / 1000, 1) if heat else None,
        "throttled": int(sum(slowed)) if slowed else None,
        "nvpmodel": " ".join(read("/var/lib/nvpmodel/status")),
        "gpu_mhz": next((round(v / 1e6) for v in numbers("/sys/class/devfreq/*.g[pva]*/cur_freq")), None),
    }
    return {k: v for k, v in found.items() if v is not None and v != ""}


def warnings(before: Json, after: Json) -> list[str]:
    """What of the conditions at the start and the end of a campaign makes its numbers doubtful, a line each."""
    said = []
    # the campaign itself is one load
    if before.get("load", 0) > before.get("cpus", 1) * 0.5:
        said.append(f"the machine was busy when the campaign began (load {before['load']} on {before['cpus']} cores)")
    slowed = after.get("throttled", 0) - before.get("throttled", 0)
    if slowed > 0:
        said.append(f"the CPU was slowed for heat {slowed} times")
    if before.get("governor") in ("powersave", "ondemand", "conservative"):
        said.append(f"the clock follows the load (governor {before['governor']}); 'performance' repeats better")
    if "mhz" in before and "mhz" in after and abs(after["mhz"] / max(1, before["mhz"]) - 1) > 0.15:
        said.append(f"the clock moved from {before['mhz']} to {after['mhz']} MHz")
    return said


def affinity() -> list[int]:
    """The cores this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def cpu_name() -> str:
    """The CPU's model name, as the operating system gives it."""
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
