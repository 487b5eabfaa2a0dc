"""sweep.html: the trials of a sweep side by side, from their folders alone."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nas.errors import BadInput
from nas.pareto import hypervolume, hypervolume_history, non_dominated
from nas.report.pieces import document, escape, figure, table
from nas.report.svg import Chart
from nas.sweeps.folder import read_sweep

_COLOURS = 8
_FEWEST_SHARED = 20  # architectures evaluated on two devices, below which their rank correlation says nothing
_POINTS = 200  # of a curve


def write_sweep_report(run_dir: str | os.PathLike[str]) -> Path:
    """Write ``sweep.html`` into a sweep's folder; returns its path.

    Trials are grouped by their settings ``device`` and ``searcher`` where they have such; all other settings (seeds, say)
    are repetitions. Raises BadInput when the folder holds no sweep or cannot be written.
    """
    folder = Path(run_dir)
    trials = read_sweep(folder)
    searches = _searches(folder, trials)
    sections = [("Trials", _trials(trials))]
    if searches:
        sections += [
            ("Pareto fronts", _fronts(searches)),
            ("Hypervolume over evaluations", _histories(searches)),
            ("Hypervolume at the end", _final(searches)),
            ("Rank correlation between devices", _correlation(searches)),
        ]
    path = folder / "sweep.html"
    temporary = folder / ".sweep.html.tmp"
    try:
        temporary.write_text(document(f"Sweep: {folder.name}", sections), encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}") from None
    return path


@dataclass(frozen=True, kw_only=True, eq=False)
class _Search:
    """One finished trial that was a search. ``costs (n, 2)``: of its first two objectives, NaN where not good."""

    trial: str
    device: str
    searcher: str
    names: tuple[str, str]
    sign: NDArray[np.float64]
    architectures: tuple[str, ...]
    costs: NDArray[np.float64]


def _searches(folder: Path, trials: pd.DataFrame) -> list[_Search]:
    found = []
    for row in trials[trials["error"] == ""].to_dict("records"):
        place = folder / "trials" / str(row["trial"])
        if not (place / "evaluations.csv").exists():
            continue
        objectives = json.loads((place / "objectives.json").read_text())
        if len(objectives) < 2:
            continue
        frame = pd.read_csv(place / "evaluations.csv", keep_default_na=True)
        sign = np.array([-1.0 if o["maximize"] else 1.0 for o in objectives[:2]])
        names = (objectives[0]["name"], objectives[1]["name"])
        good = (frame["violation"] <= 0) & frame["error"].isna()
        costs = np.where(good.to_numpy()[:, None], frame[list(names)].to_numpy(float) * sign, np.nan)
        found.append(
            _Search(
                trial=str(row["trial"]),
                device=str(row.get("device", "all")),
                searcher=str(row.get("searcher", "all")),
                names=names,
                sign=sign,
                architectures=tuple(frame["architecture"]),
                costs=costs,
            )
        )
    return found


def _trials(trials: pd.DataFrame) -> str:
    failed = trials[trials["error"] != ""]
    text = f"<p>{len(trials)} trials, {len(trials) - len(failed)} finished.</p>"
    if len(failed):
        rows = [[(t, str(t)), (e, str(e))] for t, e in failed[["trial", "error"]].itertuples(index=False)]
        text += table(["failed", "why"], rows)
    shown = trials.drop(columns=["error"])
    rows = [[(v, f"{v:.6g}" if isinstance(v, float) else str(v)) for v in row] for row in shown.itertuples(index=False)]
    return text + f"<details><summary>all trials</summary>{table([str(c) for c in shown], rows)}</details>"


def _fronts(searches: list[_Search]) -> str:
    figures = []
    colours = _colours(searches)
    for device in _devices(searches):
        here = [s for s in searches if s.device == device]
        first, second = here[0].names
        points = {name: _front([s for s in here if s.searcher == name]) for name in colours}
        drawn = {name: p * here[0].sign for name, p in points.items() if len(p)}
        if not drawn:
            continue
        everything = np.vstack(list(drawn.values()))
        # accuracy upwards, the resource along x
        chart = Chart(second, first, _range(everything[:, 1]), _range(everything[:, 0]), title=device)
        for name, front in drawn.items():
            front = front[np.argsort(front[:, 1])]
            chart.line(front[:, 1], front[:, 0], colours[name], step=True)
            tips = [f"{name}: {first} {y:.4g}, {second} {x:.4g}" for y, x in front]
            chart.points(front[:, 1], front[:, 0], colours[name], tips=tips, radius=3.2, legend=name)
        figures.append(figure(chart))
    figures.append(_overlaid(searches))
    return f"<div class='pair'>{''.join(figures)}</div><p class='note'>Fronts over all repetitions.</p>"


def _overlaid(searches: list[_Search]) -> str:
    """The fronts of all devices in one chart, latency relative to the slowest network on each device's front."""
    devices = _devices(searches)
    if len(devices) < 2 or searches[0].sign[1] < 0:
        return ""
    fronts = {d: _front([s for s in searches if s.device == d]) for d in devices}
    fronts = {d: f for d, f in fronts.items() if len(f) and f[:, 1].min() > 0}
    if len(fronts) < 2:
        return ""
    sign = searches[0].sign
    relative = {d: np.column_stack([f[:, 0] * sign[0], f[:, 1] / f[:, 1].max()]) for d, f in fronts.items()}
    everything = np.vstack(list(relative.values()))
    first, second = searches[0].names
    chart = Chart(
        f"{second}, share of the slowest on the front", first, (0.0, 1.0), _range(everything[:, 0]), title="all devices"
    )
    for i, (device, front) in enumerate(relative.items()):
        front = front[np.argsort(front[:, 1])]
        chart.line(front[:, 1], front[:, 0], f"s{i % _COLOURS}", step=True)
        chart.points(front[:, 1], front[:, 0], f"s{i % _COLOURS}", radius=2.6, legend=device)
    return figure(chart)


