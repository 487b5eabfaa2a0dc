"""The run folder: what a run is made of, its settings, its config.json, and the time its stages took."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from nas.data.images import ImageData
from nas.device import cores, cpu_name
from nas.errors import BadInput
from nas.files import write_text
from nas.objectives import Objective
from nas.runtimes import Runtime, made
from nas.searchers.guided import Guided
from nas.searchers.searcher import Searcher
from nas.space import SearchSpace
from nas.supernet.training import check_fit

PRECISIONS = ("fp32", "int8")
Say = Callable[[str], None]
MakeSearcher = Callable[[SearchSpace, "Sequence[Objective]", "Settings"], Searcher]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that decides a run besides its space, data and device.

    ``candidates``: networks of the front that are deployed, each as it is and pruned by ``prune`` (0: not pruned).
    ``table``: latency table of the device that the search is for, as a path; None: this machine's, measured in the run.
    ``max_latency_ms``, ``max_sram``, ``max_flash``: hard limits (ms; bytes of the int8 network), or none.
    ``searcher``: its name, for the record; what makes it is ``Run.make_searcher``.
    """

    precision: str = "int8"
    threads: int = 1
    epochs: int = 50
    lr: float = 0.1
    batch_size: int = 128
    budget: int = 400
    population: int = 48
    max_latency_ms: float | None = None
    max_sram: int | None = None
    max_flash: int | None = None
    table: str | None = None
    unvalidated_table: bool = False
    searcher: str = "guided"
    candidates: int = 10
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
    make_searcher: MakeSearcher = lambda space, objectives, settings: Guided(space, objectives, seed=settings.seed)

    @property
    def runtimes(self) -> dict[str, Runtime]:
        return {p: made("onnxruntime", p, threads=self.settings.threads) for p in PRECISIONS}


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


@contextlib.contextmanager
def stage(run: Run, name: str) -> Iterator[None]:
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
