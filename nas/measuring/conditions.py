"""The state of this machine while something is timed: clock, temperature, load. What a table's notes record."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

SYS = Path("/sys")


def conditions(sys: Path = SYS) -> dict[str, Any]:
    """What the operating system tells now; a thing it does not tell is left out.

    Keys: ``time`` (UTC), ``load`` (1 minute), ``cpus`` (this process may use), ``mhz`` (mean over the cores),
    ``max_mhz``, ``governor``, ``turbo``, ``hottest_c`` (°C), ``throttled`` (times a core was slowed for heat).
    """
    cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    found: dict[str, Any] = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "cpus": len(cpus)}
    if hasattr(os, "getloadavg"):
        found["load"] = round(os.getloadavg()[0], 2)
    cores = [sys / f"devices/system/cpu/cpu{i}" for i in cpus]
    speeds = [v for c in cores if (v := _number(c / "cpufreq/scaling_cur_freq")) is not None]
    if speeds:
        found["mhz"] = round(sum(speeds) / len(speeds) / 1000)
    elif mhz := _proc_mhz():
        found["mhz"] = mhz
    limits = [v for c in cores if (v := _number(c / "cpufreq/scaling_max_freq")) is not None]
    if limits:
        found["max_mhz"] = round(max(limits) / 1000)
    governors = {g for c in cores if (g := _text(c / "cpufreq/scaling_governor"))}
    if governors:
        found["governor"] = ", ".join(sorted(governors))
    if (off := _number(sys / "devices/system/cpu/intel_pstate/no_turbo")) is not None:
        found["turbo"] = not off
    elif (boost := _number(sys / "devices/system/cpu/cpufreq/boost")) is not None:
        found["turbo"] = bool(boost)
    heat = [v for p in sorted(sys.glob("class/thermal/thermal_zone*/temp")) if (v := _number(p)) is not None]
    if heat:
        found["hottest_c"] = round(max(heat) / 1000, 1)
    slowed = [v for c in cores if (v := _number(c / "thermal_throttle/core_throttle_count")) is not None]
    if slowed:
        found["throttled"] = int(sum(slowed))
    return found


def warnings(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What of the conditions at the start and the end of a campaign makes its numbers doubtful, a line each."""
    said = []
    # the campaign itself is one load
    if before.get("load", 0) > before.get("cpus", 1) * 0.5:
        said.append(f"the machine was busy when the campaign began (load {before['load']} on {before['cpus']} cores)")
    if after.get("throttled", 0) > before.get("throttled", 0):
        said.append(f"the CPU was slowed for heat {after['throttled'] - before['throttled']} times")
    if before.get("governor") in ("powersave", "ondemand", "conservative"):
        said.append(f"the clock follows the load (governor {before['governor']}); 'performance' repeats better")
    if "mhz" in before and "mhz" in after and abs(after["mhz"] / max(1, before["mhz"]) - 1) > 0.15:
        said.append(f"the clock moved from {before['mhz']} to {after['mhz']} MHz")
    return said


def _proc_mhz() -> int | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        speeds = [float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")]
    except (OSError, ValueError, IndexError):
        return None
    return round(sum(speeds) / len(speeds)) if speeds else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None
