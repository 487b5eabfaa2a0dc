"""The results of a measuring kit: checked line by line, and the table they make."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nas.blocks import Block, from_key
from nas.device import Device
from nas.errors import BadInput
from nas.measuring.assemble import assemble
from nas.measuring.conditions import warnings
from nas.measuring.energy import with_energy
from nas.measuring.plan import Plan
from nas.on_device.runner import DISTURBED
from nas.space import Archs, SearchSpace
from nas.tables.table import LatencyTable
from nas.tables.validation import repeatability

RUNTIME = {"onnxruntime": "onnxruntime", "trtexec": "tensorrt", "benchmark_model": "litert"}
"""What a tool's table calls its runtime."""


class Results:
    """The lines of ``results.jsonl``, checked against the manifest."""

    def __init__(self, manifest: dict[str, Any], lines: list[dict[str, Any]]) -> None:
        if not lines:
            raise BadInput("results.jsonl is empty: nothing was timed yet")
        self.header = lines[0]
        if self.header.get("kit") != manifest["kit"]:
            raise BadInput(
                f"results.jsonl belongs to another kit ({self.header.get('kit')}), this one is {manifest['kit']}"
            )
        lacking = [k for k in ("tool", "version", "threads", "name", "chip") if k not in self.header]
        if lacking or self.header["tool"] not in manifest["tools"]:
            raise BadInput(f"the first line of results.jsonl is not one that run.py wrote: {self.header}")
        self.digest = {m["file"]: m["sha256"] for m in manifest["models"]}
        self.timed: dict[str, dict[str, Any]] = {}
        self.again: dict[str, dict[str, Any]] = {}
        self.failed: dict[str, str] = {}
        self.references: list[dict[str, Any]] = []
        self.conditions: list[dict[str, Any]] = []
        self.at: list[float] = []
        for number, line in enumerate(lines[1:], 2):
            self._add(number, line)

    def _add(self, number: int, line: dict[str, Any]) -> None:
        where = f"line {number} of results.jsonl"
        self.at += [line["at"]] if _is_number(line.get("at")) else []
        if isinstance(line.get("conditions"), dict):
            self.conditions.append(line["conditions"])
        elif "reference" in line:
            if not (_is_number(line["reference"]) and line["reference"] > 0):
                raise BadInput(f"{where}: the reference took {line['reference']!r} ms, a latency is a positive number")
            self.references.append(line)
        elif "file" in line or "again" in line:
            file = str(line.get("file", line.get("again")))
            if self.digest.get(file) != line.get("sha256"):
                raise BadInput(f"{where} is about {file!r}, which is not a model of this kit")
            if "failed" in line:
                if "file" in line:
                    self.failed[file] = str(line["failed"])
                return
            kept = self.timed if "file" in line else self.again
            if file in kept:
                raise BadInput(f"{where} gives {file} a second time; results.jsonl was edited")
            _check_timing(where, line)
            kept[file] = line
            if "file" in line:
                self.failed.pop(file, None)
        else:
            raise BadInput(f"{where} is not one that run.py wrote: {str(line)[:80]}")

    def disturbance(self) -> list[str]:
        """What to say of groups that the reference shows to be disturbed, however often they were timed."""
        disturbed = sum(bool(r.get("disturbed")) for r in self.references)
        if not disturbed:
            return []
        return [
            f"{disturbed} of {len(self.references)} groups ran while the reference block was more than "
            f"{DISTURBED - 1:.0%} slower than usual"
        ]


