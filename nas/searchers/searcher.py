"""What a searcher is: something that proposes architectures and learns from results."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nas.space import Archs


class Searcher(Protocol):
    """Proposes architectures and learns from results. Only minimises; owns no loop, budget or files."""

    def restart(self, seed: int) -> None: ...

    def describe(self) -> dict[str, Any]: ...

    def ask(self, n: int) -> Archs: ...

    def tell(self, archs: Archs, costs: NDArray[np.float64], violation: NDArray[np.float64]) -> None: ...
