"""Searchers (ask and tell), the loop that drives them, and what it returns."""

from nas.callable_package import call_as
from nas.search.loop import search
from nas.search.nsga2 import NSGA2
from nas.search.pareto import hypervolume, hypervolume_history, non_dominated
from nas.search.random_search import RandomSearch
from nas.search.result import SearchResult

__all__ = [
    "NSGA2",
    "RandomSearch",
    "SearchResult",
    "hypervolume",
    "hypervolume_history",
    "non_dominated",
    "search",
]

call_as(__name__, "nas.search.loop", "search")
