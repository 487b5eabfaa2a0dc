"""A run: one folder, and the stages that fill it. ``report.html`` is made from that folder alone.

    table -> supernet -> search -> candidates -> final -> report

A stage is done when its artefact lies there under its final name; ``resume`` goes on with what is missing.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from nas.blocks import from_key
from nas.compress import Compressed, FineTune, Int8Network, OnnxNetwork, Prune, Quantize, Step, compress
from nas.data import ImageData
from nas.deploy.bundle import export_bundle
from nas.deploy.to_onnx import export_onnx
from nas.errors import BadInput
from nas.latency import LatencyTable, measure
from nas.latency.campaign import time_interleaved
from nas.latency.table import write_text
from nas.modules import Network
from nas.objectives import Constraint, Objective, latency
from nas.objectives.accuracy import accuracy as accuracy_objective
from nas.runtimes import OnnxRuntime, Runtime
from nas.runtimes.runtime import cores, cpu_name
from nas.search import NSGA2, SearchResult, non_dominated, search
from nas.space import Archs, SearchSpace
from nas.supernet import Supernet, train_supernet
from nas.supernet.training import calibrated, check_fit, load_supernet
from nas.train import Recipe, accuracy, load_weights, save_weights

PRECISIONS = ("fp32", "int8")
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that decides a run besides its space, data and device.

    ``candidates``: networks of the front that are deployed, each as it is and pruned by ``prune`` (0: not pruned).
    ``constraints``: upper bounds in ms on the predicted latency of the search's precision, or none.
    """

    precision: str = "int8"
    threads: int = 1
    epochs: int = 50
    lr: float = 0.1
    batch_size: int = 128
    budget: int = 320
    population: int = 48
    max_latency_ms: float | None = None
    candidates: int = 8
    finetune_epochs: int = 12
    prune: float = 0.25
    qat_epochs: int = 8
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run folder with what its stages work on.

    ``inputs``: the names from which space and data were made, kept so that the folder can be opened again.
    ``say`` gets one line per step.
    """

    folder: Path
    space: SearchSpace
    data: ImageData
    settings: Settings
    inputs: Mapping[str, Any] = field(default_factory=dict)
    resume: bool = False
    progress: bool = False
    say: Say = lambda line: None

    @property
    def runtimes(self) -> dict[str, Runtime]:
        return {p: OnnxRuntime(precision=p, threads=self.settings.threads) for p in PRECISIONS}


def run_all(run: Run) -> pd.DataFrame:
    """All stages in order; returns the final table. The report is made from the folder, by ``nas.report``."""
    tables = measure_stage(run)
    supernet = train_stage(run)
    result = search_stage(run, supernet, tables)
    candidates_stage(run, supernet, tables, result)
    return final_stage(run)


def open_run(run: Run, command: str) -> None:
    """Create the folder and its ``config.json``, or check that they belong to this space and data.

    Raises BadInput when the folder cannot be written, holds another run, or holds this one and ``resume`` is not set.
    """
    check_fit(run.space, run.data)
    path = run.folder / "config.json"
    config = _config(run, command)
    if path.exists():
        there = read_config(run.folder)
        for part in ("space", "data"):
            if there[part]["fingerprint"] != config[part]["fingerprint"]:
                raise BadInput(
                    f"{run.folder} holds a run on {part} {there[part]['name']} ({there[part]['fingerprint']}), this is "
                    f"{config[part]['name']} ({config[part]['fingerprint']}); choose another run folder"
                )
        if not run.resume:
            raise BadInput(
                f"{run.folder} already holds a run; pass resume (--resume) to go on with it, or another folder"
            )
        differing = [k for k, v in config["settings"].items() if there["settings"].get(k) != v]
        if differing:
            k = differing[0]
            raise BadInput(
                f"{run.folder} was started with {k} = {there['settings'].get(k)}, now it is {config['settings'][k]}; "
                "resume with the same settings, or choose another run folder"
            )
        return
    write_text(path, json.dumps(config, indent=2) + "\n")


def remember_settings(run: Run) -> None:
    """Write the settings that a stage has just used into ``config.json``, for the stages after it and the report."""
    config = read_config(run.folder)
    if config["settings"] != asdict(run.settings):
        config["settings"] = asdict(run.settings)
        write_text(run.folder / "config.json", json.dumps(config, indent=2) + "\n")


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a run folder. Raises BadInput when it is missing or damaged."""
    path = folder / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text())
        return config
    except OSError:
        raise BadInput(f"{folder} is not a run folder: it has no config.json") from None
    except ValueError as error:
        raise BadInput(f"{path} is damaged: {error}") from None


