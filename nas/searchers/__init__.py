"""The searchers, one per file: a file's name is its searcher's name, on the command line and here.

A new searcher is a new file with one class (see ``searcher.Searcher``), and nothing else: no list names it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from nas.discovery import Files
from nas.errors import BadInput

if TYPE_CHECKING:
    from nas.objectives.objective import Objective
    from nas.searchers.searcher import Searcher
    from nas.space import SearchSpace

_PARTS = ("searcher", "seen", "acquisition", "policy", "exact")  # what searchers are made of, and what needs no search
_SEARCHERS = Files(package=__name__, kind="searcher", between="_", parts=_PARTS)


def names() -> tuple[str, ...]:
    """The names of all searchers. Imports none of them (some need torch)."""
    return _SEARCHERS.names()


def about(name: str) -> str:
    """What the searcher called ``name`` is, in a line. Imports none."""
    return _SEARCHERS.about(name)


def named(name: str) -> Callable[..., Searcher]:
    """The searcher called ``name``: its constructor, whose signature says what can be set. Raises BadInput for another."""
    module = _SEARCHERS.named(name)
    found = [v for k, v in vars(module).items() if not k.startswith("_") and _is_searcher_of(module, v)]
    if len(found) != 1:
        raise TypeError(f"{module.__name__} holds {len(found)} searchers; a file holds one class with ask and tell")
    made: Callable[..., Searcher] = found[0]
    return made


def make(name: str, space: SearchSpace, objectives: Sequence[Objective], *, seed: int = 0, **settings: Any) -> Searcher:
    """The searcher called ``name`` for a search of ``space``, with ``settings`` as its constructor takes them.

    Raises BadInput for an unknown name or setting, and for a setting out of its range.
    """
    constructor = named(name)
    known = inspect.signature(constructor).parameters
    if unknown := [k for k in settings if k not in known]:
        own = [k for k in known if k not in ("space", "objectives")]
        raise BadInput(f"the searcher {name} has no setting {unknown[0]!r}; it has {', '.join(own)}")
    return constructor(space, *([objectives] if "objectives" in known else []), seed=seed, **settings)


def _is_searcher_of(module: Any, value: Any) -> bool:
    made_here = isinstance(value, partial) or (isinstance(value, type) and value.__module__ == module.__name__)
    return made_here and all(callable(getattr(getattr(value, "func", value), m, None)) for m in ("ask", "tell"))