def _check_timing(where: str, line: dict[str, Any]) -> None:
    low, ms, high, runs = (line.get(k) for k in ("p10_ms", "ms", "p90_ms", "runs"))
    if not all(_is_number(v) for v in (low, ms, high)) or not isinstance(runs, int):
        raise BadInput(f"{where} has no ms, p10_ms, p90_ms and runs that are numbers: {str(line)[:120]}")
    if "watts" in line and not all(_is_number(line.get(k)) for k in ("watts", "begin", "end")):
        raise BadInput(f"{where} has no watts, begin and end that are numbers: {str(line)[:120]}")
    slack = 1 + 1e-9
    if not (0 < low <= ms * slack and ms <= high * slack and runs >= 1):  # type: ignore[operator]
        raise BadInput(
            f"{where}: 0 < p10_ms <= ms <= p90_ms and runs >= 1 do not hold for {low}, {ms}, {high} and {runs}; "
            "results.jsonl was edited"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def table_of(manifest: dict[str, Any], results: Results, failed: dict[str, str]) -> tuple[LatencyTable, pd.DataFrame]:
    header, models = results.header, manifest["models"]
    blocks = [m for m in models if m["role"] == "block"]
    networks = [m for m in models if m["role"] != "block"]
    device = Device(
        name=header["name"],
        chip=header["chip"],
        runtime=RUNTIME[header["tool"]],
        version=header["version"],
        precision=manifest["precision"],
        batch=manifest["batch"],
        threads=header["threads"],
    )
    timed = [(m["key"], results.timed[m["file"]]) for m in blocks if m["file"] in results.timed]
    rows = pd.DataFrame(
        [[key, t["ms"], t["p10_ms"], t["p90_ms"], t["runs"]] for key, t in timed],
        columns=["block", "latency_ms", "p10_ms", "p90_ms", "runs"],
    )
    network_ms = np.array([results.timed.get(m["file"], {}).get("ms", np.nan) for m in networks], dtype=float)
    twice = [f for f in results.again if f in results.timed]
    before, after = (results.conditions or [{}])[0], (results.conditions or [{}])[-1]
    notes: dict[str, Any] = {
        "kit": manifest["kit"],
        "conditions": {"before": before, "after": after},
        "seconds": round(max(results.at) - min(results.at)) if results.at else 0,
        "doubts": [
            *warnings(before, after),
            *results.disturbance(),
            *(f"[{key}] failed: {text}" for key, text in failed.items()),
        ],
        "failed": failed,
    }
    # between networks the reference finds other caches
    drift = [r["reference"] for r in results.references if r.get("among") in ("block", "again")]
    if drift:
        notes["reference_drift"] = round(max(drift) / min(drift) - 1, 4)
    if twice:
        notes["repeatability"] = repeatability(
            np.array([results.timed[f]["ms"] for f in twice]), np.array([results.again[f]["ms"] for f in twice])
        )
    recorded = cast(
        SearchSpace, _Recorded(manifest["space"]["name"], manifest["space"]["fingerprint"], blocks, networks)
    )
    index: Any = np.arange(len(networks))[:, None]
    first = manifest["plan"]["calibrate"]
    campaign = Plan(space=recorded, calibrate=index[:first], validate=index[first:], seed=manifest["plan"]["seed"])
    source = f"nas.measure kit, {header['tool']}"
    table, frame = assemble(campaign, device, rows, network_ms, source=source, notes=notes)
    if timed and all({"watts", "begin", "end"} <= t.keys() for _, t in timed):
        windows = [[key, t["begin"], t["end"], t["watts"]] for key, t in timed]
        table = with_energy(table, pd.DataFrame(windows, columns=["block", "begin", "end", "watts"]))
    return table, frame


@dataclass(frozen=True, eq=False)
class _Recorded:
    """What a table needs of a space, from a manifest: an architecture is the number of one of its networks, ``(n, 1)``."""

    name: str
    fingerprint: str
    _blocks: list[dict[str, Any]]
    _networks: list[dict[str, Any]]

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        return tuple(from_key(m["key"]) for m in self._blocks)

    def networks(self, archs: Archs) -> list[tuple[Block, ...]]:
        return [tuple(self.blocks[b] for b in self._networks[i]["blocks"]) for i in self._rows(archs)]

    def describe(self, archs: Archs) -> list[str]:
        return [self._networks[i]["key"] for i in self._rows(archs)]

    def _rows(self, archs: Archs) -> NDArray[np.int_]:
        return archs[:, 0].astype(int)
