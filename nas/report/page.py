"""report.html: what a run folder tells, on one self-contained page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nas.checks import FilePath, checked
from nas.report import tradeoff
from nas.report.chart import Area, Chart, Line, Points
from nas.report.document import Cell, Section, Table, write_page
from nas.report.explain import FEWEST_ROWS, diversity, importance
from nas.runs import artefacts
from nas.runs.artefacts import Contents, StepRecord
from nas.units import Scale, scale, shown, title_of

REPORT, PICTURE = "report.html", "pareto.png"
_MOST_GENES = 12  # of which the importance is shown


@checked
def write_report(run_dir: FilePath) -> Path:
    """Write ``pareto.png`` and ``report.html`` into the run folder; returns the page's path.

    Sections whose artefacts are missing say which command makes them. Raises BadInput when the folder holds nothing
    to report or a damaged file, or cannot be written.
    """
    contents = artefacts.read_run(run_dir)
    sections = [make(contents) for make in _SECTIONS]
    pairs = tradeoff.tradeoffs(contents)
    if pairs:
        tradeoff.write_pareto(pairs[0], contents.folder / PICTURE)
    config = contents.config
    title = f"{config.space.name} on {config.data.name}" if config else contents.folder.absolute().name
    return write_page(contents.folder / REPORT, title, sections)


def _summary(c: Contents) -> Section:
    facts = {}
    if c.final is not None and len(c.final):
        f = c.final
        best = f[f["id"].astype(str) == artefacts.best_of(f)].iloc[0]
        fast = f.sort_values("measured_int8_ms").iloc[0]
        faster = f["speedup_int8"]
        facts = {
            "deployed": f"{len(f)} networks, {int(f['on_final_front'].sum())} of them on the final front",
            "most accurate": f"{best['id']}: {_pct(best['int8_test_accuracy'])} of the test images in int8, "
            f"{_ms(best['measured_int8_ms'])} measured (fp32: {_pct(best['fp32_test_accuracy'])}, "
            f"{_ms(best['measured_fp32_ms'])}); chosen on the validation images",
            "fastest": f"{fast['id']}: {_ms(fast['measured_int8_ms'])} measured, {_pct(fast['int8_test_accuracy'])} of the "
            "test images in int8",
            "int8 for fp32": f"faster for {(faster > 1).sum()} of {len(f)}, between {faster.min():.2f} and "
            f"{faster.max():.2f} times: small networks spend their time on calls, not on arithmetic",
        }
    elif c.evaluations is not None:
        front = int(c.evaluations["on_front"].sum())
        facts = {"search": f"{len(c.evaluations)} networks were evaluated, {front} are on the front"}
    for name, table in c.tables.items():
        v = table.validation
        if v:
            facts[f"table {name}"] = (
                f"predicts {v.networks} networks it has not seen with a mean error of {_pct(v.mape)} "
                f"(Kendall tau {v.kendall_tau:.3f})"
            )
    return Section(title="Summary", facts=facts, missing=None if facts else ("a finished stage", "nas quickstart"))


_UNITS = {"share": "fraction", "ms": "ms", "bytes": "bytes", "macs": "MACs"}


def _column(kind: str, values: pd.Series) -> list[Cell]:
    """A column of the final table, numbers in one unit."""
    if kind == "text":
        return [Cell(text=str(v)) for v in values]
    if kind == "flag":
        return [Cell(text="●" if v else "", value=int(v)) for v in values]
    s = (
        scale(_UNITS[kind], values)
        if kind in _UNITS
        else Scale(unit="x" if kind == "ratio" else "", digits=2 if kind == "ratio" else 0)
    )
    return [Cell(text="-" if v != v else s.text(v), value=v) for v in values]


def _deployed(c: Contents) -> Section:
    title = "Deployed networks"
    failed = [f"{f.id} could not be deployed: {f.error}" for f in c.failures]
    if c.final is None:
        return Section(title=title, missing=(artefacts.FINAL_TABLE, "nas compress"), notes=failed)
    final = c.final
    there = [column for column in artefacts.FINAL if column.name in final]
    rows = list(zip(*(_column(column.kind, final[column.name]) for column in there), strict=True))
    note = (
        "From the supernet's shared weights to the int8 file as it is deployed. Latencies in the two 'meas.' columns were "
        "taken side by side in the end; validation accuracy chose the networks, the test images were used for this table "
        "only. Click a heading to sort."
    )
    return Section(
        title=title, tables=[Table(head=[column.title for column in there], rows=rows)], notes=[*failed, note]
    )


def _front(c: Contents) -> Section:
    title = "The Pareto front"
    if c.evaluations is None or c.search is None:
        return Section(title=title, missing=(artefacts.EVALUATIONS, "nas search"))
    found = tradeoff.tradeoffs(c)
    charts = [tradeoff.chart(t, c.search.objectives, alone=len(found) == 1) for t in found]
    front = c.evaluations[c.evaluations["on_front"].astype(bool)]
    scales = {o.name: scale(o.unit, front[o.name]) for o in c.search.objectives}
    rows: list[list[Cell | str]] = [
        [
            f"{row['evaluation']:.0f}",
            *(Cell(text=s.text(row[name]), value=row[name]) for name, s in scales.items()),
            str(row["architecture"]),
        ]
        for row in front.to_dict("records")
    ]
    head = ["evaluation", *map(title_of, scales), "architecture"]
    best = " and ".join(f"{'more' if o.maximize else 'less'} {title_of(o.name)}" for o in c.search.objectives)
    return Section(
        title=title,
        charts=charts,
        tables=[Table(head=head, rows=rows, folded=f"the {len(front)} networks of the front")],
        notes=[f"Better is {best}. Hover or tab over a point for its architecture."],
    )


def _latency(c: Contents) -> Section:
    title = "Predicted and measured latency"
    if not c.networks:
        return Section(title=title, missing=("table_*_networks.csv", "nas measure"))
    note = (
        "On the diagonal the table is right; the band is ±10%. Only networks that the calibration has not seen count."
    )
    return Section(title=title, charts=[_diagonal(c, name, frame) for name, frame in c.networks.items()], notes=[note])


def _diagonal(c: Contents, name: str, frame: pd.DataFrame) -> Chart:
    columns = ["id", f"predicted_{name}_ms", f"measured_{name}_ms"]
    known = c.final is not None and set(columns) <= set(c.final.columns)
    deployed = c.final[columns].dropna().to_numpy() if c.final is not None and known else np.empty((0, 3))
    both = [*frame[["predicted_ms", "measured_ms"]].to_numpy().ravel(), *deployed[:, 1:].ravel()]
    s = scale("ms", both)
    low, high = float(np.nanmin(both)) * s.factor, float(np.nanmax(both)) * s.factor
    ends = [0.0, 2 * high]
    layers: list[Area | Line | Points] = [
        Area(xs=ends, lows=[0.0, 1.8 * high], highs=[0.0, 2.2 * high], css="front", legend="±10%"),
        Line(xs=ends, ys=ends, css="evaluated"),
    ]
    groups = (("calibrate", "evaluated", "used to calibrate"), ("validate", "front", "not seen before"))
    for role, css, legend in groups:
        part = frame[frame["role"] == role]
        tips = [
            f"{_ms(r['measured_ms'])} measured, {_ms(r['predicted_ms'])} predicted\n"
            + tradeoff.wrapped(str(r["architecture"]))
            for r in part.to_dict("records")
        ]
        xs, ys = list(part["predicted_ms"] * s.factor), list(part["measured_ms"] * s.factor)
        layers.append(Points(xs=xs, ys=ys, css=css, tips=tips, legend=legend))
    if len(deployed):
        layers.append(
            Points(
                xs=list(deployed[:, 1] * s.factor),
                ys=list(deployed[:, 2] * s.factor),
                css="deployed",
                diamond=True,
                legend="deployed",
                tips=[f"{i}: {_ms(m)} measured, {_ms(p)} predicted" for i, p, m in deployed],
            )
        )
    return Chart(
        x_label=f"predicted ({s.unit})",
        y_label=f"measured ({s.unit})",
        layers=layers,
        title=name,
        x_range=(low, high),
        y_range=(low, high),
    )


def _progress(c: Contents) -> Section:
    title = "Search progress"
    if c.hypervolume is None or not len(c.hypervolume):
        return Section(title=title, missing=(artefacts.HYPERVOLUME, "nas search"))
    volume = c.hypervolume["hypervolume"]
    line = Line(xs=list(c.hypervolume["evaluations"]), ys=list(volume / (volume.max() or 1)), css="front", step=True)
    chart = Chart(
        x_label="evaluations", y_label="hypervolume (share of the final one)", layers=[line], width=900, height=300
    )
    note = "How fast the front grew; a curve that is flat at its end says that more evaluations would add little."
    return Section(title=title, charts=[chart], notes=[note])


def _what_matters(c: Contents) -> Section:
    title = "What matters"
    if c.evaluations is None or c.search is None:
        return Section(title=title, missing=(artefacts.EVALUATIONS, "nas search"))
    found = {o.name: importance(c.evaluations, o.name) for o in c.search.objectives}
    known = {name: f for name, f in found.items() if f.believable}
    genes = {gene: [f.share.get(gene, 0.0) for f in known.values()] for f in known.values() for gene in f.share}
    most = sorted(genes, key=lambda gene: -max(genes[gene]))[:_MOST_GENES]
    rows: list[list[Cell | str]] = [
        [g, *(Cell(text=f"{v:.2f}", value=v, shade=min(v, 1.0)) for v in genes[g])] for g in most
    ]
    head = ["gene", *(f"{title_of(name)} (R² {f.r2:.2f})" for name, f in known.items())]
    notes = [
        f"{name}: {f.rows} evaluated networks are too few to tell genes apart."
        if f.rows < FEWEST_ROWS
        else f"{name}: a random forest explains too little of it (R² {f.r2:.2f}) to tell genes apart."
        for name, f in found.items()
        if not f.believable
    ]
    text = []
    spread = diversity(c.evaluations)
    if spread:
        settled = [g for g, (front, _) in spread.values.items() if front == 1]
        agreed = f"The front agrees on {len(settled)} of {len(spread.values)}: {', '.join(settled)}."
        text.append(
            f"Two networks of the front differ in {_pct(spread.distance)} of their genes on average, two evaluated ones in "
            f"{_pct(spread.of_all)}. {agreed if settled else 'No gene has the same value in all of them.'}"
        )
    if known:
        notes.append(
            "R² lost when the gene is shuffled: permutation importance in a random forest over the evaluated networks, on "
            "held-out fifths of them. In brackets the R² with all genes as they are."
        )
    return Section(title=title, text=text, tables=[Table(head=head, rows=rows)] if known else [], notes=notes)


def _training(c: Contents) -> Section:
    title = "Supernet training"
    t = c.training
    if t is None or not len(t):
        return Section(title=title, missing=(artefacts.TRAINING, "nas train"))
    loss = Line(xs=list(t["epoch"]), ys=list(t["loss"]), css="front")
    charts = [Chart(x_label="epoch", y_label="training loss (largest subnet)", layers=[loss], title="loss")]
    layers: list[Line | Points] = []
    for name, css in (("largest", "front"), ("smallest", "deployed")):
        if f"accuracy_{name}" in t:
            known = t[t[f"accuracy_{name}"].notna()]
            xs, ys = list(known["epoch"]), list(known[f"accuracy_{name}"] * 100)
            layers += [Line(xs=xs, ys=ys, css=css), Points(xs=xs, ys=ys, css=css, radius=3, legend=f"{name} subnet")]
    if any(len(layer.xs) for layer in layers):
        charts.append(Chart(x_label="epoch", y_label="validation accuracy (%)", layers=layers, title="accuracy"))
    note = "All subnets share these weights. Largest and smallest should end close to each other, and level."
    return Section(title=title, charts=charts, notes=[note])


def _steps(c: Contents) -> Section:
    title = "Compression, step by step"
    if not c.candidates:
        return Section(title=title, missing=(f"{artefacts.CANDIDATES}/", "nas compress"))
    head = ["network", "step", "precision", "val. accuracy", "MACs", "size", "predicted", "measured", "note"]
    rows = [_step_row(candidate.id, step) for candidate in c.candidates for step in candidate.steps]
    note = (
        "Each network after every step. Predictions of pruned networks are interpolated between measured blocks; the ± is "
        "the table's own estimate of its error."
    )
    return Section(
        title=title,
        tables=[Table(head=head, rows=rows, folded=f"{len(rows)} steps of {len(c.candidates)} networks")],
        notes=[note],
    )


def _step_row(network: str, step: StepRecord) -> list[Cell | str]:
    error = "" if step.predicted_error is None else f" ±{_pct(step.predicted_error)}"
    return [
        network,
        step.step,
        step.precision,
        Cell(text=_pct(step.accuracy), value=step.accuracy),
        Cell(text=shown(step.macs, "MACs"), value=step.macs),
        Cell(text=shown(step.size_bytes, "bytes"), value=step.size_bytes),
        Cell(text=_ms(step.predicted_ms) + error, value=step.predicted_ms or 0),
        Cell(text=_ms(step.measured_ms), value=step.measured_ms or 0),
        step.note,
    ]


def _tables(c: Contents) -> Section:
    title = "Latency tables"
    if not c.tables:
        return Section(title=title, missing=("table_*.json", "nas measure"))
    head = ["table", "kind", "chip", "runtime", "batch", "threads", "date"]
    head += ["unseen networks", "Kendall tau", "mean error", "within 10%"]
    rows = []
    for name, table in c.tables.items():
        d, v = table.device, table.validation
        about = [name, table.kind, d.chip, f"{d.runtime} {d.version}", d.batch, d.threads, table.date]
        checked = [v.networks, v.kendall_tau, _pct(v.mape), _pct(v.within_10pct)] if v else ["-"] * 4
        rows.append([str(x) for x in [*about, *checked]])
    return Section(title=title, tables=[Table(head=head, rows=rows)])


def _repeating(c: Contents) -> Section:
    title = "How to repeat this run"
    if c.config is None:
        return Section(title=title, missing=(artefacts.CONFIG, "nas quickstart"))
    config, machine = c.config, c.config.environment
    data, space = config.data, config.space
    facts = {
        "command": config.command,
        "started": config.created,
        "seconds": ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in c.seconds.items()),
        "space": f"{space.name}: {float(space.size):.3g} networks from {space.blocks} blocks ({space.fingerprint})",
        "data": f"{data.source}: {data.train} training, {data.val} validation, {data.test} test images ({data.fingerprint})",
        "classes": ", ".join(data.classes),
        "remarks": "; ".join(data.notes),
        "machine": f"{machine.cpu}, {machine.cores} cores, {machine.memory_gb} GB, {machine.platform}",
        "versions": ", ".join(f"{k} {v}" for k, v in {"Python": machine.python, **machine.packages}.items()),
        "settings": ", ".join(f"{k} {v}" for k, v in asdict(config.settings).items() if v is not None),
    }
    return Section(title=title, facts={k: v for k, v in facts.items() if v})


_SECTIONS: Sequence[Callable[[Contents], Section]] = (
    _summary,
    _deployed,
    _front,
    _latency,
    _progress,
    _what_matters,
    _training,
    _steps,
    _tables,
    _repeating,
)


def _pct(value: Any) -> str:
    return shown(value, "fraction")


def _ms(value: Any) -> str:
    return shown(value, "ms")
