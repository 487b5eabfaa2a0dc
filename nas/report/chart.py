"""Charts: data in, positions in an SVG out. ``templates/chart.html`` draws them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

LEFT, RIGHT, TOP, BOTTOM = 62, 16, 14, 46
"""Margins around the axes, in the units of the SVG's view box."""


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """Over ``xs``, in the colour class ``css``."""

    xs: Sequence[float]
    css: str
    legend: str = ""


@dataclass(frozen=True, kw_only=True)
class Points(_Layer):
    """Markers; ``tips`` explain each on hover and focus, line by line."""

    ys: Sequence[float]
    tips: Sequence[str] = ()
    radius: float = 4
    diamond: bool = False
    kind: ClassVar[str] = "points"


@dataclass(frozen=True, kw_only=True)
class Line(_Layer):
    """A line, or with ``step`` a staircase that keeps each y until the next x."""

    ys: Sequence[float]
    step: bool = False
    kind: ClassVar[str] = "line"


@dataclass(frozen=True, kw_only=True)
class Area(_Layer):
    """What lies between two curves over the same ``xs``."""

    lows: Sequence[float]
    highs: Sequence[float]
    kind: ClassVar[str] = "area"


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Layers over common axes, the first at the bottom. Axes span all points and lines, or the given ranges.

    What is not finite is left out, and so are markers outside the axes (``left_out`` counts those); curves are clipped.
    """

    x_label: str
    y_label: str
    layers: Sequence[Points | Line | Area]
    title: str = ""
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    width: int = 560
    height: int = 340

    @cached_property
    def x_axis(self) -> Axis:
        shown = self.x_range or _span(x for layer in self.layers if layer.kind != "area" for x in layer.xs)
        return Axis(*_padded(*shown), start=LEFT, end=self.width - RIGHT)

    @cached_property
    def y_axis(self) -> Axis:
        shown = self.y_range or _span(y for layer in self.layers if not isinstance(layer, Area) for y in layer.ys)
        return Axis(*_padded(*shown), start=self.height - BOTTOM, end=TOP)

    def markers(self, points: Points) -> Iterator[tuple[float, float, str]]:
        """(x, y, tip) of every marker that is drawn."""
        tips = points.tips or [""] * len(points.xs)
        for x, y, tip in zip(points.xs, points.ys, tips, strict=True):
            if self.x_axis.shows(x) and self.y_axis.shows(y):
                yield self.x_axis.at(x), self.y_axis.at(y), tip

    def corners(self, curve: Line | Area) -> list[tuple[float, float]]:
        """The corners of a line, or of an area once around."""
        if isinstance(curve, Area):
            there = [c for c in zip(curve.xs, curve.lows, curve.highs, strict=True) if all(map(math.isfinite, c))]
            data = [(x, high) for x, _, high in there] + [(x, low) for x, low, _ in reversed(there)]
        else:
            data = [c for c in zip(curve.xs, curve.ys, strict=True) if all(map(math.isfinite, c))]
            if curve.step:
                steps = [((x1, y0), (x1, y1)) for (_, y0), (x1, y1) in itertools.pairwise(data)]
                data = data[:1] + [corner for step in steps for corner in step]
        return [(self.x_axis.at(x), self.y_axis.at(y)) for x, y in data]

    @cached_property
    def left_out(self) -> int:
        """Finite points that lie outside the axes."""
        pairs = [p for layer in self.layers if isinstance(layer, Points) for p in zip(layer.xs, layer.ys, strict=True)]
        finite = [(x, y) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]
        return sum(not (self.x_axis.shows(x) and self.y_axis.shows(y)) for x, y in finite)


@dataclass(frozen=True)
class Axis:
    """Values from ``low`` to ``high``, drawn from ``start`` to ``end``."""

    low: float
    high: float
    start: float = field(kw_only=True)
    end: float = field(kw_only=True)

    def at(self, value: float) -> float:
        """Where ``value`` is drawn."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def shows(self, value: float) -> bool:
        return self.low <= value <= self.high

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """(position, text) of every tick."""
        return [(self.at(v), number(v)) for v in ticks(self.low, self.high)]


def ticks(low: float, high: float) -> list[float]:
    """Some six round numbers between ``low`` and ``high``, steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    first = math.ceil(low / step - 1e-9)
    return [float(f"{i * step:.10g}") for i in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """A tick's text."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:g}"


def _span(values: Iterable[float]) -> tuple[float, float]:
    finite = [v for v in values if math.isfinite(v)]
    return (min(finite), max(finite)) if finite else (0.0, 1.0)


def _padded(low: float, high: float) -> tuple[float, float]:
    margin = 0.04 * (high - low) if high > low else max(0.05 * abs(high), 0.5)
    return (low - margin if low else 0.0), high + margin
