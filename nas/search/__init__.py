"""Searchers (ask and tell), the loop that drives them, and what it returns.

``Guided`` loads on first use: it needs torch. ``nas.search.policy.PolicySearch`` and
``nas.search.optuna_sampler.OptunaSearch`` are imported from their own modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nas.callable_package import call_as
from nas.search.evolution import RegularizedEvolution
from nas.search.local_search import LocalSearch
from nas.search.loop import search
from nas.search.nsga2 import NSGA2
from nas.search.nsga3 import NSGA3
from nas.search.oracle import exact_best, exact_front
from nas.search.pareto import hypervolume, hypervolume_history, non_dominated
from nas.search.random_search import RandomSearch
from nas.search.result import SearchResult

if TYPE_CHECKING:
    from nas.search.guided import Guided

__all__ = [
    "NSGA2",
    "NSGA3",
    "Guided",
    "LocalSearch",
    "RandomSearch",
    "RegularizedEvolution",
    "SearchResult",
    "exact_best",
    "exact_front",
    "hypervolume",
    "hypervolume_history",
    "non_dominated",
    "search",
]

call_as(__name__, "nas.search.loop", "search")


def __getattr__(name: str) -> Any:
    if name == "Guided":
        from nas.search.guided import Guided

        return Guided
    raise AttributeError(f"module 'nas.search' has no attribute {name!r}")
