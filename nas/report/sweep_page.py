"""sweep.html: the trials of a sweep side by side, from their folders alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from nas.objectives.objective import ObjectiveRecord
from nas.pareto import hypervolume, hypervolume_history, non_dominated
from nas.report.chart import Area, Chart, Line, Points
from nas.report.document import Cell, Section, Table, write_page
from nas.report.tradeoff import pairs, staircase
from nas.runs.artefacts import EVALUATIONS, read_run
from nas.space import Floats
from nas.sweeps.folder import read_sweep
from nas.units import label, scale, title_of

_COLOURS = 8  # that the style sheet has
_FEWEST_SHARED = 20  # architectures evaluated on two devices, below which their rank correlation says nothing
_CURVE_POINTS = 200
REPORT = "sweep.html"


def write_sweep_report(run_dir: str | os.PathLike[str]) -> Path:
    """Write ``sweep.html`` into a sweep's folder; returns its path.

    Trials are grouped by their settings ``device`` and ``searcher`` where they have such; all other settings (seeds, say)
    are repetitions. Raises BadInput when the folder holds no sweep or a damaged file, or cannot be written.
    """
    folder = Path(run_dir)
    trials = read_sweep(folder)
    sections = [_trials(trials)]
    searches = _searches(folder, trials)
    if searches:
        sweep = _Sweep(searches=tuple(searches))
        sections += [_fronts(sweep), _histories(sweep), _final(sweep), _correlation(sweep)]
    return write_page(folder / REPORT, f"Sweep: {folder.absolute().name}", sections)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Search:
    """One finished trial that was a search. ``costs (n, k)``: smaller is better, NaN where a row is not good."""

    trial: str
    device: str
    searcher: str
    objectives: tuple[ObjectiveRecord, ...]
    architectures: tuple[str, ...]
    costs: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class _Sweep:
    """The searches of a sweep that have the objectives of the first."""

    searches: tuple[_Search, ...]

    @property
    def objectives(self) -> tuple[ObjectiveRecord, ...]:
        return self.searches[0].objectives

    @property
    def devices(self) -> list[str]:
        return list(dict.fromkeys(s.device for s in self.searches))

    @property
    def colours(self) -> dict[str, str]:
        """Of the searchers."""
        return {name: f"s{i % _COLOURS}" for i, name in enumerate(dict.fromkeys(s.searcher for s in self.searches))}

    def of(self, device: str, searcher: str | None = None) -> list[_Search]:
        return [s for s in self.searches if s.device == device and searcher in (None, s.searcher)]

    def front(self, searches: list[_Search], x: ObjectiveRecord, y: ObjectiveRecord) -> Floats:
        """The staircase of several searches in two objectives, ``(n, 2)``, in their own direction and unit."""
        columns = [self.objectives.index(o) for o in (x, y)]
        costs = np.vstack([np.empty((0, 2)), *(s.costs[:, columns] for s in searches)])
        return _turned(costs[staircase(costs)], (x, y))


def _searches(folder: Path, trials: pd.DataFrame) -> list[_Search]:
    found: list[_Search] = []
    for row in trials[trials["error"] == ""].to_dict("records"):
        place = folder / "trials" / str(row["trial"])
        if not (place / EVALUATIONS).exists():
            continue
        contents = read_run(place)
        frame = contents.evaluations
        if frame is None or contents.search is None or len(contents.search.objectives) < 2:
            continue
        objectives = contents.search.objectives
        if found and _quantities(objectives) != _quantities(found[0].objectives):
            continue
        good = ((frame["violation"] <= 0) & frame["error"].isna()).to_numpy()
        values = frame[[o.name for o in objectives]].to_numpy(float)
        found.append(
            _Search(
                trial=str(row["trial"]),
                device=str(row.get("device", "all")),
                searcher=str(row.get("searcher", "all")),
                objectives=objectives,
                architectures=tuple(frame["architecture"]),
                costs=np.where(good[:, None], _turned(values, objectives), np.nan),
            )
        )
    return found


def _trials(trials: pd.DataFrame) -> Section:
    failed = trials[trials["error"] != ""]
    shown = trials.drop(columns=["error"])
    rows = [
        [Cell(text=f"{v:.6g}", value=v) if isinstance(v, float) else str(v) for v in row]
        for row in shown.itertuples(index=False)
    ]
    tables = [Table(head=[str(c) for c in shown], rows=rows, folded="all trials")]
    if len(failed):
        why = [[str(trial), str(error)] for trial, error in failed[["trial", "error"]].itertuples(index=False)]
        tables.insert(0, Table(head=["failed", "why"], rows=why))
    return Section(title="Trials", text=[f"{len(trials)} trials, {len(trials) - len(failed)} finished."], tables=tables)


def _fronts(sweep: _Sweep) -> Section:
    charts = []
    for x, y in pairs(sweep.objectives):
        for device in sweep.devices:
            fronts = {name: sweep.front(sweep.of(device, name), x, y) for name in sweep.colours}
            charts += _front_chart(fronts, sweep.colours, x, y, device)
    charts += _overlaid(sweep)
    return Section(title="Pareto fronts", charts=charts, notes=["Fronts over all repetitions."])


def _front_chart(
    fronts: Mapping[str, Floats], colours: Mapping[str, str], x: ObjectiveRecord, y: ObjectiveRecord, title: str
) -> list[Chart]:
    """One chart of several fronts ``(n, 2)``; none when all are empty."""
    fronts = {name: front for name, front in fronts.items() if len(front)}
    if not fronts:
        return []
    everything = np.vstack(list(fronts.values()))
    x_scale, y_scale = scale(x.unit, everything[:, 0]), scale(y.unit, everything[:, 1])
    layers: list[Line | Points] = []
    for name, front in fronts.items():
        xs, ys = list(front[:, 0] * x_scale.factor), list(front[:, 1] * y_scale.factor)
        tips = [f"{name}: {title_of(y.name)} {y_scale.text(b)}, {title_of(x.name)} {x_scale.text(a)}" for a, b in front]
        layers.append(Line(xs=xs, ys=ys, css=colours[name], step=True))
        layers.append(Points(xs=xs, ys=ys, css=colours[name], tips=tips, radius=3.2, legend=name))
    return [Chart(x_label=label(x.name, x_scale.unit), y_label=label(y.name, y_scale.unit), layers=layers, title=title)]


def _overlaid(sweep: _Sweep) -> list[Chart]:
    """The fronts of all devices in one chart, x relative to the largest on each device's front."""
    x, y = pairs(sweep.objectives)[0]
    fronts = {d: sweep.front(sweep.of(d), x, y) for d in sweep.devices}
    fronts = {
        d: front / [front[:, 0].max(), 1.0] for d, front in fronts.items() if len(front) and front[:, 0].min() > 0
    }
    if len(fronts) < 2 or x.maximize:
        return []
    colours = {d: f"s{i % _COLOURS}" for i, d in enumerate(fronts)}
    share = ObjectiveRecord(name=f"{title_of(x.name)}, share of the most on the front", unit="fraction")
    return _front_chart(fronts, colours, share, y, "all devices")


