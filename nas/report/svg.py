"""Small charts as inline SVG: axes with sensible ticks, points that explain themselves, lines, bands."""

from __future__ import annotations

import html
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

WIDTH, HEIGHT = 560, 340
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 14, 46


@dataclass
class Chart:
    """A chart that is being drawn. ``x_range`` and ``y_range``: data limits, widened a little and to round ticks."""

    x_label: str
    y_label: str
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    title: str = ""
    width: int = WIDTH
    height: int = HEIGHT
    _marks: list[str] = field(default_factory=list)
    _legend: list[tuple[str, str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.x_range, self.y_range = _padded(*self.x_range), _padded(*self.y_range)

    def points(
        self,
        xs: Iterable[float],
        ys: Iterable[float],
        css: str,
        *,
        tips: Sequence[str] | None = None,
        radius: float = 4,
        legend: str = "",
        diamond: bool = False,
    ) -> None:
        """Markers; ``tips`` are shown on hover and focus, line by line."""
        for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
            if not (math.isfinite(x) and math.isfinite(y)):
                continue
            px, py = self._x(x), self._y(y)
            if diamond:
                r = radius * 1.25
                shape = f'<path d="M{px:.1f} {py - r:.1f}l{r:.1f} {r:.1f}l{-r:.1f} {r:.1f}l{-r:.1f} {-r:.1f}z" class="{css}"'
            else:
                shape = f'<circle cx="{px:.1f}" cy="{py:.1f}" r="{radius}" class="{css}"'
            if tips is None:
                self._marks.append(shape + "/>")
            else:
                tip = html.escape(tips[i], quote=True)
                tag = "path" if diamond else "circle"
                self._marks.append(f'{shape} tabindex="0" data-tip="{tip}"><title>{tip}</title></{tag}>')
        if legend:
            self._legend.append((css, "diamond" if diamond else "dot", legend))

    def line(self, xs: Iterable[float], ys: Iterable[float], css: str, *, step: bool = False, legend: str = "") -> None:
        """A line, or a staircase that keeps each y until the next x."""
        path, previous = "", 0.0
        for x, y in zip(xs, ys, strict=True):
            if not (math.isfinite(x) and math.isfinite(y)):
                continue
            px, py = self._x(x), self._y(y)
            if not path:
                path = f"M{px:.1f} {py:.1f}"
            else:
                path += f"L{px:.1f} {previous:.1f}L{px:.1f} {py:.1f}" if step else f"L{px:.1f} {py:.1f}"
            previous = py
        self._marks.append(f'<path d="{path}" class="line {css}"/>')
        if legend:
            self._legend.append((css, "line", legend))

    def band(self, low: float, high: float, css: str, legend: str = "") -> None:
        """The area between the lines y = low * x and y = high * x."""
        x0, x1 = max(self.x_range[0], 0.0), self.x_range[1]
        corners = [(x0, low * x0), (x1, low * x1), (x1, high * x1), (x0, high * x0)]
        points = " ".join(f"{self._x(x):.1f},{self._y(y):.1f}" for x, y in corners)
        self._marks.insert(0, f'<polygon points="{points}" class="{css}"/>')
        if legend:
            self._legend.append((css, "area", legend))

    def area(self, xs: Sequence[float], lows: Sequence[float], highs: Sequence[float], css: str) -> None:
        """The area between two curves over the same ``xs``."""
        there = [(x, low, high) for x, low, high in zip(xs, lows, highs, strict=True) if math.isfinite(low + high)]
        corners = [(x, high) for x, _, high in there] + [(x, low) for x, low, _ in reversed(there)]
        points = " ".join(f"{self._x(x):.1f},{self._y(y):.1f}" for x, y in corners)
        self._marks.insert(0, f'<polygon points="{points}" class="spread {css}"/>')

    def render(self) -> str:
        """The SVG element with its legend above."""
        right, bottom = self.width - RIGHT, self.height - BOTTOM
        parts = []
        for value in ticks(*self.x_range):
            x = self._x(value)
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}" class="grid"/>')
            parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{number(value)}</text>')
        for value in ticks(*self.y_range):
            y = self._y(value)
            parts.append(f'<line x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
            parts.append(f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{number(value)}</text>')
        middle_x, middle_y = (LEFT + right) / 2, (TOP + bottom) / 2
        parts.append(
            f'<text x="{middle_x}" y="{self.height - 8}" text-anchor="middle">{html.escape(self.x_label)}</text>'
        )
        parts.append(
            f'<text transform="rotate(-90)" x="{-middle_y}" y="15" text-anchor="middle">{html.escape(self.y_label)}</text>'
        )
        clip = f"clip{zlib.crc32((self.title + self.x_label + self.y_label).encode())}"
        frame = f'<clipPath id="{clip}"><rect x="{LEFT - 6}" y="{TOP - 6}" width="{right - LEFT + 12}" height="{bottom - TOP + 12}"/></clipPath>'
        title = f"<figcaption class='name'>{html.escape(self.title)}</figcaption>" if self.title else ""
        return (
            f'{title}{self._legend_html()}<svg viewBox="0 0 {self.width} {self.height}" role="img" '
            f'aria-label="{html.escape(self.title or self.y_label, quote=True)}"><defs>{frame}</defs>'
            f'{"".join(parts)}<g clip-path="url(#{clip})">{"".join(self._marks)}</g></svg>'
        )

    def _legend_html(self) -> str:
        shapes = {
            "dot": '<circle cx="9" cy="6" r="4" class="{}"/>',
            "diamond": '<path d="M9 1l5 5l-5 5l-5-5z" class="{}"/>',
            "line": '<path d="M0 6h18" class="line {}"/>',
            "area": '<rect x="1" y="1" width="16" height="10" class="{}"/>',
        }
        items = "".join(
            f'<span><svg width="18" height="12" viewBox="0 0 18 12">{shapes[kind].format(css)}</svg>{html.escape(text)}</span>'
            for css, kind, text in self._legend
        )
        return f'<div class="legend">{items}</div>' if items else ""

    def _x(self, value: float) -> float:
        low, high = self.x_range
        return LEFT + (value - low) / (high - low) * (self.width - LEFT - RIGHT)

    def _y(self, value: float) -> float:
        low, high = self.y_range
        return self.height - BOTTOM - (value - low) / (high - low) * (self.height - TOP - BOTTOM)


def bars(values: Mapping[str, float], x_label: str, *, title: str = "", width: int = WIDTH) -> str:
    """Horizontal bars from 0, one per name, as an SVG element with its title above."""
    left, row, top = 130, 20, 6
    most = max(max(values.values(), default=0.0), 1e-9)
    bottom = top + row * len(values)
    scale = (width - left - RIGHT - 40) / most
    parts = []
    for i, (name, value) in enumerate(values.items()):
        y = top + row * i
        parts.append(f'<text x="{left - 7}" y="{y + 14}" text-anchor="end">{html.escape(name)}</text>')
        parts.append(
            f'<rect x="{left}" y="{y + 3}" width="{max(value * scale, 0.5):.1f}" height="{row - 6}" class="bar"/>'
        )
        parts.append(f'<text x="{left + value * scale + 5:.1f}" y="{y + 14}">{value:.2f}</text>')
    parts.append(f'<text x="{(left + width) / 2}" y="{bottom + 18}" text-anchor="middle">{html.escape(x_label)}</text>')
    caption = f"<figcaption class='name'>{html.escape(title)}</figcaption>" if title else ""
    return (
        f'{caption}<svg viewBox="0 0 {width} {bottom + 26}" role="img" aria-label="{html.escape(title or x_label, quote=True)}">'
        f"{''.join(parts)}</svg>"
    )


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers between ``low`` and ``high``, steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """A tick label."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def _padded(low: float, high: float) -> tuple[float, float]:
    if not (math.isfinite(low) and math.isfinite(high)):
        return 0.0, 1.0
    margin = 0.04 * (high - low) if high > low else max(0.05 * abs(high), 0.5)
    return (low - margin if low else 0.0), high + margin
