"""What a searcher is: something that proposes architectures and learns from results."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from nas.objectives.objective import Objective
from nas.space import Archs, Floats


class Searcher(Protocol):
    """Proposes architectures and learns from results. It only minimises, and owns no loop, budget or files.

    ``nas.search`` calls ``ask`` and ``tell``, and ``reset(seed)`` (forget everything and start from that seed) only when
    it is given a seed. Everything else is up to the searcher:

    - public attributes of plain values (``seed``, settings) become part of a ledger's identity, so that a search is
      resumed with the same settings only; a method ``describe() -> dict`` says it in other words;
    - ``known``, how many networks it has learnt about, tells a used searcher from a fresh one;
    - ``batch`` is how many architectures it likes to be asked for at a time.

    A class in a file of this package whose constructor takes ``(space, *, seed=0, ...)``, or ``(space, objectives, *,
    seed=0, ...)``, is on the command line under the file's name. Settings state their range in their annotation
    (``nas.checks``).
    """

    def ask(self, n: int) -> Archs:
        """Up to ``n`` architectures ``(n, genes)`` to evaluate next; fewer, or none, when it has no more to propose.

        May be called again before results are told. What was proposed before need not be proposed again: the loop
        evaluates nothing twice.
        """
        ...

    def tell(self, archs: Archs, costs: Floats, violation: Floats) -> None:
        """Results ``costs (n, objectives)`` of ``archs (n, genes)``: of any subset of what was asked for, in any order,
        and of networks it never proposed.

        Smaller is better in every column. ``violation (n,)``: how far constraints are missed, relative, summed up; 0
        where all are met. A row that failed has NaN among its costs; so has one that violates a constraint and was
        therefore never evaluated.
        """
        ...


def identity_of(searcher: Searcher) -> dict[str, Any]:
    """What tells one searcher from another: what it says itself, or its class, its public plain attributes and ``known``.

    What it has learnt before is part of it, since no replay can repeat that.
    """
    describe = getattr(searcher, "describe", None)
    if describe is not None:
        return dict(describe())
    return {"searcher": type(searcher).__name__, **_settings(searcher), "known": getattr(searcher, "known", 0)}


def text_of(searcher: Searcher) -> str:
    """One line, for ``__repr__``."""
    settings = ", ".join(f"{k}={v!r}" for k, v in _settings(searcher).items())
    return f"{type(searcher).__name__}({settings})"


def _settings(searcher: Searcher) -> dict[str, Any]:
    names = dict.fromkeys([*getattr(searcher, "__dict__", ()), *getattr(searcher, "__slots__", ())])
    own = {k: _plain(getattr(searcher, k, _OTHER)) for k in names if not k.startswith("_")}
    return {k: v for k, v in own.items() if v is not _OTHER}


_OTHER = object()


def _plain(value: Any) -> Any:
    """``value`` as JSON has it; ``_OTHER`` for what is no number, text or collection of such."""
    if isinstance(value, Objective):
        return [value.name, value.cheap]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple):
        items = [_plain(v) for v in value]
        return _OTHER if any(v is _OTHER for v in items) else items
    if isinstance(value, dict):
        pairs = {str(k): _plain(v) for k, v in value.items()}
        return _OTHER if any(v is _OTHER for v in pairs.values()) else pairs
    return value if value is None or isinstance(value, bool | int | float | str) else _OTHER
