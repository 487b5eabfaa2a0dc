"""Candidates: networks of the front that are cut out, compressed, exported, and timed again as files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from nas.blocks import from_key
from nas.compression.finetune import FineTune
from nas.compression.pipeline import Compressed, Step, compress
from nas.compression.prune import Prune
from nas.compression.quantize import Int8Network, OnnxNetwork, Quantize
from nas.data.images import ImageData
from nas.deploy.arena import FILE, MemoryModel
from nas.deploy.bundle import export_bundle
from nas.deploy.to_onnx import export_onnx
from nas.engine.result import SearchResult
from nas.errors import BadInput
from nas.files import write_text
from nas.measuring.timing import time_interleaved
from nas.modules import Network
from nas.pareto import non_dominated
from nas.runs.folder import PRECISIONS, Run, stage
from nas.space import Archs
from nas.supernet import Supernet
from nas.supernet.training import calibrated
from nas.tables.interpolate import PRUNED, estimate
from nas.tables.table import LatencyTable
from nas.training.loop import accuracy, load_weights, save_weights


def candidates_stage(
    run: Run, supernet: Supernet, tables: dict[str, LatencyTable], result: SearchResult
) -> list[dict[str, Any]]:
    """Networks of the front cut out, fine-tuned, pruned, quantized and exported: ``candidates/<id>/``."""
    s = run.settings
    teacher = calibrated(supernet, supernet.largest, run.data).to("cpu")
    chosen = spread_over_front(result, s.candidates)
    if not run.resume and (run.folder / "candidates").exists():
        raise BadInput(
            f"{run.folder} already holds candidates; pass resume (--resume) to go on with them, or another folder"
        )
    summaries = []
    with stage(run, "candidates"):
        for i, arch in enumerate(chosen, 1):
            whole = run.folder / "candidates" / f"c{i:02d}"
            folders = [whole]
            if not _is_done(run, whole, arch):
                network = calibrated(supernet, arch, run.data).to("cpu")
                assert isinstance(network, Network)
                _deploy_whole(run, network, arch, whole, tables, teacher)
            if s.prune:
                folders.append(whole.with_name(f"{whole.name}p"))
                if not _is_done(run, folders[1], arch):
                    _deploy_pruned(run, whole, arch, folders[1], tables, teacher)
            for folder in folders:
                summary = json.loads((folder / "summary.json").read_text())
                summaries.append(summary)
                last = summary["steps"][-1]
                run.say(
                    f"{summary['id']}: {last['macs'] / 1e6:.2f} MMACs, int8 validation accuracy {last['accuracy']:.1%}, "
                    f"{_ms(last['predicted_ms'])} predicted, {_ms(last['measured_ms'])} measured"
                )
    return summaries


def final_stage(run: Run) -> pd.DataFrame:
    """All deployed networks timed again, side by side, and the test images looked at once: ``final.csv``."""
    path = run.folder / "final.csv"
    summaries = [json.loads(p.read_text()) for p in sorted((run.folder / "candidates").glob("*/summary.json"))]
    if not summaries:
        raise BadInput(f"{run.folder} has no candidates yet (nas compress)")
    if path.exists() and run.resume:
        final = pd.read_csv(path)
        if set(final["id"]) == {x["id"] for x in summaries}:
            return final
    with stage(run, "final"):
        files = {
            (x["id"], p): run.folder / "candidates" / x["id"] / x["files"][p] for x in summaries for p in PRECISIONS
        }
        prepared = [
            run.runtimes[p].prepare(f, tuple(_by_id(summaries, i)["input_shape"])) for (i, p), f in files.items()
        ]
        timed = {
            key: float(np.median(ms))
            for key, ms in zip(
                files, time_interleaved(run.runtimes["fp32"], prepared, min_rounds=20, max_rounds=60), strict=True
            )
        }
        rows = [_final_row(run, summary, timed) for summary in summaries]
        if run.settings.table is not None:
            target = LatencyTable.load(run.folder / "table_target")
            for row, summary in zip(rows, summaries, strict=True):
                row["predicted_target_ms"] = _on_target(target, summary)
        if run.settings.max_sram is not None or run.settings.max_flash is not None:
            for row, summary in zip(rows, summaries, strict=True):
                row |= _on_microcontroller(summary)
        final = pd.DataFrame(rows)
        costs = np.column_stack([-final["int8_val_accuracy"], final["measured_int8_ms"]])
        final["on_final_front"] = non_dominated(costs)
        final = final.sort_values("measured_int8_ms", ignore_index=True)
        bundle_candidate(run, best_of(final))
        write_text(path, final.to_csv(index=False))
    return final


def spread_over_front(result: SearchResult, n: int) -> Archs:
    """``n`` architectures of the front, evenly spaced along it, both ends included (all of a smaller front)."""
    front = result.front
    if not len(front):
        raise BadInput(f"the search found no network that meets the constraints; {result.stopped}")
    rows = np.unique(np.linspace(0, len(front) - 1, min(n, len(front))).round().astype(int))
    return front.archs[rows]


def best_of(final: pd.DataFrame) -> str:
    """The id of the deployed network with the best int8 validation accuracy, the fastest of equals."""
    return str(final.sort_values(["int8_val_accuracy", "measured_int8_ms"], ascending=[False, True])["id"].iloc[0])


def load_candidate(folder: Path) -> Network:
    """The float network of a candidate. Raises BadInput when the folder holds none."""
    try:
        summary = json.loads((folder / "summary.json").read_text())
        network = Network(from_key(key) for key in summary["blocks"])
    except (OSError, ValueError, KeyError):
        there = sorted(p.parent.name for p in folder.parent.glob("*/summary.json"))
        raise BadInput(f"{folder} is not a finished candidate; there are {', '.join(there) or 'none'}") from None
    load_weights(folder / summary["files"]["weights"], network, {})
    return network.eval()


def bundle_candidate(run: Run, candidate: str, path: Path | None = None) -> Path:
    """A self-contained bundle of a candidate's float network, by default beside its other files."""
    folder = run.folder / "candidates" / candidate
    network = load_candidate(folder)
    preprocessing = run.data.preprocessing(network.input_shape[-1])
    return export_bundle(network, path or folder / "bundle", classes=run.data.classes, preprocessing=preprocessing)


