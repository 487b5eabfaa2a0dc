"""Pairs of objectives against each other: what was evaluated, the front, and the networks that were deployed."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nas.files import replacing
from nas.objectives.objective import ObjectiveRecord
from nas.pareto import non_dominated
from nas.report.chart import Chart, Line, Points
from nas.runs.artefacts import TARGET, Contents
from nas.space import Floats
from nas.units import Scale, label, scale, shown, title_of

_MOST_POINTS = 2000  # that are drawn, besides the front's; a page must open on a phone
_OUTLIERS = 0.02  # share of networks so bad that showing them would flatten the front


@dataclass(frozen=True, kw_only=True, eq=False)
class Tradeoff:
    """Two objectives, ``x`` and ``y``.

    ``evaluated``: rows of evaluations.csv that have both; ``front``: those on the search's front, in all its objectives.
    ``deployed``: id, both objectives and architecture; ``how``: whether their x was measured or predicted.
    """

    x: ObjectiveRecord
    y: ObjectiveRecord
    evaluated: pd.DataFrame
    front: pd.DataFrame
    deployed: pd.DataFrame
    how: str

    @property
    def stairs(self) -> pd.DataFrame:
        """The front in these two objectives alone, from the best x on."""
        costs = [o.cost(self.front[o.name].to_numpy(float)) for o in (self.x, self.y)]
        return self.front.iloc[staircase(np.column_stack(costs))]


def tradeoffs(contents: Contents) -> list[Tradeoff]:
    """Of a run's search, by ``pairs``; empty where there is none, or only one objective."""
    if contents.evaluations is None or contents.search is None:
        return []
    return [_tradeoff(contents, x, y) for x, y in pairs(contents.search.objectives)]


def pairs(objectives: Sequence[ObjectiveRecord]) -> list[tuple[ObjectiveRecord, ObjectiveRecord]]:
    """(x, y): the first maximised objective as y against each other one, minimised ones first."""
    y = next((o for o in objectives if o.maximize), objectives[0])
    return [(x, y) for x in sorted((o for o in objectives if o is not y), key=lambda o: o.maximize)]


def staircase(costs: Floats) -> NDArray[np.int64]:
    """Rows of ``costs (n, 2)`` that no other dominates, from the smallest first cost on: a ``Line`` with ``step``."""
    rows = np.flatnonzero(non_dominated(costs))
    return rows[np.argsort(costs[rows, 0], kind="stable")]


def chart(t: Tradeoff, objectives: Sequence[ObjectiveRecord], *, alone: bool) -> Chart:
    """The trade-off as a chart of the page, wide when it is the only one; tips tell all ``objectives``."""
    x_scale, y_scale = _scales(t)

    def points(frame: pd.DataFrame, css: str, tips: list[str], radius: float, legend: str) -> Points:
        xs, ys = _places(t, frame)
        return Points(xs=xs, ys=ys, css=css, tips=tips, radius=radius, legend=legend, diamond=css == "deployed")

    def evaluated_tips(frame: pd.DataFrame) -> list[str]:
        return [_tip(row, objectives) for row in frame.to_dict("records")]

    # some of the evaluated ones, evenly over the search
    few = t.evaluated.iloc[
        np.unique(np.linspace(0, len(t.evaluated) - 1, min(len(t.evaluated), _MOST_POINTS)).astype(int))
    ]
    xs, ys = _places(t, t.stairs)
    layers: list[Points | Line] = [
        points(few, "evaluated", evaluated_tips(few), 3.0, "evaluated"),
        Line(xs=xs, ys=ys, css="front", step=True),
        points(t.front, "front", evaluated_tips(t.front), 4.5, "Pareto front, as predicted"),
    ]
    if len(t.deployed):
        tips = [
            f"{r['id']}: {y_scale.text(r[t.y.name])} validation, {x_scale.text(r[t.x.name])} {t.how} in int8\n"
            + wrapped(str(r["architecture"]))
            for r in t.deployed.to_dict("records")
        ]
        layers.append(points(t.deployed, "deployed", tips, 4.0, f"deployed in int8, {t.how}"))
    return Chart(
        x_label=label(t.x.name, x_scale.unit),
        y_label=label(t.y.name, y_scale.unit),
        layers=layers,
        y_range=_y_range(t, y_scale.factor),
        width=900 if alone else 560,
        height=460 if alone else 340,
    )