def _histories(sweep: _Sweep) -> Section:
    charts = []
    for device in sweep.devices:
        curves = _normalised_histories(sweep.of(device))
        layers: list[Area | Line] = []
        for name, css in sweep.colours.items():
            runs = [curves[s.trial] for s in sweep.of(device, name)]
            if not runs:
                continue
            length = min(len(r) for r in runs)
            at = np.unique(np.linspace(0, length - 1, min(length, _CURVE_POINTS)).astype(int))
            stacked = np.array([r[at] for r in runs])  # (runs, points)
            xs = list((at + 1).astype(float))
            layers.insert(0, Area(xs=xs, lows=list(stacked.min(axis=0)), highs=list(stacked.max(axis=0)), css=css))
            layers.append(Line(xs=xs, ys=list(np.median(stacked, axis=0)), css=css, legend=f"{name} ({len(runs)})"))
        charts.append(
            Chart(
                x_label="evaluations",
                y_label="hypervolume (share of the best known)",
                layers=layers,
                title=device,
                # the first evaluations find nothing, and would flatten the rest
                y_range=(min(float(c[len(c) // 10]) for c in curves.values()), 1.0),
            )
        )
    note = "Lines: medians over the repetitions (their number in brackets); areas: from the worst to the best of them."
    return Section(title="Hypervolume over evaluations", charts=charts, notes=[note])


def _final(sweep: _Sweep) -> Section:
    found = _final_hypervolumes(sweep)
    rows: list[list[Cell | str]] = []
    for device in sweep.devices:
        row: list[Cell | str] = [device]
        for name in sweep.colours:
            last = found[(found["device"] == device) & (found["searcher"] == name)]["hypervolume"]
            row.append(Cell(text=spread(last), value=last.mean()) if len(last) else Cell(text="-", value=0))
        rows.append(row)
    note = "Mean and standard deviation over repetitions; 1 is the front of all trials on the device together."
    table = Table(head=["device", *sweep.colours], rows=rows)
    return Section(title="Hypervolume at the end", tables=[table], notes=[note])


def final_hypervolumes(run_dir: str | os.PathLike[str]) -> pd.DataFrame:
    """Trial, device, searcher and hypervolume, a row per finished search of a sweep's folder.

    Hypervolumes are shares of that of all trials on the device together. Raises BadInput as ``write_sweep_report``.
    """
    return _final_hypervolumes(_Sweep(searches=tuple(_searches(Path(run_dir), read_sweep(run_dir)))))


def spread(values: pd.Series) -> str:
    """Mean and standard deviation of repetitions, as text."""
    return f"{values.mean():.4f}" + (f" ± {values.std(ddof=1):.4f}" if len(values) > 1 else "")


def _final_hypervolumes(sweep: _Sweep) -> pd.DataFrame:
    curves = {k: v for device in sweep.devices for k, v in _normalised_histories(sweep.of(device)).items()}
    rows = [(s.trial, s.device, s.searcher, curves[s.trial][-1]) for s in sweep.searches]
    return pd.DataFrame(rows, columns=["trial", "device", "searcher", "hypervolume"])


def _correlation(sweep: _Sweep) -> Section:
    from scipy.stats import kendalltau

    title = "Rank correlation between devices"
    x, _ = pairs(sweep.objectives)[0]
    column = sweep.objectives.index(x)
    values: dict[str, dict[str, float]] = {d: {} for d in sweep.devices}
    for s in sweep.searches:
        values[s.device].update(zip(s.architectures, s.costs[:, column], strict=True))
    taus: dict[tuple[str, str], float] = {}
    for a, b in combinations(sweep.devices, 2):
        shared = [k for k in values[a].keys() & values[b].keys() if np.isfinite(values[a][k] + values[b][k])]
        if len(shared) >= _FEWEST_SHARED:
            tau = kendalltau([values[a][k] for k in shared], [values[b][k] for k in shared]).statistic
            taus[a, b] = taus[b, a] = float(tau)
    if not taus:
        return Section(title=title, notes=["No two devices share enough evaluated architectures."])
    rows: list[list[Cell | str]] = [
        [a, *(_heat(1.0 if a == b else taus.get((a, b))) for b in sweep.devices)] for a in sweep.devices
    ]
    note = (
        f"Kendall tau of {title_of(x.name)} over the architectures that were evaluated on both devices: where it is low, a "
        "network that is good on one is not on the other."
    )
    return Section(title=title, tables=[Table(head=["", *sweep.devices], rows=rows)], notes=[note])


def _heat(tau: float | None) -> Cell:
    if tau is None or not np.isfinite(tau):
        return Cell(text="-", value=-2)
    return Cell(text=f"{tau:.2f}", value=tau, shade=max(tau, 0.0))


def _normalised_histories(searches: list[_Search]) -> dict[str, Floats]:
    """Per trial of one device the hypervolume after each evaluation, 1 being that of all trials together."""
    costs = np.vstack([s.costs for s in searches])
    front = costs[non_dominated(costs)]
    if not len(front):
        return {s.trial: np.zeros(len(s.costs)) for s in searches}
    low, span = front.min(axis=0), np.ptp(front, axis=0)
    span[span == 0] = 1.0
    reference = np.full(costs.shape[1], 1.1)
    whole = hypervolume((front - low) / span, reference)
    return {s.trial: hypervolume_history((s.costs - low) / span, reference) / whole for s in searches}


def _quantities(objectives: tuple[ObjectiveRecord, ...]) -> list[tuple[str, str, bool]]:
    """What is compared across devices: each has a table of its own."""
    return [(o.name, o.unit, o.maximize) for o in objectives]


def _turned(values: Floats, objectives: tuple[ObjectiveRecord, ...]) -> Floats:
    """``values (n, objectives)`` as costs, or such costs as values."""
    return np.column_stack([o.cost(column) for o, column in zip(objectives, values.T, strict=True)])
