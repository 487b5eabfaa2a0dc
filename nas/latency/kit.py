"""Measuring kits: models and a runner script for a device that this framework cannot run on, and the table they make.

``export_kit`` writes a folder; ``python3 run.py`` in it on the device (``nas.latency.kit_runner``) writes
``results.jsonl``; ``import_kit`` makes the table. ``nas.latency.remote`` does all three over SSH.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from nas.blocks import Block, from_key
from nas.deploy.to_onnx import write_model
from nas.errors import BadInput
from nas.latency.conditions import warnings
from nas.latency.energy import with_energy
from nas.latency.kit_runner import campaign as runner
from nas.latency.kit_runner import device as runner_device
from nas.latency.kit_runner.outputs import Problem
from nas.latency.plan import Plan, assemble, plan, repeatability
from nas.latency.table import LatencyTable, write_text
from nas.modules import Network, build
from nas.runtimes import Device
from nas.runtimes.timing_model import onnx_bytes, randomised
from nas.space import Archs, SearchSpace

PRECISIONS = {
    "onnxruntime": ("fp32", "int8"),
    "trtexec": ("fp32", "fp16", "int8"),
    "benchmark_model": ("fp32", "int8"),
}
RUNTIME = {"onnxruntime": "onnxruntime", "trtexec": "tensorrt", "benchmark_model": "litert"}
"""What a tool's table calls its runtime."""
RUN = '''#!/usr/bin/env python3
"""Times the models of a measuring kit on this device: python3 run.py. The same command again goes on.

Python 3.8 or later and its standard library; nothing to install but the runtime itself: onnxruntime (in this Python),
NVIDIA's trtexec, or LiteRT's benchmark_model (here, or over adb on an Android phone).
Every finished model is one line of results.jsonl; copy that file back and import it (nas measure --import-kit).
"""

import os
import sys

from kit_runner.campaign import main

if __name__ == "__main__":
    sys.exit(main(os.path.dirname(os.path.abspath(__file__))))
'''


def export_kit(
    space: SearchSpace,
    folder: str | os.PathLike[str],
    *,
    runtime: str = "onnxruntime",
    precision: str = "fp32",
    batch: int = 1,
    threads: int = 1,
    calibrate: int = 30,
    validate: int = 20,
    seed: int = 0,
    machine: str | None = None,
    progress: bool = False,
) -> Path:
    """Write the blocks of ``space``, the networks of a campaign, a manifest and ``run.py`` into ``folder``, and return it.

    ``runtime``: the tool that will time them: "onnxruntime", "trtexec" or "benchmark_model". An fp32 ONNX kit serves
    the first two. int8 is what each wants: uint8 activations for ONNX Runtime, symmetric int8 for TensorRT.
    ``machine``: the only architecture that may run it ("aarch64", "x86_64"), None for any.
    An interrupted export goes on after the last finished file. About 0.02 s a block, int8 0.07 s.
    Raises BadInput for settings that the tool does not have, or when ``folder`` holds another kit.
    """
    if runtime not in PRECISIONS:
        raise BadInput(f"a kit is made for {', '.join(PRECISIONS)}, not for {runtime!r}")
    if precision not in PRECISIONS[runtime]:
        raise BadInput(f"precision of {runtime} is {' or '.join(PRECISIONS[runtime])}, got {precision!r}")
    if threads < 1 or batch < 1:
        raise BadInput(f"threads and batch are at least 1, got {threads} and {batch}")
    folder = Path(folder)
    campaign = plan(space, calibrate=calibrate, validate=validate, seed=seed)
    settings = {
        "space": {"name": space.name, "fingerprint": space.fingerprint},
        "plan": {"calibrate": calibrate, "validate": validate, "seed": seed},
        "tools": ["onnxruntime", "trtexec"][:: 1 if runtime == "onnxruntime" else -1]
        if precision == "fp32" and runtime != "benchmark_model"
        else [runtime],
        "format": "tflite" if runtime == "benchmark_model" else "onnx",
        "precision": precision,
        "batch": batch,
        "threads": threads,
        "machine": runner_device.machine(machine) if machine else None,
        "versions": {p: importlib.metadata.version(p) for p in ("nas", "torch", "onnx", "onnxruntime")},
    }
    finished, begun = folder / "manifest.json", folder / "manifest.begun.json"
    for path in (finished, begun):
        _check_same(path, settings)
    if not finished.exists():
        write_text(begun, json.dumps(settings))
        convert = _litert if settings["format"] == "tflite" else _onnx
        manifest = {**settings, **_models(campaign, folder, convert, settings, runtime, progress)}
        write_text(finished, json.dumps({"kit": runner.kit_id(manifest), **manifest}, indent=1) + "\n")
        begun.unlink()
    (folder / "run.py").write_text(RUN)
    program = Path(runner.__file__).parent
    shutil.copytree(program, folder / "kit_runner", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def _check_same(path: Path, settings: dict[str, Any]) -> None:
    if not path.exists():
        return
    try:
        there = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} is not the manifest of a kit: {error}") from None
    differing = [name for name, value in settings.items() if there.get(name) != value]
    if differing:
        raise BadInput(
            f"{path.parent} already holds a kit with another {differing[0]} "
            f"({there.get(differing[0])}, now {settings[differing[0]]}); choose another folder"
        )


