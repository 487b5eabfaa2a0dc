"""Searchers (ask and tell), the loop that drives them, and what it returns.

``nas.search.policy.PolicySearch`` and ``nas.search.optuna_sampler.OptunaSearch`` are imported from their own modules.
"""

from nas.callable_package import call_as
from nas.search.evolution import RegularizedEvolution
from nas.search.guided import Guided
from nas.search.local_search import LocalSearch
from nas.search.loop import search
from nas.search.nsga2 import NSGA2
from nas.search.nsga3 import NSGA3
from nas.search.oracle import exact_best, exact_front
from nas.search.pareto import hypervolume, hypervolume_history, non_dominated
from nas.search.random_search import RandomSearch
from nas.search.result import SearchResult

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