def _recipe_of(run: Run, arch: Archs) -> dict[str, Any]:
    """What decides a candidate besides the supernet: its genes and the settings of compression."""
    s = run.settings
    return {
        "genes": [int(g) for g in arch],
        "finetune_epochs": s.finetune_epochs,
        "qat_epochs": s.qat_epochs,
        "prune": s.prune,
        "seed": s.seed,
    }


def _is_done(run: Run, folder: Path, arch: Archs) -> bool:
    """Whether a candidate is finished. Raises BadInput when what is there was made from something else."""
    try:
        there = json.loads((folder / "summary.json").read_text())["made_from"]
    except OSError:
        return False
    except (ValueError, KeyError) as error:
        raise BadInput(f"{folder / 'summary.json'} is damaged ({error}); delete {folder}") from None
    here = _recipe_of(run, arch)
    differing = [k for k in here if there.get(k) != here[k]]
    if differing:
        raise BadInput(
            f"{folder} was made with other {', '.join(differing)}; delete {folder.parent}, or choose another run folder"
        )
    return True


def _deploy_whole(
    run: Run, network: Network, arch: Archs, folder: Path, tables: dict[str, LatencyTable], teacher: torch.nn.Module
) -> None:
    """Fine-tune and quantize a network of the front."""
    s = run.settings
    steps: list[Step] = [FineTune(epochs=s.finetune_epochs), Quantize(qat_epochs=s.qat_epochs)]
    result = compress(
        network, steps, run.data, tables.values(), runtime=run.runtimes.values(), teacher=teacher, seed=s.seed
    )
    _write_candidate(run, folder, arch, result, [asdict(r) for r in result.records], "fine-tune", pruned=0.0)


def _deploy_pruned(
    run: Run, whole: Path, arch: Archs, folder: Path, tables: dict[str, LatencyTable], teacher: torch.nn.Module
) -> None:
    """Prune the fine-tuned network of a finished candidate, fine-tune again and quantize."""
    s = run.settings
    steps: list[Step] = [
        Prune(ratio=s.prune),
        FineTune(epochs=s.finetune_epochs, name="recover"),
        Quantize(qat_epochs=s.qat_epochs),
    ]
    network = load_candidate(whole)
    result = compress(
        network, steps, run.data, tables.values(), runtime=run.runtimes.values(), teacher=teacher, seed=s.seed
    )
    before = json.loads((whole / "summary.json").read_text())["steps"][:-1]
    records = [*before, *(asdict(r) for r in result.records[1:])]
    _write_candidate(run, folder, arch, result, records, "recover", pruned=s.prune)


