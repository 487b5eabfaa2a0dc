"""report.html: one self-contained page that opens offline."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nas.errors import BadInput
from nas.report.explain import FEWEST_ROWS, diversity, importance
from nas.report.figures import axes_columns, label, scale, write_pareto
from nas.report.folder import Contents, read_folder
from nas.report.pieces import document, escape, figure, table
from nas.report.svg import Chart, bars


def write_report(run_dir: str | os.PathLike[str]) -> Path:
    """Write ``pareto.png`` and ``report.html`` into the run folder; returns the page's path.

    Sections whose artefacts are missing say which command makes them. Raises BadInput when the folder holds nothing
    to report or a damaged file, or cannot be written.
    """
    contents = read_folder(run_dir)
    path = contents.folder / "report.html"
    temporary = contents.folder / ".report.html.tmp"
    try:
        write_pareto(contents)
        temporary.write_text(page(contents), encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}") from None
    return path


def page(contents: Contents) -> str:
    """The HTML of a run."""
    config = contents.config or {}
    name = f"{config.get('space', {}).get('name', 'Search')} on {config.get('data', {}).get('name', 'images')}"
    sections = [
        ("Summary", _summary(contents)),
        ("Deployed networks", _final(contents)),
        ("Accuracy against latency", _pareto(contents)),
        ("Predicted and measured latency", _latency(contents)),
        ("Search progress", _hypervolume(contents)),
        ("What matters", _what_matters(contents)),
        ("Supernet training", _training(contents)),
        ("Compression, step by step", _steps(contents)),
        ("Latency tables", _tables(contents)),
        ("How to repeat this run", _environment(contents)),
    ]
    return document(name, sections)


# --------------------------------------------------------------------------------------------------------------
# Sections


def _summary(c: Contents) -> str:
    text = []
    if c.final is not None and len(c.final):
        front = c.final[c.final["on_final_front"].astype(bool)]
        best = c.final.sort_values(["int8_val_accuracy", "measured_int8_ms"], ascending=[False, True]).iloc[0]
        fast = c.final.sort_values("measured_int8_ms").iloc[0]
        text.append(
            f"{len(c.final)} networks were deployed, {len(front)} of them on the final front. The most accurate on the "
            f"validation images, <b>{escape(best['id'])}</b>, reaches <b>{_pct(best['int8_test_accuracy'])}</b> on the test "
            f"images in int8 ({_pct(best['fp32_test_accuracy'])} in fp32) and takes <b>{_ms(best['measured_int8_ms'])}</b> "
            f"measured ({_ms(best['measured_fp32_ms'])} in fp32). The fastest, <b>{escape(fast['id'])}</b>, takes "
            f"{_ms(fast['measured_int8_ms'])} at {_pct(fast['int8_test_accuracy'])}."
        )
        faster = c.final["speedup_int8"] > 1
        text.append(
            f"int8 is faster than fp32 for {faster.sum()} of {len(c.final)} (between {c.final['speedup_int8'].min():.2f} "
            f"and {c.final['speedup_int8'].max():.2f} times): small networks spend their time on calls, not on arithmetic."
        )
    elif c.evaluations is not None:
        text.append(
            f"{len(c.evaluations)} networks were evaluated, {int(c.evaluations['on_front'].sum())} are on the front."
        )
    for precision, latency_table in c.tables.items():
        v = latency_table.get("validation")
        if v:
            text.append(
                f"The {escape(precision)} table predicts {v['networks']} networks it has not seen with a mean error of "
                f"{_pct(v['mape'])} (Kendall tau {v['kendall_tau']:.3f})."
            )
    return "".join(f"<p>{t}</p>" for t in text) or _missing("a finished stage", "nas quickstart")


def _final(c: Contents) -> str:
    if c.final is None:
        return _missing("final.csv", "nas compress")
    f = c.final
    columns: list[tuple[str, str, Any]] = [
        ("network", "id", str),
        ("front", "on_final_front", lambda v: "●" if v else ""),
        ("supernet", "supernet_accuracy", _pct),
        ("fp32 val.", "fp32_val_accuracy", _pct),
        ("int8 val.", "int8_val_accuracy", _pct),
        ("fp32 test", "fp32_test_accuracy", _pct),
        ("int8 test", "int8_test_accuracy", _pct),
        ("int8 pred.", "predicted_int8_ms", _ms),
        ("int8 meas.", "measured_int8_ms", _ms),
        ("fp32 pred.", "predicted_fp32_ms", _ms),
        ("fp32 meas.", "measured_fp32_ms", _ms),
        ("target pred.", "predicted_target_ms", _ms),
        ("fp32/int8", "speedup_int8", lambda v: f"{v:.2f}x"),
        ("MMACs", "macs", lambda v: f"{v / 1e6:.2f}"),
        ("int8 size", "int8_bytes", _bytes),
        ("peak SRAM", "peak_sram", _bytes),
        ("flash", "flash_size", _bytes),
        ("pruned", "pruned", lambda v: _pct(v, 0) if v else "no"),
        ("quantized", "quantization", str),
        ("architecture", "architecture", str),
    ]
    there = [(title, column, show) for title, column, show in columns if column in f]
    rows = [[(row[column], show(row[column])) for _, column, show in there] for _, row in f.iterrows()]
    note = (
        "From the supernet's shared weights to the int8 file as it is deployed. Latencies in the two 'meas.' columns were "
        "taken side by side in the end; validation accuracy chose the networks, the test images were used for this table "
        "only. Click a heading to sort."
    )
    return table([title for title, _, _ in there], rows) + f"<p class='note'>{note}</p>"


def _pareto(c: Contents) -> str:
    columns = axes_columns(c)
    if columns is None or c.evaluations is None:
        return _missing("evaluations.csv", "nas search")
    x, y = columns
    e = c.evaluations[c.evaluations[x].notna() & c.evaluations[y].notna()]
    sx, sy = scale(x), scale(y)
    front = e[e["on_front"].astype(bool)].sort_values(x)
    xs, ys = list(e[x] * sx), list(e[y] * sy)
    deployed = c.final if c.final is not None and (x, y) == ("latency_ms", "accuracy") else None
    # a search for another device: what was measured here is not on its axis
    at = "predicted_target_ms" if "target" in c.tables else "measured_int8_ms"
    if deployed is not None:
        deployed = deployed[deployed[at].notna()] if at in deployed else None
    if deployed is not None and not len(deployed):
        deployed = None
    if deployed is not None:
        xs += list(deployed[at] * 1000)
        ys += list(deployed["int8_val_accuracy"] * 100)
    low = float(np.quantile(ys, 0.02)) if y == "accuracy" else min(ys)
    chart = Chart(label(x), label(y), (min(xs), max(xs)), (low, max(ys)), width=900, height=460, title="")
    chart.points(
        e[x] * sx, e[y] * sy, "evaluated", tips=[_tip(r, x, y) for _, r in e.iterrows()], radius=3, legend="evaluated"
    )
    chart.line(front[x] * sx, front[y] * sy, "front", step=True)
    tips = [_tip(r, x, y) for _, r in front.iterrows()]
    chart.points(front[x] * sx, front[y] * sy, "front", tips=tips, radius=4.5, legend="Pareto front, predicted latency")
    if deployed is not None:
        how = "predicted" if "target" in c.tables else "measured"
        tips = [
            f"{r['id']}: {_pct(r['int8_val_accuracy'])} validation, {_ms(r[at])} {how} in int8\n"
            + _wrapped(r["architecture"])
            for _, r in deployed.iterrows()
        ]
        legend = f"deployed in int8, {how} latency"
        chart.points(
            deployed[at] * 1000,
            deployed["int8_val_accuracy"] * 100,
            "deployed",
            tips=tips,
            legend=legend,
            diamond=True,
        )
    note = "Up and to the left is better. Hover or tab over a point for its architecture."
    return figure(chart, note)


def _latency(c: Contents) -> str:
    if not c.networks:
        return _missing("table_<precision>_networks.csv", "nas measure")
    figures = []
    for precision, frame in c.networks.items():
        top = float(max(frame["predicted_ms"].max(), frame["measured_ms"].max()) * 1000)
        bottom = float(min(frame["predicted_ms"].min(), frame["measured_ms"].min()) * 1000)
        chart = Chart("predicted (µs)", "measured (µs)", (bottom, top), (bottom, top), title=precision)
        chart.band(0.9, 1.1, "band", legend="±10%")
        chart.line(chart.x_range, chart.x_range, "diagonal")
        for role, css, legend in (
            ("calibrate", "evaluated", "used to calibrate"),
            ("validate", "front", "not seen before"),
        ):
            part = frame[frame["role"] == role]
            tips = [
                f"{_ms(r['measured_ms'])} measured, {_ms(r['predicted_ms'])} predicted\n" + _wrapped(r["architecture"])
                for _, r in part.iterrows()
            ]
            chart.points(part["predicted_ms"] * 1000, part["measured_ms"] * 1000, css, tips=tips, legend=legend)
        deployed = _deployed_latency(c.final, precision)
        if deployed is not None:
            tips = [f"{i}: {_ms(m)} measured, {_ms(p)} predicted" for i, p, m in deployed.itertuples(index=False)]
            chart.points(
                deployed.iloc[:, 1] * 1000,
                deployed.iloc[:, 2] * 1000,
                "deployed",
                tips=tips,
                legend="deployed",
                diamond=True,
            )
        figures.append(figure(chart))
    note = (
        "On the diagonal the table is right; the band is ±10%. Only networks that the calibration has not seen count."
    )
    return f"<div class='pair'>{''.join(figures)}</div><p class='note'>{note}</p>"


def _hypervolume(c: Contents) -> str:
    if c.hypervolume is None or not len(c.hypervolume):
        return _missing("hypervolume.csv", "nas search")
    x, y = c.hypervolume["evaluations"], c.hypervolume["hypervolume"]
    if y.max() > 0:
        y = y / y.max()
    chart = Chart(
        "evaluations",
        "hypervolume (share of the final one)",
        (0, x.max()),
        (float(y.min()), 1.0),
        width=900,
        height=300,
    )
    chart.line(x, y, "front", step=True)
    return figure(
        chart, "How fast the front grew; a curve that is flat at its end says that more evaluations would add little."
    )


def _what_matters(c: Contents) -> str:
    if c.evaluations is None or not c.objectives:
        return _missing("evaluations.csv", "nas search")
    figures, doubts = [], []
    for objective in [o["name"] for o in c.objectives]:
        found = importance(c.evaluations, objective)
        if found.believable:
            most = dict(list(found.share.items())[:12])
            title = f"{objective}: R² {found.r2:.2f} on networks not seen"
            figures.append(f"<figure>{bars(most, 'R² lost when the gene is shuffled', title=title)}</figure>")
        elif found.rows < FEWEST_ROWS:
            doubts.append(f"{objective}: {found.rows} evaluated networks are too few to tell genes apart.")
        else:
            doubts.append(
                f"{objective}: a random forest explains too little of it (R² {found.r2:.2f}) to tell genes apart."
            )
    text = f"<div class='pair'>{''.join(figures)}</div>" + "".join(f"<p class='note'>{escape(d)}</p>" for d in doubts)
    spread = diversity(c.evaluations)
    if spread:
        settled = [g for g, (front, tried) in spread.values.items() if front == 1]
        text += (
            f"<p>Two networks of the front differ in {_pct(spread.distance, 0)} of their genes on average, two evaluated "
            f"ones in {_pct(spread.of_all, 0)}. "
            + (
                f"The front agrees on {len(settled)} of {len(spread.values)}: {escape(', '.join(settled))}."
                if settled
                else "No gene has the same value in all of them."
            )
            + "</p>"
        )
    note = "Permutation importance in a random forest over the evaluated networks, on held-out fifths of them."
    return text + f"<p class='note'>{note}</p>"


def _training(c: Contents) -> str:
    if c.training is None or not len(c.training):
        return _missing("training.csv", "nas train")
    t = c.training
    loss = Chart(
        "epoch",
        "training loss (largest subnet)",
        (0, t["epoch"].max()),
        (t["loss"].min(), t["loss"].max()),
        title="loss",
    )
    loss.line(t["epoch"], t["loss"], "front")
    figures = [figure(loss)]
    names = [n for n in ("accuracy_largest", "accuracy_smallest") if n in t and t[n].notna().any()]
    if names:
        values = t[names] * 100
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        accuracy = Chart("epoch", "validation accuracy (%)", (0, t["epoch"].max()), (low, high), title="accuracy")
        for name, css in zip(names, ("front", "deployed"), strict=False):
            known = t[t[name].notna()]
            accuracy.line(known["epoch"], known[name] * 100, css)
            accuracy.points(
                known["epoch"], known[name] * 100, css, legend=f"{name.removeprefix('accuracy_')} subnet", radius=3
            )
        figures.append(figure(accuracy))
    note = "All subnets share these weights. Largest and smallest should end close to each other, and level."
    return f"<div class='pair'>{''.join(figures)}</div><p class='note'>{note}</p>"


def _steps(c: Contents) -> str:
    if not c.candidates:
        return _missing("candidates/", "nas compress")
    head = ["network", "step", "precision", "val. accuracy", "MMACs", "size", "predicted", "measured", "note"]
    rows = []
    for candidate in c.candidates:
        for step in candidate["steps"]:
            error = step.get("predicted_error")
            predicted = _ms(step["predicted_ms"]) + (f" ±{_pct(error, 0)}" if error is not None else "")
            cells = [
                (candidate["id"], candidate["id"]),
                (step["step"], step["step"]),
                (step["precision"], step["precision"]),
                (step["accuracy"], _pct(step["accuracy"])),
                (step["macs"], f"{step['macs'] / 1e6:.2f}"),
                (step["size_bytes"], _bytes(step["size_bytes"])),
                (step["predicted_ms"] or 0, predicted),
                (step["measured_ms"] or 0, _ms(step["measured_ms"])),
                *[(note, note) for note in (f"{step.get('quantization', '')} {step['note']}".strip(),)],
            ]
            rows.append(cells)
    note = (
        "Each network after every step. Predictions of pruned networks are interpolated between measured blocks; "
        "the ± is the table's own estimate of its error."
    )
    return f"<details><summary>{len(c.candidates)} networks, {len(rows)} steps</summary>{table(head, rows)}</details><p class='note'>{note}</p>"


def _tables(c: Contents) -> str:
    if not c.tables:
        return _missing("table_<precision>.json", "nas measure")
    head = [
        "precision",
        "kind",
        "chip",
        "runtime",
        "batch",
        "threads",
        "date",
        "unseen networks",
        "Kendall tau",
        "mean error",
        "within 10%",
    ]
    rows = []
    for precision, t in c.tables.items():
        d, v = t["device"], t.get("validation") or {}
        cells = [precision, t["kind"], d["chip"], f"{d['runtime']} {d['version']}", d["batch"], d["threads"], t["date"]]
        checked = [
            v.get("networks", "-"),
            v.get("kendall_tau", "-"),
            _pct(v.get("mape")),
            _pct(v.get("within_10pct"), 0),
        ]
        rows.append([(x, str(x)) for x in [*cells, *checked]])
    return table(head, rows)


def _environment(c: Contents) -> str:
    if c.config is None:
        return _missing("config.json", "nas quickstart")
    config, environment = c.config, c.config.get("environment", {})
    packages = ", ".join(f"{k} {v}" for k, v in environment.get("packages", {}).items())
    data, space = config.get("data", {}), config.get("space", {})
    rows = {
        "command": config.get("command"),
        "started": config.get("created"),
        "seed": config.get("seed"),
        "space": f"{space.get('name')}: {space.get('size', 0):.3g} networks from {space.get('blocks')} blocks ({space.get('fingerprint')})",
        "data": f"{data.get('source')}: {data.get('train')} training, {data.get('val')} validation, {data.get('test')} test images ({data.get('fingerprint')})",
        "machine": f"{environment.get('cpu')}, {environment.get('cores')} cores, {environment.get('memory_gb')} GB, {environment.get('platform')}",
        "versions": f"Python {environment.get('python')}, {packages}",
        "settings": json.dumps(config.get("settings", {})),
        "seconds": ", ".join(f"{k} {v:.0f}" for k, v in c.stages.items()),
    }
    return "<dl>" + "".join(f"<dt>{k}</dt><dd>{escape(str(v))}</dd>" for k, v in rows.items()) + "</dl>"


# --------------------------------------------------------------------------------------------------------------
# Pieces


def _missing(artefact: str, command: str) -> str:
    return (
        f"<p class='missing'>Not in this run folder: {escape(artefact)}. <code>{escape(command)}</code> makes it.</p>"
    )


def _tip(row: pd.Series, x: str, y: str) -> str:
    shown = ", ".join(_value(name, row[name]) for name in (y, x))
    return f"#{row['evaluation']:.0f}: {shown}\n{_wrapped(row['architecture'])}"


def _value(name: str, value: float) -> str:
    if name == "accuracy":
        return f"{_pct(value)} validation accuracy"
    return f"{_ms(value)} predicted" if name.endswith("_ms") else f"{name} {value:g}"


def _wrapped(architecture: str) -> str:
    """One line per stage instead of one long line."""
    lines: list[str] = []
    last = ""
    for item in str(architecture).split():
        group = item.split(".")[0] if "." in item else "network"
        stage = group.split("b")[0]
        if lines and stage == last:
            lines[-1] += " " + item
        else:
            lines.append(item)
        last = stage
    return "\n".join(lines)


def _deployed_latency(final: pd.DataFrame | None, precision: str) -> pd.DataFrame | None:
    columns = ["id", f"predicted_{precision}_ms", f"measured_{precision}_ms"]
    if final is None or not set(columns) <= set(final.columns):
        return None
    return final[columns].dropna()


def _pct(value: Any, digits: int = 1) -> str:
    return "-" if value is None or value != value else f"{100 * float(value):.{digits}f}%"


def _ms(value: Any) -> str:
    if value is None or value != value:
        return "-"
    return f"{1000 * float(value):.1f} µs" if float(value) < 1 else f"{float(value):.2f} ms"


def _bytes(value: float) -> str:
    return f"{value / 1024:.0f} KiB" if value < 1 << 20 else f"{value / (1 << 20):.1f} MiB"