def write_pareto(t: Tradeoff, path: Path) -> Path:
    """The trade-off as a picture, ``path``. Raises BadInput when it cannot be written."""
    from matplotlib.figure import Figure

    blue, orange, grey = "#2f6fb3", "#d9690f", "#9aa3ad"
    x_scale, y_scale = _scales(t)
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.add_subplot()
    axes.scatter(*_places(t, t.evaluated), s=12, color=grey, alpha=0.6, lw=0, label="evaluated")
    axes.step(*_places(t, t.stairs), color=blue, lw=1.6, where="post")
    axes.plot(*_places(t, t.front), "o", color=blue, ms=4.5, label="Pareto front (predicted)")
    if len(t.deployed):
        axes.plot(*_places(t, t.deployed), "D", mfc="none", color=orange, ms=5, label=f"deployed in int8 ({t.how})")
    low, high = _y_range(t, y_scale.factor)
    margin = 0.05 * (high - low) or 0.5
    axes.set_ylim(low - margin, high + margin)
    axes.set_xlabel(label(t.x.name, x_scale.unit))
    axes.set_ylabel(label(t.y.name, y_scale.unit))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)  # never over a point
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=140, format="png")
    return path


def wrapped(architecture: str) -> str:
    """An architecture's genes, one line for all that have the same text before a point: ``s1b2: kernel=3 expand=4``."""
    lines: dict[str, list[str]] = {}
    for gene in architecture.split():
        group, point, rest = gene.partition(".")
        known = bool(point) and "=" not in group
        lines.setdefault(f"{group}: " if known else "", []).append(rest if known else gene)
    return "\n".join(group + " ".join(genes) for group, genes in lines.items())


def _tradeoff(contents: Contents, x: ObjectiveRecord, y: ObjectiveRecord) -> Tradeoff:
    frame = contents.evaluations
    assert frame is not None
    evaluated = frame.loc[np.isfinite(frame[[x.name, y.name]].to_numpy(float)).all(axis=1)]
    front = evaluated.loc[evaluated["on_front"].astype(bool)]
    # after a search for another device, what was measured here is not on its axis
    how = "predicted" if TARGET in contents.tables else "measured"
    column = "predicted_target_ms" if how == "predicted" else "measured_int8_ms"
    deployed = pd.DataFrame(columns=["id", x.name, y.name, "architecture"])
    final = contents.final
    if final is not None and (x.name, y.name) == ("latency_ms", "accuracy") and column in final:
        columns = {"id": "id", column: x.name, "int8_val_accuracy": y.name, "architecture": "architecture"}
        deployed = final[list(columns)].rename(columns=columns).dropna()
    return Tradeoff(x=x, y=y, evaluated=evaluated, front=front, deployed=deployed, how=how)


def _places(t: Tradeoff, frame: pd.DataFrame) -> tuple[list[float], list[float]]:
    """Where the rows of ``frame`` are drawn, in the units shown."""
    x_scale, y_scale = _scales(t)
    return list(frame[t.x.name] * x_scale.factor), list(frame[t.y.name] * y_scale.factor)


def _scales(t: Tradeoff) -> tuple[Scale, Scale]:
    return (scale(t.x.unit, [*t.evaluated[t.x.name], *t.deployed[t.x.name]]), scale(t.y.unit, t.evaluated[t.y.name]))


def _y_range(t: Tradeoff, factor: float) -> tuple[float, float]:
    """All of y, but for the worst few where more is better."""
    values, kept = t.evaluated[t.y.name], [*t.front[t.y.name], *t.deployed[t.y.name]]
    if not len(values):
        return 0.0, 1.0
    low = min([float(values.quantile(_OUTLIERS if t.y.maximize else 0.0)), *kept])
    return low * factor, max([float(values.max()), *kept]) * factor


def _tip(row: Mapping[Hashable, Any], objectives: Sequence[ObjectiveRecord]) -> str:
    values = ", ".join(f"{title_of(o.name)} {shown(row[o.name], o.unit)}" for o in objectives)
    return f"#{row['evaluation']:.0f}: {values}\n{wrapped(str(row['architecture']))}"
