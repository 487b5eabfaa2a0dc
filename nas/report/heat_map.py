"""Heat map of rank correlations between devices."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nas.checks import shown
from nas.errors import BadInput
from nas.files import replacing, writable
from nas.space import Floats

_CELL = 0.42  # inches
_MARGIN = 0.9  # for title and space between panels
_LETTER = 0.085  # width of one, at the labels' size


@dataclass(frozen=True, kw_only=True, eq=False)
class Panel:
    """Devices of one space: ``kendall`` and ``spearman`` are ``(devices, devices)``, in the order of ``labels``."""

    title: str
    labels: Sequence[str]
    kendall: Floats
    spearman: Floats


def picture(path: str | os.PathLike[str]) -> Path:
    """``path``, when matplotlib can write such a picture there. Raises BadInput when it cannot."""
    target = writable(path)
    if target.suffix not in (".png", ".svg", ".pdf"):
        raise BadInput(f"a heat map is written as .png, .svg or .pdf, got {shown(target.name)}")
    return target


def write_heat_map(panels: Sequence[Panel], path: str | os.PathLike[str]) -> Path:
    """Write one picture with a panel per space: Kendall's tau below the diagonal, Spearman's rho above it.

    Devices are ordered so that those that agree stand together. Raises BadInput as ``picture`` does.
    """
    target = picture(path)
    longest = [_LETTER * max(len(text) for text in panel.labels) for panel in panels]
    label = max(longest)
    sides = [_CELL * len(panel.labels) for panel in panels]
    heights = [side + 0.7 * own + _MARGIN for side, own in zip(sides, longest, strict=True)]  # slanted labels
    width = max(max(sides) + label, 5.0) + 1.0
    figure = Figure(figsize=(width, sum(heights)))
    top = sum(heights)
    for panel, side, height in zip(panels, sides, heights, strict=True):
        box = (label + 0.2, top - 0.55 - side, side, side)
        axes = figure.add_axes(
            (box[0] / width, box[1] / sum(heights), box[2] / width, box[3] / sum(heights))  # fractions of the figure
        )
        _draw(axes, panel)
        top -= height
    with replacing(target) as temporary:
        figure.savefig(temporary, dpi=130)
    return target


def _draw(axes: Axes, panel: Panel) -> None:
    order = _order(panel.kendall)
    labels = [panel.labels[i] for i in order]
    kendall, spearman = panel.kendall[np.ix_(order, order)], panel.spearman[np.ix_(order, order)]
    shown = np.where(np.tri(len(order), dtype=bool), kendall, spearman)
    off = shown[~np.eye(len(order), dtype=bool)]
    low = min(0.0, float(np.nanmin(off))) if np.isfinite(off).any() else 0.0
    axes.imshow(np.ma.masked_invalid(shown), cmap="viridis", vmin=low, vmax=1.0)
    for i, row in enumerate(shown):
        for j, value in enumerate(row):
            dark = np.isfinite(value) and (value - low) / (1 - low) < 0.6
            text = "" if i == j else "-" if np.isnan(value) else f"{value:.2f}"
            axes.text(j, i, text, ha="center", va="center", fontsize=7, color="white" if dark else "black")
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(f"{panel.title}\nbelow the diagonal Kendall's tau, above Spearman's rho", fontsize=9, loc="left")


def _order(kendall: Floats) -> list[int]:
    """Leaves of a hierarchical clustering: devices that rank networks alike stand together."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(kendall) < 3:
        return list(range(len(kendall)))
    apart = 1 - np.nan_to_num(kendall)
    np.fill_diagonal(apart, 0)
    order: list[int] = leaves_list(
        linkage(squareform(apart, checks=False), method="average", optimal_ordering=True)
    ).tolist()
    return order