# --------------------------------------------------------------------------------------------------------------
# Stages


def measure_stage(run: Run) -> dict[str, LatencyTable]:
    """Latency tables of the space on this machine, in every precision."""
    tables = {}
    for precision, runtime in run.runtimes.items():
        with _stage(run, f"table_{precision}"):
            table = measure(
                run.space,
                runtime,
                run_dir=run.folder,
                resume=run.resume,
                seed=run.settings.seed,
                progress=run.progress,
            )
            assert table.validation is not None
            run.say(
                f"table {table.name}: {len(table.rows)} blocks; on {table.validation.networks} other networks "
                f"Kendall tau {table.validation.kendall_tau:.3f}, mean error {table.validation.mape:.1%}"
            )
            tables[precision] = table
    return tables


def train_stage(run: Run) -> Supernet:
    """The trained supernet."""
    s = run.settings

    def progress(row: dict[str, float]) -> None:
        if np.isfinite(row.get("accuracy_largest", np.nan)):
            run.say(
                f"epoch {row['epoch']:.0f}/{s.epochs}: loss {row['loss']:.3f}, validation accuracy "
                f"{row['accuracy_largest']:.1%} (largest), {row['accuracy_smallest']:.1%} (smallest)"
            )

    with _stage(run, "train"):
        return train_supernet(
            run.space,
            run.data,
            epochs=s.epochs,
            recipe=Recipe(epochs=s.epochs, lr=s.lr, batch_size=s.batch_size),
            run_dir=run.folder,
            seed=s.seed,
            device=s.device,
            resume=run.resume,
            progress=progress,
        )


def search_stage(run: Run, supernet: Supernet, tables: dict[str, LatencyTable]) -> SearchResult:
    """The search for accuracy against latency in the chosen precision."""
    s = run.settings
    with _stage(run, "search"):
        objectives, constraints = objectives_of(run, supernet, tables[s.precision])
        result = search(
            run.space,
            objectives,
            NSGA2(run.space, seed=s.seed, population=s.population),
            budget=s.budget,
            constraints=constraints,
            run_dir=run.folder,
            resume=run.resume,
            progress=run.progress,
        )
        write_search(run.folder, result)
        run.say(f"search: {len(result)} networks evaluated, {len(result.front)} on the Pareto front; {result.stopped}")
    return result


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
    with _stage(run, "candidates"):
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
    with _stage(run, "final"):
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
        final = pd.DataFrame(rows)
        costs = np.column_stack([-final["int8_val_accuracy"], final["measured_int8_ms"]])
        final["on_final_front"] = non_dominated(costs)
        final = final.sort_values("measured_int8_ms", ignore_index=True)
        bundle_candidate(run, best_of(final))
        write_text(path, final.to_csv(index=False))
    return final


# --------------------------------------------------------------------------------------------------------------
# Pieces


def objectives_of(run: Run, supernet: Supernet, table: LatencyTable) -> tuple[list[Objective], list[Constraint]]:
    """Accuracy with the supernet's weights and predicted latency; the latency bound where the settings have one."""
    weights = hashlib.sha256((run.folder / "supernet.safetensors").read_bytes()).hexdigest()[:16]
    table.check_space(run.space)
    fast = latency(run.space, table)
    bound = run.settings.max_latency_ms
    return [accuracy_objective(supernet, run.data, identity=weights), fast], [] if bound is None else [fast <= bound]