def _write_candidate(
    run: Run,
    folder: Path,
    arch: Archs,
    result: Compressed,
    records: Sequence[dict[str, Any]],
    last_float: str,
    pruned: float,
) -> None:
    """The files first, ``summary.json`` last: with it the candidate is done."""
    network, int8 = result.stages[last_float], result.network
    assert isinstance(network, Network)
    assert isinstance(int8, Int8Network)
    export_onnx(network, folder / "fp32.onnx")
    int8.save(folder / "int8.onnx")
    save_weights(folder / "weights.safetensors", network, {})
    summary = {
        "id": folder.name,
        "architecture": run.space.describe(arch[None])[0],
        "made_from": _recipe_of(run, arch),
        "input_shape": list(network.input_shape),
        "pruned": pruned,
        "quantization": int8.note.split()[0],
        "fp32_step": last_float,
        "blocks": [b.key for b in network.describe()],
        "steps": list(records),
        "files": {"fp32": "fp32.onnx", "int8": "int8.onnx", "weights": "weights.safetensors"},
    }
    write_text(folder / "summary.json", json.dumps(summary, indent=2) + "\n")


def _final_row(run: Run, summary: dict[str, Any], timed: dict[tuple[str, str], float]) -> dict[str, Any]:
    folder = run.folder / "candidates" / summary["id"]
    steps = {step["step"]: step for step in summary["steps"]}
    first, float_step, int8_step = summary["steps"][0], steps[summary["fp32_step"]], summary["steps"][-1]
    fp32_ms, int8_ms = timed[summary["id"], "fp32"], timed[summary["id"], "int8"]
    return {
        "id": summary["id"],
        "architecture": summary["architecture"],
        "supernet_accuracy": first["accuracy"],
        "fp32_val_accuracy": float_step["accuracy"],
        "int8_val_accuracy": int8_step["accuracy"],
        "fp32_test_accuracy": _file_accuracy(folder / "fp32.onnx", run.data, summary["input_shape"]),
        "int8_test_accuracy": _file_accuracy(folder / "int8.onnx", run.data, summary["input_shape"]),
        "macs": int8_step["macs"],
        "params": int8_step["params"],
        "fp32_bytes": (folder / "fp32.onnx").stat().st_size,
        "int8_bytes": (folder / "int8.onnx").stat().st_size,
        "predicted_fp32_ms": float_step["predicted_ms"],
        "measured_fp32_ms": fp32_ms,
        "predicted_int8_ms": int8_step["predicted_ms"],
        "measured_int8_ms": int8_ms,
        "speedup_int8": fp32_ms / int8_ms,
        "pruned": summary["pruned"],
        "quantization": summary["quantization"],
    }


def _on_target(table: LatencyTable, summary: dict[str, Any]) -> float:
    """Predicted ms of a deployed network on the device that was searched for; NaN where its table cannot tell."""
    try:
        ms, _ = estimate(table, [from_key(key) for key in summary["blocks"]], beyond=PRUNED)
    except BadInput:
        return float("nan")
    return float(ms.sum()) + table.fixed_ms


def _on_microcontroller(summary: dict[str, Any]) -> dict[str, int]:
    """Memory of a deployed network's int8 .tflite, as limited by ``--max-sram`` and ``--max-flash``."""
    model = MemoryModel([from_key(key) for key in summary["blocks"]])
    ids = np.arange(1, len(summary["blocks"]) + 1)[None]
    return {"peak_sram": int(model.arena(ids)[0]), "flash_size": int(model.flash.sum()) + FILE}


def _file_accuracy(path: Path, data: ImageData, input_shape: Sequence[int]) -> float:
    """Test accuracy of an exported file, as it is."""
    network = OnnxNetwork(path.read_bytes(), (input_shape[0], input_shape[1], input_shape[2]))
    return accuracy(network, data.test, data)


def _by_id(summaries: Sequence[dict[str, Any]], wanted: str) -> dict[str, Any]:
    return next(x for x in summaries if x["id"] == wanted)


def _ms(value: float | None) -> str:
    return "unknown" if value is None else f"{value * 1000:.1f} µs" if value < 1 else f"{value:.2f} ms"
