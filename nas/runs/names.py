"""The runtime and the searcher that a run's settings name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

from nas import runtimes, searchers
from nas.checks import hints_of
from nas.objectives import Objective
from nas.runs.settings import Settings
from nas.runtimes import Runtime
from nas.searchers.searcher import Searcher
from nas.space import SearchSpace
from nas.training.recipe import torch_device

PRECISIONS = ("fp32", "int8")
"""In which every candidate is exported."""


def runtimes_of(settings: Settings) -> dict[str, Runtime]:
    """By precision: what times the networks that are exported. Raises BadInput for an unknown name."""
    first = runtimes.made(settings.runtime)
    own = {"threads": settings.threads} if "threads" in hints_of(type(first)) else {}
    return {p: runtimes.made(settings.runtime, p, **own) for p in PRECISIONS if p in first.precisions}


def reads_onnx(runtime: Runtime) -> bool:
    """Whether the runtime times the very files that are exported, and not only networks with random weights."""
    return bool(getattr(runtime, "reads_onnx", False))


def searcher_of(settings: Settings, space: SearchSpace, objectives: Sequence[Objective]) -> Searcher:
    """A fresh searcher. Raises BadInput for an unknown name, or a population that it cannot work with."""
    has_one = settings.population is not None and "population" in _parameters(settings)
    own = {"population": settings.population} if has_one else {}
    return searchers.make(settings.searcher, space, objectives, seed=settings.seed, **own)


def check_names(settings: Settings, space: SearchSpace) -> None:
    """Raises BadInput for a name or a training device that there is not, MissingPackage for a runtime that is not installed."""
    if "objectives" not in _parameters(settings):
        searcher_of(settings, space, ())
    torch_device(settings.device)
    for runtime in runtimes_of(settings).values():
        assert runtime.device


def _parameters(settings: Settings) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(searchers.named(settings.searcher)).parameters