def load_tables(run: Run) -> dict[str, LatencyTable]:
    """The tables that ``measure_stage`` wrote. Raises BadInput when one is missing or does not fit the space."""
    tables = {p: LatencyTable.load(run.folder / f"table_{p}") for p in PRECISIONS}
    for table in tables.values():
        table.check_space(run.space)
    return tables


def load_trained(run: Run) -> Supernet:
    """The supernet that ``train_stage`` wrote."""
    return load_supernet(run.space, run.folder / "supernet.safetensors", run.settings.device)


def load_front(run: Run) -> SearchResult:
    """The search of the folder, read back from its ledger. Raises BadInput when there is none."""
    if not (run.folder / "evaluations.db").exists():
        raise BadInput(f"{run.folder} has no search yet (nas search)")
    return search_stage(replace(run, resume=True, progress=False), load_trained(run), load_tables(run))


def write_search(folder: Path, result: SearchResult) -> None:
    """The search as text: evaluations.csv, pareto.csv, hypervolume.csv, objectives.json."""
    frame = result.to_pandas()
    write_text(folder / "evaluations.csv", frame.to_csv(index=False))
    write_text(folder / "pareto.csv", frame[frame["on_front"]].to_csv(index=False))
    history = {"evaluations": np.arange(1, len(result) + 1), "hypervolume": result.hypervolume_history()}
    write_text(folder / "hypervolume.csv", pd.DataFrame(history).to_csv(index=False))
    described = [{"name": o.name, "unit": o.unit, "maximize": o.maximize} for o in result.objectives]
    write_text(folder / "objectives.json", json.dumps(described, indent=2) + "\n")


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


def _file_accuracy(path: Path, data: ImageData, input_shape: Sequence[int]) -> float:
    """Test accuracy of an exported file, as it is."""
    network = OnnxNetwork(path.read_bytes(), (input_shape[0], input_shape[1], input_shape[2]))
    return accuracy(network, data.test, data)


def _by_id(summaries: Sequence[dict[str, Any]], wanted: str) -> dict[str, Any]:
    return next(x for x in summaries if x["id"] == wanted)


@contextlib.contextmanager
def _stage(run: Run, name: str) -> Iterator[None]:
    """Times a stage; its seconds are added up in ``stages.json`` over interruptions."""
    started = time.perf_counter()
    try:
        yield
    finally:
        path = run.folder / "stages.json"
        seconds = json.loads(path.read_text()) if path.exists() else {}
        seconds[name] = round(seconds.get(name, 0.0) + time.perf_counter() - started, 2)
        with contextlib.suppress(BadInput):  # never hides what stopped the stage
            write_text(path, json.dumps(seconds, indent=2) + "\n")


def _config(run: Run, command: str) -> dict[str, Any]:
    packages = ("numpy", "onnx", "onnxruntime", "pandas", "scikit-learn", "torch", "torch-pruning")
    return {
        "command": command,
        "created": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "space": {
            "name": run.space.name,
            "fingerprint": run.space.fingerprint,
            "size": run.space.size,
            "blocks": len(run.space.blocks),
        },
        "data": {
            "name": run.data.name,
            "source": run.data.source,
            "classes": list(run.data.classes),
            "train": len(run.data.train),
            "val": len(run.data.val),
            "test": len(run.data.test),
            "fingerprint": run.data.fingerprint,
            "notes": list(run.data.notes),
        },
        "inputs": dict(run.inputs),
        "settings": asdict(run.settings),
        "seed": run.settings.seed,
        "environment": {
            "cpu": cpu_name(),
            "cores": cores(),
            "memory_gb": _memory_gb(),
            "platform": platform.platform(),
            "python": platform.python_version(),
            "packages": {name: metadata.version(name) for name in packages},
        },
    }


def _memory_gb() -> float:
    if not hasattr(os, "sysconf"):
        return float("nan")
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)


def _ms(value: float | None) -> str:
    return "unknown" if value is None else f"{value * 1000:.1f} µs" if value < 1 else f"{value:.2f} ms"
