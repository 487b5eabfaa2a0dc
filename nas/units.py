"""Numbers as people read them: 0.0123 ms is 12.3 µs, an accuracy of 0.912 is 91.2%."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How a quantity is shown: ``value * factor`` with ``digits`` after the point, then ``unit``."""

    factor: float = 1.0
    unit: str = ""
    digits: int | None = None

    def text(self, value: float) -> str:
        number = f"{value * self.factor:.6g}" if self.digits is None else f"{value * self.factor:,.{self.digits}f}"
        return f"{number}{self.unit}" if self.unit in ("%", "x") else f"{number} {self.unit}".strip()


# stored unit -> (from this size on, unit shown, digits), largest first
_LADDERS: dict[str, tuple[tuple[float, str, int], ...]] = {
    "fraction": ((1e-2, "%", 1),),
    "ms": ((1e3, "s", 2), (1.0, "ms", 2), (1e-3, "µs", 1)),
    "mJ": ((1.0, "mJ", 2), (1e-3, "µJ", 1)),
    "bytes": ((2.0**20, "MiB", 1), (2.0**10, "KiB", 0), (1.0, "bytes", 0)),
    "MACs": ((1e9, "GMACs", 2), (1e6, "MMACs", 2), (1e3, "kMACs", 1)),
    "parameters": ((1e6, "M parameters", 2), (1e3, "k parameters", 1)),
}


def scale(unit: str, values: Iterable[float] | float) -> Scale:
    """The scale that suits all ``values`` (in ``unit``) at once: by the largest of them."""
    ladder = _LADDERS.get(unit)
    if ladder is None:
        return Scale(unit=unit)
    known = np.abs(np.asarray(values, dtype=float))
    most = float(np.max(known, where=np.isfinite(known), initial=0.0))
    size, shown, digits = next((rung for rung in ladder if rung[0] <= most), ladder[-1])
    # a fraction is always shown in percent
    return Scale(factor=1 / size, unit=shown, digits=digits)


def shown(value: Any, unit: str) -> str:
    """One value with its unit; '-' where there is none (None, NaN)."""
    if value is None or value != value:
        return "-"
    return scale(unit, value).text(float(value))


def interval(share: Any, n: int) -> tuple[Any, Any]:
    """Both ends of the 95% confidence interval of a share, or an array of them, seen in ``n`` draws (Wilson 1927)."""
    z2 = 1.96**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return middle - half, middle + half


def label(name: str, unit: str) -> str:
    """The text along an axis; ``unit`` as shown."""
    said = "validation accuracy" if name == "accuracy" else title_of(name)
    return f"{said} ({unit})" if unit and unit != said else said


def title_of(name: str) -> str:
    """An objective's name in words, without the unit that some carry."""
    return name.removesuffix("_ms").replace("_", " ")
