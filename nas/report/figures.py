"""pareto.png: what was evaluated, the front, and the deployed networks as they were measured."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from nas.report.folder import Contents

BLUE, ORANGE, GREY = "#2f6fb3", "#d9690f", "#9aa3ad"


def write_pareto(contents: Contents) -> Path | None:
    """Write ``pareto.png`` atomically; None when the run has no search with two objectives."""
    axes_of = axes_columns(contents)
    if axes_of is None:
        return None
    x, y = axes_of
    frame = contents.evaluations
    assert frame is not None
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.add_subplot()
    good = frame[frame[x].notna() & frame[y].notna()]
    scale_x, scale_y = scale(x), scale(y)
    axes.scatter(good[x] * scale_x, good[y] * scale_y, s=12, color=GREY, alpha=0.6, lw=0, label="evaluated")
    front = good[good["on_front"].astype(bool)].sort_values(x)
    axes.step(front[x] * scale_x, front[y] * scale_y, color=BLUE, lw=1.6, where="post")
    axes.plot(front[x] * scale_x, front[y] * scale_y, "o", color=BLUE, ms=4.5, label="Pareto front (predicted)")
    final = contents.final
    if final is not None and x == "latency_ms" and y == "accuracy":
        best = final[final["on_final_front"].astype(bool)].sort_values("measured_int8_ms")
        measured, accuracy = final["measured_int8_ms"] * 1000, final["int8_val_accuracy"] * 100
        axes.plot(measured, accuracy, "D", mfc="none", color=ORANGE, ms=5, alpha=0.6, label="deployed int8 (measured)")
        axes.step(best["measured_int8_ms"] * 1000, best["int8_val_accuracy"] * 100, color=ORANGE, lw=1.2, where="post")
        axes.plot(best["measured_int8_ms"] * 1000, best["int8_val_accuracy"] * 100, "D", color=ORANGE, ms=5)
    if y == "accuracy" and len(good):
        # a few broken networks far below must not flatten the front
        low = float(np.quantile(good[y], 0.02) * scale_y)
        axes.set_ylim(bottom=low - 0.08 * (100 - low))
    axes.set_xlabel(label(x))
    axes.set_ylabel(label(y))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", frameon=True, framealpha=0.9, edgecolor="none")
    path = contents.folder / "pareto.png"
    temporary = contents.folder / ".pareto.png.tmp"
    figure.savefig(temporary, dpi=140, format="png")
    os.replace(temporary, path)
    return path


def axes_columns(contents: Contents) -> tuple[str, str] | None:
    """(x, y) columns of the Pareto plot: a minimised objective along x, the first maximised one (or another) along y."""
    if contents.evaluations is None or len(contents.objectives) < 2:
        return None
    names = [o["name"] for o in contents.objectives]
    y = next((o["name"] for o in contents.objectives if o["maximize"]), names[0])
    x = next((o["name"] for o in contents.objectives if not o["maximize"] and o["name"] != y), None)
    return (x or next(n for n in names if n != y), y)


def scale(name: str) -> float:
    """Factor from stored to shown units: fractions become percent, milliseconds microseconds."""
    return 100.0 if name == "accuracy" else 1000.0 if name.endswith("_ms") else 1.0


def label(name: str) -> str:
    """Axis label of an objective."""
    if name == "accuracy":
        return "validation accuracy (%)"
    return f"{name.removesuffix('_ms').replace('_', ' ')} (µs)" if name.endswith("_ms") else name.replace("_", " ")
