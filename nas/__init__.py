"""Hardware-aware neural architecture search: from your images and your device to deployable networks.

The public names. They load on first use: ``import nas`` imports neither torch nor ONNX Runtime.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas import runtimes
    from nas.compress import FineTune, Prune, Quantize, compress
    from nas.data import ImageData, load_digits, load_images
    from nas.deploy.bundle import export_bundle
    from nas.deploy.to_onnx import export_onnx, export_onnx_int8
    from nas.errors import BadInput, Infeasible, MissingBlocks, NasError
    from nas.latency import LatencyTable, measure
    from nas.modules import Network
    from nas.objectives import (
        Constraint,
        Objective,
        energy,
        flash,
        flash_size,
        latency,
        macs,
        params,
        peak_memory,
        peak_sram,
        penalized,
        weighted,
    )
    from nas.objectives.accuracy import accuracy
    from nas.objectives.predicted import predicted
    from nas.objectives.tabular import TabularBenchmark
    from nas.report import write_report
    from nas.run_folder import Run, Settings
    from nas.search import (
        NSGA2,
        NSGA3,
        Guided,
        LocalSearch,
        RandomSearch,
        RegularizedEvolution,
        SearchResult,
        exact_best,
        exact_front,
        search,
    )
    from nas.search.optuna_sampler import OptunaSearch, to_optuna
    from nas.search.policy import PolicySearch
    from nas.space import Choice, SearchSpace, Slot
    from nas.supernet import Supernet, train_supernet
    from nas.supernet.training import calibrated, load_supernet
    from nas.sweep import sweep

_HOME = {
    "nas.compress": ["FineTune", "Prune", "Quantize"],
    "nas.data": ["ImageData", "load_digits", "load_images"],
    "nas.deploy.bundle": ["export_bundle"],
    "nas.deploy.to_onnx": ["export_onnx", "export_onnx_int8"],
    "nas.errors": ["BadInput", "Infeasible", "MissingBlocks", "NasError"],
    "nas.latency": ["LatencyTable", "measure"],
    "nas.modules": ["Network"],
    "nas.objectives": [
        "Constraint",
        "Objective",
        "energy",
        "flash",
        "flash_size",
        "macs",
        "params",
        "peak_memory",
        "peak_sram",
        "penalized",
        "weighted",
    ],
    "nas.objectives.predicted": ["predicted"],
    "nas.objectives.tabular": ["TabularBenchmark"],
    "nas.objectives.accuracy": ["accuracy"],
    "nas.report": ["write_report"],
    "nas.run_folder": ["Run", "Settings"],
    "nas.search": [
        "NSGA2",
        "NSGA3",
        "Guided",
        "LocalSearch",
        "RandomSearch",
        "RegularizedEvolution",
        "SearchResult",
        "exact_best",
        "exact_front",
    ],
    "nas.search.optuna_sampler": ["OptunaSearch", "to_optuna"],
    "nas.search.policy": ["PolicySearch"],
    "nas.space": ["Choice", "SearchSpace", "Slot"],
    "nas.supernet": ["Supernet", "train_supernet"],
    "nas.supernet.training": ["calibrated", "load_supernet"],
    "nas.sweep": ["sweep"],
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}
_PACKAGES = ("compress", "latency", "runtimes", "search")  # all but runtimes can be called, see nas.callable_package

__all__ = [
    "NSGA2",
    "NSGA3",
    "BadInput",
    "Choice",
    "Constraint",
    "FineTune",
    "Guided",
    "ImageData",
    "Infeasible",
    "LatencyTable",
    "LocalSearch",
    "MissingBlocks",
    "NasError",
    "Network",
    "Objective",
    "OptunaSearch",
    "PolicySearch",
    "Prune",
    "Quantize",
    "RandomSearch",
    "RegularizedEvolution",
    "Run",
    "SearchResult",
    "SearchSpace",
    "Settings",
    "Slot",
    "Supernet",
    "TabularBenchmark",
    "accuracy",
    "calibrated",
    "compress",
    "energy",
    "exact_best",
    "exact_front",
    "export_bundle",
    "export_onnx",
    "export_onnx_int8",
    "flash",
    "flash_size",
    "latency",
    "load_digits",
    "load_images",
    "load_supernet",
    "macs",
    "measure",
    "params",
    "peak_memory",
    "peak_sram",
    "penalized",
    "predicted",
    "runtimes",
    "search",
    "sweep",
    "to_optuna",
    "train_supernet",
    "weighted",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"nas.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'nas' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