def _models(
    campaign: Plan, folder: Path, convert: Any, settings: dict[str, Any], runtime: str, progress: bool
) -> dict[str, Any]:
    """Write what is not there yet; the manifest's entries, in the order in which they shall be timed."""
    blocks = campaign.order()
    networks = campaign.space.networks(campaign.archs)
    names = campaign.space.describe(campaign.archs)
    position = {block: i for i, block in enumerate(blocks)}
    todo: list[tuple[dict[str, Any], Sequence[Block]]] = [
        ({"file": f"blocks/{i:05d}", "role": "block", "key": b.key}, (b,)) for i, b in enumerate(blocks)
    ]
    for i, whole in enumerate(networks):
        entry: dict[str, Any] = {
            "file": f"networks/{i:05d}",
            "role": "calibrate" if i < len(campaign.calibrate) else "validate",
            "key": names[i],
            "blocks": [position[b] for b in whole],
        }
        todo.append((entry, whole))
    entries = []
    for record, network in tqdm(todo, desc="export", disable=not progress, unit="model"):
        file = f"{record['file']}.{settings['format']}"
        path = folder / file
        if not path.exists() or not path.stat().st_size:
            with torch.random.fork_rng(devices=[]):  # the same kit each time it is made
                torch.manual_seed(0)
                module = build(network[0]) if len(network) == 1 else Network(network)
            write_model(path, convert(module, network[0].in_shape, settings["precision"], settings["batch"], runtime))
        content = path.read_bytes()
        shape = [settings["batch"], *network[0].in_shape]
        entries.append(
            {
                **record,
                "file": file,
                "input": shape,
                "bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
        )
    return {"reference": f"blocks/{position[campaign.reference]:05d}.{settings['format']}", "models": entries}


def _onnx(network: nn.Module, shape: tuple[int, int, int], precision: str, batch: int, runtime: str) -> bytes:
    # fp16 is the tool's own conversion
    form = "int8" if precision == "int8" else "fp32"
    return onnx_bytes(network, shape, precision=form, batch=batch, symmetric_activations=runtime == "trtexec")


def _litert(network: nn.Module, shape: tuple[int, int, int], precision: str, batch: int, runtime: str) -> bytes:
    from nas.deploy import to_litert  # needs packages of the extra 'litert'
    from nas.deploy.litert_file import quantized

    model = to_litert.litert_model(randomised(network), shape, batch=batch)
    if precision == "int8":
        noise = np.random.default_rng(0).standard_normal((2 * batch, *shape), dtype=np.float32)
        model = quantized(model, to_litert.channels_last(noise))
    return model


def import_kit(
    folder: str | os.PathLike[str],
    *,
    space: SearchSpace | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    name: str | None = None,
    allow_failed: bool = False,
) -> LatencyTable:
    """The table of a kit that was run: from ``manifest.json`` and ``results.jsonl`` in ``folder``.

    Writes ``<name>.csv/.json`` and ``<name>_networks.csv`` into ``run_dir`` (default: ``folder``), as ``measure`` does.
    ``space``: checked against the kit's. ``allow_failed``: leave failed blocks out of the table (``notes["failed"]``).
    Raises BadInput when the kit is unfinished, blocks failed, or the results are another kit's or were damaged.
    """
    folder = Path(folder)
    try:
        manifest = runner.load_manifest(str(folder))
        lines = runner.parse_lines(_whole_lines(folder / "results.jsonl"))
    except Problem as error:
        raise BadInput(str(error)) from None
    if space is not None and space.fingerprint != manifest["space"]["fingerprint"]:
        raise BadInput(f"{folder} is a kit of {manifest['space']['name']}, not of {space.name} as it is now")
    results = _Results(manifest, lines)
    missing = [m for m in manifest["models"] if m["file"] not in results.timed and m["file"] not in results.failed]
    if missing:
        done = len(manifest["models"]) - len(missing)
        raise BadInput(
            f"{folder} is unfinished: {done} of {len(manifest['models'])} models are timed; "
            "run 'python3 run.py' there again, it goes on"
        )
    failed = {m["key"]: results.failed[m["file"]] for m in manifest["models"] if m["file"] in results.failed}
    if failed and not allow_failed:
        some = "; ".join(f"[{key}] {text}" for key, text in list(failed.items())[:3])
        raise BadInput(
            f"{len(failed)} of {len(manifest['models'])} models failed on the device: {some}{'; ...' if len(failed) > 3 else ''}; "
            "run 'python3 run.py --retry-failed' there, or leave them out (allow_failed)"
        )
    return _save(_table(manifest, results, failed), Path(run_dir or folder), name)


def _whole_lines(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        raise BadInput(f"{path} does not exist: run 'python3 run.py' on the device and copy its results back") from None
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
    return text[: text.rfind("\n") + 1]


class _Results:
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
        self.references: list[float] = []
        self.conditions: list[dict[str, Any]] = []
        self.at: list[float] = []
        for number, line in enumerate(lines[1:], 2):
            self._add(number, line)

    def _add(self, number: int, line: dict[str, Any]) -> None:
        where = f"line {number} of results.jsonl"
        self.at += [line["at"]] if _is_number(line.get("at")) else []
        if "conditions" in line:
            self.conditions.append(line["conditions"])
        elif "reference" in line:
            if not (_is_number(line["reference"]) and line["reference"] > 0):
                raise BadInput(f"{where}: the reference took {line['reference']!r} ms, a latency is a positive number")
            self.references.append(line["reference"])
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


def _check_timing(where: str, line: dict[str, Any]) -> None:
    low, ms, high, runs = (line.get(k) for k in ("p10_ms", "ms", "p90_ms", "runs"))
    if not all(_is_number(v) for v in (low, ms, high)) or not isinstance(runs, int):
        raise BadInput(f"{where} has no ms, p10_ms, p90_ms and runs that are numbers: {str(line)[:120]}")
    slack = 1 + 1e-9
    if not (0 < low <= ms * slack and ms <= high * slack and runs >= 1):  # type: ignore[operator]
        raise BadInput(
            f"{where}: 0 < p10_ms <= ms <= p90_ms and runs >= 1 do not hold for {low}, {ms}, {high} and {runs}; "
            "results.jsonl was edited"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _table(manifest: dict[str, Any], results: _Results, failed: dict[str, str]) -> tuple[LatencyTable, pd.DataFrame]:
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
        "doubts": warnings(before, after) + [f"[{key}] failed: {text}" for key, text in failed.items()],
        "failed": failed,
    }
    if results.references:
        notes["reference_drift"] = round(max(results.references) / min(results.references) - 1, 4)
    if twice:
        notes["repeatability"] = repeatability(
            np.array([results.timed[f]["ms"] for f in twice]), np.array([results.again[f]["ms"] for f in twice])
        )
    recorded = cast(
        SearchSpace, _Recorded(manifest["space"]["name"], manifest["space"]["fingerprint"], blocks, networks)
    )
    index = np.arange(len(networks), dtype=np.uint8)[:, None]
    first = manifest["plan"]["calibrate"]
    campaign = Plan(space=recorded, calibrate=index[:first], validate=index[first:], seed=manifest["plan"]["seed"])
    source = f"nas.measure kit, {header['tool']}"
    table, frame = assemble(campaign, device, rows, network_ms, source=source, notes=notes)
    if timed and all({"watts", "begin", "end"} <= t.keys() for _, t in timed):
        windows = [[key, t["begin"], t["end"], t["watts"]] for key, t in timed]
        table = with_energy(table, pd.DataFrame(windows, columns=["block", "begin", "end", "watts"]))
    return table, frame


def _save(made: tuple[LatencyTable, pd.DataFrame], folder: Path, name: str | None) -> LatencyTable:
    table, networks = made
    stem = folder / (name or f"table_{table.device.precision}")
    write_text(stem.with_name(stem.name + "_networks.csv"), networks.to_csv(index=False, float_format="%.6g"))
    table.save(stem)
    return LatencyTable.load(stem)


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
