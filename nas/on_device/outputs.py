"""What tools print, as milliseconds; and what can go wrong."""

# ruff: noqa: UP035 - Python 3.8
from __future__ import annotations

import json
import math
import re
import statistics
from typing import Sequence

from .clock import summary
from .device import Json

_NUMBER = r"(\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)"


class Problem(Exception):
    """Ends the campaign with one line for the user; what is finished stays."""


class Broken(Exception):
    """The tool is not here, or failed on one model."""


def parse_trtexec_times(text: str) -> Json:
    """From --exportTimes: a list of queries, each with its ``computeMs``."""
    try:
        return summary([float(query["computeMs"]) for query in json.loads(text)])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise Broken("trtexec wrote no times that can be read") from None


def parse_trtexec(text: str) -> Json:
    """From the log. TensorRT 8 and later have one line, ``GPU Compute Time: min = 1.2 ms, ...``; TensorRT 7 has a line
    ``GPU Compute`` and below it ``min: 1.2 ms`` and so on. Without samples the 10th percentile is the minimum, and the
    90th the first percentile that is printed.
    """
    lines = [re.sub(r"^(\[[^\]]*\]\s*)*", "", line).strip() for line in text.splitlines()]
    found: dict[str, float] = {}
    for at, line in enumerate(lines):
        if line.startswith("GPU Compute Time:"):
            found = {k: float(v) for k, v in re.findall(rf"([a-z]+(?:\(\d+%\))?)\s*=?\s*{_NUMBER} ms", line)}
        elif line == "GPU Compute":
            for below in lines[at + 1 : at + 7]:
                if match := re.match(rf"([a-z]+): {_NUMBER} ms", below):
                    found[match.group(1)] = float(match.group(2))
    median = found.get("median", 0.0)
    if not median > 0:
        raise Broken(f"trtexec's output cannot be read: {last_words(text)}")
    high = next((found[k] for k in sorted(found) if k.startswith("percentile")), found.get("max", median))
    queries = re.search(r"Timing trace has (\d+) queries", text)
    return {
        "ms": median,
        "p10_ms": min(median, found.get("min", median)),
        "p90_ms": max(median, high),
        "runs": int(queries.group(1)) if queries else 1,
    }


def parse_benchmark_model(text: str) -> Json:
    """From ``count=50 first=.. curr=.. min=.. max=.. avg=.. std=..`` (newer ones add median, p5 and p95) and the summary
    ``Inference timings in us: ... Inference (avg): 123.4``; microseconds. Without a median the mean stands for it.
    """
    total = re.search(rf"Inference \(avg\): {_NUMBER}", text)
    counts = [line for line in text.splitlines() if re.search(r"\bcount=\d", line)]
    last = {k: float(v) for k, v in re.findall(rf"(\w+)={_NUMBER}", counts[-1] if counts else "")}
    if not total or not last.get("count") or not last.get("avg"):
        raise Broken(f"benchmark_model's output cannot be read: {last_words(text)}")
    mean, spread = last["avg"], 1.2816 * last.get("std", 0.0)
    if abs(mean - float(total.group(1))) > 0.02 * mean:
        raise Broken(f"benchmark_model contradicts itself: avg={mean:g}, Inference (avg): {total.group(1)}")
    median = last.get("median", mean)
    return {
        "ms": median / 1e3,
        "p10_ms": min(median, max(mean - spread, last.get("min", 0.0))) / 1e3,
        "p90_ms": max(median, min(mean + spread, last.get("max", math.inf))) / 1e3,
        "runs": int(last["count"]),
    }


def last_words(text: str) -> str:
    said = [line.strip() for line in text.splitlines() if line.strip()]
    return repr(said[-1][:80]) if said else "nothing was printed"


def tensorrt_version(number: int) -> str:
    """8502 is 8.5.2, 100200 is 10.2.0."""
    base = 1000 if number < 10000 else 10000
    return f"{number // base}.{number % base // 100}.{number % 100}"


def middle(visits: Sequence[Json]) -> Json:
    """Of several visits to one model: medians, all their runs, the last one's power."""
    medians = {k: statistics.median(v[k] for v in visits) for k in ("ms", "p10_ms", "p90_ms")}
    return {**visits[-1], **medians, "runs": sum(v["runs"] for v in visits)}
