"""What a searcher is: something that proposes architectures and learns from results."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nas.space import Archs


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

    def tell(self, archs: Archs, costs: NDArray[np.float64], violation: NDArray[np.float64]) -> None:
        """Results ``costs (n, objectives)`` of ``archs (n, genes)``: of any subset of what was asked for, in any order,
        and of networks it never proposed.

        Smaller is better in every column. ``violation (n,)``: how far constraints are missed, relative, summed up; 0
        where all are met. A row that failed has NaN among its costs; so has one that violates a constraint and was
        therefore never evaluated.
        """
        ...
