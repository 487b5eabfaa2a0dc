"""Measuring kits: models and a runner script for a device that this framework cannot run on, and the table they make.

``export_kit`` writes a folder; ``python3 run.py`` in it on the device (``nas.on_device``) writes
``results.jsonl``; ``import_kit`` makes the table. ``nas.measuring.ssh`` does all three over SSH.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from nas.blocks import Block, from_key
from nas.checks import Batch, Count, Seed, Threads, checked
from nas.device import Device
from nas.errors import BadInput
from nas.files import folder_of, locked, read_json, write_bytes, write_text
from nas.measuring.campaign import bar
from nas.measuring.plan import CALIBRATE, VALIDATE, Plan, plan
from nas.measuring.results import Finished, beside, finished, problems_are_bad_input, stem_of
from nas.modules import Network, build
from nas.on_device import device as on_device, runner
from nas.on_device.results import HEADER, Results, kit_id, load_manifest, parse_lines, wrong
from nas.runtimes.litert import timing_tflite
from nas.runtimes.timing_model import onnx_bytes
from nas.space import SearchSpace
from nas.tables.table import LatencyTable

Tool = Literal["onnxruntime", "trtexec", "benchmark_model"]
PRECISIONS = {"onnxruntime": ("fp32", "int8"), "trtexec": ("fp32", "fp16", "int8"), "benchmark_model": ("fp32", "int8")}
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

from kit_runner.runner import main

if __name__ == "__main__":
    sys.exit(main(os.path.dirname(os.path.abspath(__file__))))
'''


@checked
def export_kit(
    space: SearchSpace,
    folder: str | os.PathLike[str],
    *,
    runtime: Tool = "onnxruntime",
    precision: Literal["fp32", "fp16", "int8"] = "fp32",
    batch: Batch = 1,
    threads: Threads = 1,
    calibrate: Count = CALIBRATE,
    validate: Count = VALIDATE,
    seed: Seed = 0,
    machine: str | None = None,
    progress: bool | None = None,
) -> Path:
    """Write the blocks of ``space``, the networks of a campaign, a manifest and ``run.py`` into ``folder``, and return it.

    ``runtime``: the tool that will time them. An fp32 ONNX kit serves onnxruntime and trtexec. int8 is what each wants:
    uint8 activations for ONNX Runtime, symmetric int8 for TensorRT.
    ``machine``: the only architecture that may run it ("aarch64", "x86_64"), None for any.
    ``progress``: a bar on stderr, by default on a terminal and in a notebook.
    An interrupted export goes on after the last finished file. About 0.02 s a block, int8 0.07 s.
    Raises BadInput for settings that the tool does not have, when ``folder`` holds another kit or cannot be written.
    """
    if precision not in PRECISIONS[runtime]:
        raise BadInput(f"precision of {runtime} is {' or '.join(PRECISIONS[runtime])}, got {precision!r}")
    folder = folder_of(folder, "folder of the kit")
    campaign = plan(space, calibrate=calibrate, validate=validate, seed=seed)
    settings = _settings(campaign, runtime, precision=precision, batch=batch, threads=threads, machine=machine)
    complete, begun = folder / "manifest.json", folder / "manifest.begun.json"
    for path in (complete, begun):
        _check_same(path, settings)
    with locked(folder):
        if not complete.exists():
            write_text(begun, json.dumps(settings))
            manifest = {**settings, **_written(campaign, folder, settings, runtime, progress)}
            write_text(complete, json.dumps({"kit": kit_id(manifest), **manifest}, indent=1) + "\n")
            begun.unlink()
        write_text(folder / "run.py", RUN)
        for source in sorted(Path(runner.__file__).parent.glob("*.py")):
            write_bytes(folder / "kit_runner" / source.name, source.read_bytes())
    return folder


def _settings(
    campaign: Plan, runtime: Tool, *, precision: str, batch: int, threads: int, machine: str | None
) -> dict[str, Any]:
    """What a manifest says besides the models."""
    either = precision == "fp32" and runtime != "benchmark_model"
    space, calibrate = campaign.space, len(campaign.calibrate)
    return {
        "space": {"name": space.name, "fingerprint": space.fingerprint},
        "plan": {"calibrate": calibrate, "validate": len(campaign.validate), "seed": campaign.seed},
        "tools": sorted({runtime, "onnxruntime", "trtexec"}, key=lambda t: t != runtime) if either else [runtime],
        "format": "tflite" if runtime == "benchmark_model" else "onnx",
        "precision": precision,
        "batch": batch,
        "threads": threads,
        "machine": on_device.machine(machine) if machine else None,
        "versions": {p: importlib.metadata.version(p) for p in ("nas", "torch", "onnx", "onnxruntime")},
    }


def _check_same(path: Path, settings: dict[str, Any]) -> None:
    if not path.exists():
        return
    there = read_json(path, dict[str, Any])
    differing = [name for name, value in settings.items() if there.get(name) != value]
    if differing:
        raise BadInput(
            f"{path.parent} already holds a kit with another {differing[0]} "
            f"({there.get(differing[0])}, now {settings[differing[0]]}); choose another folder"
        )


def _written(
    campaign: Plan, folder: Path, settings: dict[str, Any], runtime: Tool, progress: bool | None
) -> dict[str, Any]:
    """Write what is not there yet; the manifest's entries, in the order in which they shall be timed."""
    blocks, networks = campaign.order(), campaign.space.networks(campaign.archs)
    ending, models = settings["format"], campaign.models()
    with bar(len(models), "export", "model", progress) as advance:
        for done, (model, network) in enumerate(zip(models, [*((b,) for b in blocks), *networks], strict=True), 1):
            model["file"] = f"{model['file']}.{ending}"
            path = folder / model["file"]
            if not path.exists() or not path.stat().st_size:
                write_bytes(path, _model(network, settings, runtime))
            content = path.read_bytes()
            model["input"] = [settings["batch"], *network[0].in_shape]
            model.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
            advance(done)
    return {"reference": f"blocks/{blocks.index(campaign.reference):05d}.{ending}", "models": models}


