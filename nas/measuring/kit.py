"""Measuring kits: models and a runner script for a device that this framework cannot run on, and the table they make.

``export_kit`` writes a folder; ``python3 run.py`` in it on the device (``nas.on_device``) writes
``results.jsonl``; ``import_kit`` makes the table. ``nas.measuring.ssh`` does all three over SSH.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from nas.blocks import Block
from nas.errors import BadInput
from nas.files import write_bytes, write_text
from nas.measuring.kit_results import Results, table_of
from nas.measuring.plan import Plan, plan
from nas.modules import Network, build
from nas.on_device import device as runner_device, runner
from nas.on_device.outputs import Problem
from nas.runtimes.timing_model import onnx_bytes, randomised
from nas.space import SearchSpace
from nas.tables.table import LatencyTable

PRECISIONS = {
    "onnxruntime": ("fp32", "int8"),
    "trtexec": ("fp32", "fp16", "int8"),
    "benchmark_model": ("fp32", "int8"),
}
RUN = '''#!/usr/bin/env python3
"""Times the models of a measuring kit on this device: python3 run.py. The same command again goes on.

Python 3.8 or later and its standard library; nothing to install but the runtime itself: onnxruntime (in this Python),
NVIDIA's trtexec, or LiteRT's benchmark_model (here, or over adb on an Android phone).
Every finished model is one line of results.jsonl; copy that file back and import it (nas measure --import-kit).
"""

import os
import sys

from kit_runner.runner import main

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
    calibrate: int = 60,
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
            write_bytes(path, convert(module, network[0].in_shape, settings["precision"], settings["batch"], runtime))
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


def model_bytes(
    network: nn.Module, shape: tuple[int, int, int], *, tool: str, precision: str = "fp32", batch: int = 1
) -> bytes:
    """The file that ``tool`` times: ONNX, or .tflite for benchmark_model. fp16 is made from fp32 by the tool."""
    convert = _litert if tool == "benchmark_model" else _onnx
    return convert(network, shape, precision, batch, tool)


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
    results = Results(manifest, lines)
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
            "run 'python3 run.py --retry-failed' there, or leave them out (allow_failed, --leave-out-failed)"
        )
    return _save(table_of(manifest, results, failed), Path(run_dir or folder), name)


def _whole_lines(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        raise BadInput(f"{path} does not exist: run 'python3 run.py' on the device and copy its results back") from None
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
    return text[: text.rfind("\n") + 1]


def _save(made: tuple[LatencyTable, pd.DataFrame], folder: Path, name: str | None) -> LatencyTable:
    table, networks = made
    stem = folder / (name or f"table_{table.device.precision}")
    if stem.with_name(stem.name + ".json").exists() and LatencyTable.load(stem).fingerprint != table.fingerprint:
        raise BadInput(f"{stem} is there already and another table; choose another name or folder")
    write_text(stem.with_name(stem.name + "_networks.csv"), networks.to_csv(index=False, float_format="%.6g"))
    table.save(stem)
    return LatencyTable.load(stem)
