"""The runtime and the searcher that a run's settings name."""

from __future__ import annotations

from collections.abc import Sequence

from nas.objectives import Objective
from nas.runs.settings import Settings
from nas.runtimes import LiteRT, OnnxRuntime, OpenVINO, Runtime, TorchCPU
from nas.searchers.evolution import RegularizedEvolution
from nas.searchers.guided import Guided
from nas.searchers.local_search import LocalSearch
from nas.searchers.nsga2 import NSGA2
from nas.searchers.nsga3 import NSGA3
from nas.searchers.random_search import RandomSearch
from nas.searchers.searcher import Searcher
from nas.space import SearchSpace


def runtimes_of(settings: Settings) -> dict[str, Runtime]:
    """By precision: those of fp32 and int8 that the runtime has."""
    t = settings.threads
    if settings.runtime == "torch":
        return {"fp32": TorchCPU(threads=t)}
    cls = {"onnxruntime": OnnxRuntime, "openvino": OpenVINO, "litert": LiteRT}[settings.runtime]
    return {p: cls(precision=p, threads=t) for p in ("fp32", "int8")}


def searcher_of(settings: Settings, space: SearchSpace, objectives: Sequence[Objective]) -> Searcher:
    """A fresh searcher."""
    if settings.searcher == "nsga2":
        return NSGA2(space, seed=settings.seed, population=settings.population)
    if settings.searcher == "guided":
        return Guided(space, objectives, seed=settings.seed)
    found = {"nsga3": NSGA3, "evolution": RegularizedEvolution, "local_search": LocalSearch, "random": RandomSearch}
    return found[settings.searcher](space, seed=settings.seed)