def _histories(searches: list[_Search]) -> str:
    figures = []
    colours = _colours(searches)
    for device in _devices(searches):
        here = [s for s in searches if s.device == device]
        curves = _normalised_histories(here)
        longest = max(len(c) for c in curves.values())
        lowest = min(float(c[len(c) // 10]) for c in curves.values())
        chart = Chart("evaluations", "hypervolume (share of the best known)", (0, longest), (lowest, 1.0), title=device)
        for name, css in colours.items():
            runs = [curves[s.trial] for s in here if s.searcher == name]
            if not runs:
                continue
            length = min(len(r) for r in runs)
            at = np.unique(np.linspace(0, length - 1, min(length, _POINTS)).astype(int))
            stacked = np.array([r[at] for r in runs])
            xs = list((at + 1).astype(float))
            chart.area(xs, list(stacked.min(axis=0)), list(stacked.max(axis=0)), css)
            chart.line(xs, np.median(stacked, axis=0), css, legend=f"{name} ({len(runs)})")
        figures.append(figure(chart))
    note = "Lines: medians over the repetitions (their number in brackets); areas: from the worst to the best of them."
    return f"<div class='pair'>{''.join(figures)}</div><p class='note'>{note}</p>"


def _final(searches: list[_Search]) -> str:
    rows = []
    names = list(_colours(searches))
    for device in _devices(searches):
        here = [s for s in searches if s.device == device]
        curves = _normalised_histories(here)
        cells: list[tuple[object, str]] = [(device, device)]
        for name in names:
            last = np.array([curves[s.trial][-1] for s in here if s.searcher == name])
            spread = f" ± {last.std(ddof=1):.4f}" if len(last) > 1 else ""
            cells.append((last.mean() if len(last) else 0, f"{last.mean():.4f}{spread}" if len(last) else "-"))
        rows.append(cells)
    note = "Mean and standard deviation over repetitions; 1 is the front of all trials on the device together."
    return table(["device", *names], rows) + f"<p class='note'>{note}</p>"


def _correlation(searches: list[_Search]) -> str:
    from scipy.stats import kendalltau

    devices = _devices(searches)
    values: Mapping[str, dict[str, float]] = {d: {} for d in devices}
    for s in searches:
        values[s.device].update(zip(s.architectures, s.costs[:, 1], strict=True))
    taus = {}
    for a, b in combinations(devices, 2):
        shared = [k for k in values[a].keys() & values[b].keys() if np.isfinite(values[a][k] + values[b][k])]
        if len(shared) >= _FEWEST_SHARED:
            tau = kendalltau([values[a][k] for k in shared], [values[b][k] for k in shared]).statistic
            taus[a, b] = taus[b, a] = float(tau)
    if not taus:
        return "<p class='missing'>No two devices share enough evaluated architectures.</p>"
    rows = []
    for a in devices:
        cells = "".join(_heat(1.0 if a == b else taus.get((a, b))) for b in devices)
        rows.append(f"<tr><td>{escape(a)}</td>{cells}</tr>")
    head = "".join(f"<th>{escape(d)}</th>" for d in devices)
    note = (
        f"Kendall tau of {escape(searches[0].names[1])} over the architectures that were evaluated on both devices: "
        "where it is low, a network that is fast on one is not on the other."
    )
    return (
        f"<div class='scroll'><table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        f"<p class='note'>{note}</p>"
    )


def _heat(tau: float | None) -> str:
    if tau is None or not np.isfinite(tau):
        return "<td>-</td>"
    share = round(100 * max(tau, 0) * 0.6)
    return f"<td style='background:color-mix(in srgb,var(--blue) {share}%,transparent)'>{tau:.2f}</td>"


def _normalised_histories(here: list[_Search]) -> dict[str, NDArray[np.float64]]:
    """Per trial of one device the hypervolume after each evaluation, 1 being that of all trials together."""
    front = _front(here)
    low, span = front.min(axis=0), np.ptp(front, axis=0)
    span[span == 0] = 1.0
    whole = hypervolume((front - low) / span, (1.1, 1.1))
    return {s.trial: hypervolume_history((s.costs - low) / span, (1.1, 1.1)) / whole for s in here}


def _front(searches: list[_Search]) -> NDArray[np.float64]:
    costs = np.vstack([s.costs for s in searches]) if searches else np.empty((0, 2))
    return np.unique(costs[non_dominated(costs)], axis=0) if len(costs) else costs


def _devices(searches: list[_Search]) -> list[str]:
    return list(dict.fromkeys(s.device for s in searches))


def _colours(searches: list[_Search]) -> dict[str, str]:
    return {name: f"s{i % _COLOURS}" for i, name in enumerate(dict.fromkeys(s.searcher for s in searches))}


def _range(values: NDArray[np.float64]) -> tuple[float, float]:
    return float(values.min()), float(values.max())