def _model(network: Sequence[Block], settings: dict[str, Any], runtime: Tool) -> bytes:
    with torch.random.fork_rng(devices=[]):  # the same kit each time it is made
        torch.manual_seed(0)
        module = build(network[0]) if len(network) == 1 else Network(network)
    shape, precision, batch = network[0].in_shape, settings["precision"], settings["batch"]
    return model_bytes(module, shape, tool=runtime, precision=precision, batch=batch)


def model_bytes(
    network: nn.Module, shape: tuple[int, int, int], *, tool: str, precision: str = "fp32", batch: int = 1
) -> bytes:
    """The file that ``tool`` times: ONNX, or .tflite for benchmark_model. fp16 is made from fp32 by the tool."""
    form = "int8" if precision == "int8" else "fp32"
    if tool == "benchmark_model":
        return timing_tflite(network, shape, precision=form, batch=batch)
    return onnx_bytes(network, shape, precision=form, batch=batch, symmetric_activations=tool == "trtexec")


@checked
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
    folder = folder_of(folder, "folder of the kit")
    with problems_are_bad_input():
        manifest = load_manifest(str(folder))
        stem = stem_of(folder if run_dir is None else run_dir, name, manifest["precision"])
        if space is not None and space.fingerprint != manifest["space"]["fingerprint"]:
            raise BadInput(f"{folder} is a kit of {manifest['space']['name']}, not of {space.name} as it is now")
        lines = parse_lines(_whole_lines(folder / "results.jsonl"), "results.jsonl")
        results = Results("results.jsonl", manifest["models"], lines)
    device = _device(manifest, results)
    _check_complete(folder, manifest, results, allow_failed)
    made = _table(manifest, device, results)
    if beside(stem, ".json").exists() and LatencyTable.load(stem).fingerprint != made.table.fingerprint:
        raise BadInput(f"{stem} is there already and another table; choose another name or folder")
    return made.save(stem)


def _device(manifest: dict[str, Any], results: Results) -> Device:
    """What the first line says that the kit ran on. Raises BadInput for one that run.py did not write."""
    header = results.header
    if not header:
        raise BadInput("results.jsonl is empty: nothing was timed yet")
    said = wrong(header, HEADER, "it")
    if not said and header["kit"] != manifest["kit"]:
        raise BadInput(f"results.jsonl belongs to another kit ({header['kit'][:40]!r}), this one is {manifest['kit']}")
    if not said and header["tool"] not in manifest["tools"]:
        said = f"this kit is not for {header['tool']}"
    if said:
        raise BadInput(f"the first line of results.jsonl is not one that run.py wrote: {said}")
    identity = {name: header[name] for name in ("name", "chip", "version", "threads")}
    runtime = RUNTIME.get(header["tool"]) or str(header["tool"])
    return Device(runtime=runtime, precision=manifest["precision"], batch=manifest["batch"], **identity)


def _check_complete(folder: Path, manifest: dict[str, Any], results: Results, allow_failed: bool) -> None:
    models = manifest["models"]
    missing = sum(results.is_open(m["file"]) for m in models)
    if missing:
        raise BadInput(
            f"{folder} is unfinished: {len(models) - missing} of {len(models)} models are timed; "
            "run 'python3 run.py' there again, it goes on"
        )
    failed = [f"[{m['key']}] {results.failed[m['file']]}" for m in models if m["file"] in results.failed]
    if failed and not allow_failed:
        raise BadInput(
            f"{len(failed)} of {len(models)} models failed on the device: {'; '.join(failed[:3])}"
            f"{'; ...' if len(failed) > 3 else ''}; "
            "run 'python3 run.py --retry-failed' there, or leave them out (allow_failed, --leave-out-failed)"
        )


def _whole_lines(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        raise BadInput(f"{path} does not exist: run 'python3 run.py' on the device and copy its results back") from None
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
    return text[: text.rfind("\n") + 1]


def _table(manifest: dict[str, Any], device: Device, results: Results) -> Finished:
    index: Any = np.arange(sum(m["role"] != "block" for m in manifest["models"]))[:, None]
    first = sum(m["role"] == "calibrate" for m in manifest["models"])
    campaign = Plan(
        space=_recorded(manifest), calibrate=index[:first], validate=index[first:], seed=manifest["plan"]["seed"]
    )
    notes, source = {"kit": manifest["kit"]}, f"nas.measure kit, {results.header['tool']}"
    return finished(campaign, device, manifest["models"], results, source=source, notes=notes)


def _recorded(manifest: dict[str, Any]) -> Any:
    """What a table needs of a space: an architecture ``(1,)`` is the number of one of the manifest's networks."""
    blocks = tuple(from_key(m["key"]) for m in manifest["models"] if m["role"] == "block")
    networks = [m for m in manifest["models"] if m["role"] != "block"]
    return SimpleNamespace(
        **manifest["space"],
        blocks=blocks,
        networks=lambda archs: [tuple(blocks[b] for b in networks[i]["blocks"]) for i in archs[:, 0]],
        describe=lambda archs: [networks[i]["key"] for i in archs[:, 0]],
    )
