"""What a runtime is: something that prepares a network and times runs of it on one device."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from nas.device import Device


class Runtime(Protocol):
    """How often to run, in what order, and what is an outlier is not a runtime's business: that is the campaign's."""

    @property
    def device(self) -> Device: ...

    def prepare(self, network: nn.Module | Path, input_shape: tuple[int, int, int]) -> Any:
        """Load a network (or an exported file) so that ``time`` can run it."""

    def time(self, prepared: Any, repeats: int) -> NDArray[np.float64]:
        """Milliseconds per run, ``(repeats,)``."""
