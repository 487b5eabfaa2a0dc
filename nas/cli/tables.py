"""``nas tables``: list, show, compare and validate latency tables, and draw how devices agree."""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli.table_files import Found, about_of, is_whole, load, loadable, readable, sisters, space_of, stems
from nas.errors import BadInput

if TYPE_CHECKING:
    from nas.report.heat_map import Panel
    from nas.tables.check import Finding
    from nas.tables.compare import Agreement
    from nas.tables.table import LatencyTable

_LEFT = {"table", "chip", "runtime", "precision", "kind", "space", "block"}  # columns of text
_SLOWEST = 10
_SHOWN_ROWS = 3

Row = dict[str, str]


def run_tables(args: argparse.Namespace) -> int:
    """Run the parsed ``nas tables`` command; returns the exit status: 1 when ``validate`` found errors, else 0."""
    return int(args.tables(args) or 0)


def add_flags(sub: argparse.ArgumentParser) -> None:
    """The commands of ``nas tables``; without one it lists."""
    commands = sub.add_subparsers(metavar="COMMAND", parser_class=type(sub))

    def command(name: str, run: Callable[[argparse.Namespace], Any], text: str, paths: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        one.set_defaults(tables=run)
        one.add_argument("path", nargs=paths, help="tables" + (", or folders of them" if name != "show" else ""))
        return one

    command("list", _list, "One line per table: what it is of, and its error on whole networks.", "*")
    show = command("show", _show, "What a table holds, what it says of itself, and what is wrong with it.", "+")
    show.add_argument("--rows", type=int, default=_SLOWEST, help="slowest blocks shown (default %(default)s)")
    two = command("compare", _compare, "How tables agree: block by block, and over random networks.", "+")
    two.add_argument("--rows", type=int, default=5, help="blocks most apart shown (default %(default)s)")
    checked = command("validate", _validate, "Look for what goes wrong with tables; exit status 1 on an error.", "*")
    checked.add_argument("--strict", action="store_true", help="exit status 1 on a warning, too")
    heat = command("heatmap", _heatmap, "Draw the rank correlation between devices, space by space.", "*")
    heat.add_argument("--output", default="heat.png", help=".png, .svg or .pdf (default %(default)s)")
    for one in (two, heat):
        one.add_argument("--networks", type=int, default=500, help="random networks compared (default %(default)s)")
    parse = sub.parse_known_args

    def parse_known_args(given: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        # plain `nas tables PATH...` lists, as it always has
        if not given or given[0] not in (*commands.choices, "-h", "--help"):
            given = ["list", *(given or [])]
        return parse(given, namespace)

    sub.parse_known_args = parse_known_args  # type: ignore[method-assign, assignment]


# --------------------------------------------------------------------------------------------------------------
# Commands


def _list(args: argparse.Namespace) -> None:
    found, whole = readable(args.path)
    shortened = {stem: _short(stem, args.path) for stem in [*(s for s, _ in found), *whole]}
    rows = [{"table": shortened[stem], **_row(table)} for stem, table in found]
    rows += [{"table": shortened[path], **_whole_row(path)} for path in whole]
    _print(rows)
    print(
        "\ntau (Kendall tau), MAPE, <=10%: on whole networks that the table had not seen; nas tables show TABLE says more"
    )


def _show(args: argparse.Namespace) -> None:
    from nas.tables.check import check

    for i, (stem, table) in enumerate(load(args.path)):
        d, v, c = table.device, table.validation, table.calibration
        lines = {
            "device": f"{d.name}" + (f" ({d.chip})" if d.chip != d.name else ""),
            "runtime": f"{d.runtime} {d.version}".strip(),
            "conditions": f"{d.precision}, batch {d.batch}, {d.threads} thread(s)",
            "kind": f"{table.kind}, {table.date} ({_age(table.date)})",
            "space": f"{table.space.get('name', 'unknown')}, {len(table.rows)} blocks",
            "source": table.source,
            "licence": table.licence,
            "validation": f"on {v.networks} networks: Kendall tau {v.kendall_tau:.3f}, mean error {v.mape:.1%}, "
            f"{v.within_10pct:.0%} within 10%"
            if v
            else "none: nothing is known of its error on whole networks",
            "calibration": f"{c.scale:.3g} x alone {c.per_block_ms:+.3g} ms per block {c.per_element_ms:+.3g} ms per "
            f"element {c.fixed_ms:+.3g} ms per network",
            **{f"note: {key}": str(value) for key, value in table.notes.items()},
        }
        print(("\n" if i else "") + str(stem))
        wide = max(len(key) for key in lines)
        print("\n".join(f"  {key:{wide}}  {text}" for key, text in lines.items() if text))
        slowest = table.effective_ms.argsort()[::-1][: args.rows]
        print(f"\n  slowest {len(slowest)} of {len(table.rows)} blocks (inside a network)")
        total = table.effective_ms.sum()
        _print(
            [
                {
                    "ms": f"{table.effective_ms[r]:.4g}",
                    "share": f"{table.effective_ms[r] / total:.1%}",
                    "GMAC/s": f"{_rate(table, r):.3g}",
                    "block": table.blocks[r].key,
                }
                for r in slowest
            ],
            indent=4,
        )
        print("\n  findings" + _findings(check(table, others=sisters(stem, table)), indent=4))


def _compare(args: argparse.Namespace) -> None:
    from nas.tables.compare import compare

    found = load(args.path)
    if len(found) < 2:
        raise BadInput(f"compare takes at least two tables, {', '.join(args.path)} has {len(found)}")
    _at_least_two(args.networks)
    names = dict(zip([stem for stem, _ in found], _labels([t for _, t in found], [s for s, _ in found]), strict=True))
    first_stem, first = found[0]
    space, why = space_of(first)
    rows, details = [], []
    for stem, table in found[1:]:
        result = compare(first, table, space, networks=args.networks)
        for what, agreement in (("blocks", result.blocks), ("networks", result.networks)):
            if agreement is not None:
                rows.append({"table": names[stem], "over": f"{agreement.n} {what}", **_agreement_row(agreement)})
        details.append((stem, result))
    print(f"against {names[first_stem]}")
    _print(rows)
    if details[0][1].networks is None:
        print(f"no networks compared: {why or 'a table lacks blocks of ' + first.space.get('name', 'the space')}")
    for stem, result in details:
        print(f"\nmost apart in {names[stem]} (ratio over its median {result.blocks.ratio:.3g})")
        _print(
            [
                {
                    "apart": f"{r.apart:.2f}x",
                    "ms": f"{r.second_ms:.4g}",
                    "against ms": f"{r.first_ms:.4g}",
                    "block": str(r.block),
                }
                for r in result.rows.head(args.rows).itertuples()
            ],
            indent=2,
        )


def _validate(args: argparse.Namespace) -> int:
    from nas.tables.check import check_saved

    chosen = [stem for stem in stems(args.path) if not is_whole(stem)]
    tables = loadable(chosen)
    worst = 0
    for stem in chosen:
        others = [t for s, t in tables.items() if s != stem] + sisters(stem, tables.get(stem), besides=chosen)
        findings = check_saved(stem, others=others)
        print(f"{stem}{_findings(findings, indent=2)}")
        worst = max([worst, *({"error": 2, "warning": 1}[f.severity] for f in findings)])
    return int(worst == 2 or (worst == 1 and args.strict))


def _heatmap(args: argparse.Namespace) -> None:
    from nas.report.heat_map import write_heat_map

    _at_least_two(args.networks)
    found, whole = readable(args.path)
    panels = [*_space_panels(found, args.networks), *_whole_panels(whole, args.networks)]
    if not panels:
        raise BadInput("a heat map takes two tables of the same space at least, there are not")
    for panel in panels:
        below = [panel.kendall[i, j] for i in range(len(panel.labels)) for j in range(i)]
        print(f"{panel.title}: {len(panel.labels)} devices, Kendall tau {min(below):.2f} to {max(below):.2f}")
    print(write_heat_map(panels, args.output))


# --------------------------------------------------------------------------------------------------------------
# Heat maps


def _space_panels(found: Found, networks: int) -> list[Panel]:
    from nas.report.heat_map import Panel
    from nas.tables.compare import network_ms, rank_correlations
    from nas.tables.validation import distinct_archs

    groups: dict[tuple[str, ...], Found] = {}
    for stem, table in found:
        groups.setdefault(tuple(table.space.values()), []).append((stem, table))
    panels = []
    for group in groups.values():
        name = group[0][1].space.get("name", "an unnamed space")
        if len(group) < 2:
            continue
        space, why = space_of(group[0][1])
        if space is None:
            print(f"note: left out: {len(group)} tables of {name}; {why}", file=sys.stderr)
            continue
        whole = [(stem, table) for stem, table in group if not table.missing(space.blocks)]
        for stem, _ in [pair for pair in group if pair not in whole]:
            print(f"note: left out: {stem} lacks blocks of {name}", file=sys.stderr)
        if len(whole) < 2:
            continue
        archs = distinct_archs(space, networks, seed=0)
        kendall, spearman = rank_correlations([network_ms(table, space, archs) for _, table in whole])
        labels = _labels([t for _, t in whole], [s for s, _ in whole])
        title = f"{name}, {len(archs)} random networks"
        panels.append(Panel(title=title, labels=labels, kendall=kendall, spearman=spearman))
    return panels


def _whole_panels(paths: Sequence[Path], networks: int) -> list[Panel]:
    import numpy as np

    from nas.objectives.tabular import TabularBenchmark
    from nas.report.heat_map import Panel
    from nas.tables.compare import rank_correlations
    from search_spaces import NasBench201

    panels = []
    for path in paths:
        table = TabularBenchmark.load(NasBench201.cell(), path)
        archs = table.space.sample(networks, np.random.default_rng(0))
        kendall, spearman = rank_correlations([table.latency(device)(archs) for device in table.devices])
        title = f"{table.space.name}, {networks} random networks, whole-network timings"
        panels.append(Panel(title=title, labels=table.devices, kendall=kendall, spearman=spearman))
    return panels


# --------------------------------------------------------------------------------------------------------------
# Printing


def _row(table: LatencyTable) -> Row:
    d, v = table.device, table.validation
    return {
        "chip": d.chip[:32],
        "runtime": f"{d.runtime} {d.version.split()[0] if d.version else ''}".strip(),
        "precision": d.precision,
        "batch": str(d.batch),
        "threads": str(d.threads),
        "kind": table.kind,
        "age": _age(table.date),
        "blocks": str(len(table.rows)),
        "tau": f"{v.kendall_tau:.3f}" if v else "-",
        "MAPE": f"{v.mape:.1%}" if v else "-",
        "<=10%": f"{v.within_10pct:.0%}" if v else "-",
        "space": table.space.get("name", "-"),
    }


def _whole_row(path: Path) -> Row:
    import json

    about = json.loads(about_of(path).read_text())
    devices = sum(name.startswith("latency_ms") for name in _columns(path))
    same = dict.fromkeys(("runtime", "precision", "batch", "threads", "age", "tau", "MAPE", "<=10%"), "-")
    return {
        "chip": f"{devices} devices, whole networks",
        **{k: same[k] for k in ("runtime", "precision", "batch", "threads")},
        "kind": str(about.get("kind", "-")),
        "age": "-",
        "blocks": "-",
        **{k: same[k] for k in ("tau", "MAPE", "<=10%")},
        "space": str(about.get("space", "-")),
    }


def _columns(path: Path) -> list[str]:
    import gzip

    with gzip.open(path, "rt") as file:
        return file.readline().strip().split(",")


def _agreement_row(a: Agreement) -> Row:
    return {
        "Kendall tau": f"{a.kendall_tau:.3f}",
        "Spearman": f"{a.spearman:.3f}",
        "ratio": f"{a.ratio:.3g}",
        "p10..p90": f"{a.ratio_p10:.3g}..{a.ratio_p90:.3g}",
    }


def _findings(findings: Sequence[Finding], *, indent: int) -> str:
    if not findings:
        return ": none"
    lines = [""]
    for finding in findings:
        lines.append(f"{' ' * indent}{finding.severity} {finding.code}: {finding.message}")
        lines += [f"{' ' * indent}  [{key}]" for key in finding.rows[:_SHOWN_ROWS]]
        if len(finding.rows) > _SHOWN_ROWS:
            lines.append(f"{' ' * indent}  and {len(finding.rows) - _SHOWN_ROWS} more")
    return "\n".join(lines)


def _print(rows: Sequence[Row], *, indent: int = 0) -> None:
    """Aligned columns: text to the left, numbers to the right."""
    if not rows:
        return
    table = [list(rows[0]), *([row[k] for k in rows[0]] for row in rows)]
    wide = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    for line in table:
        cells = [
            text.ljust(w) if name in _LEFT else text.rjust(w)
            for text, w, name in zip(line, wide, table[0], strict=True)
        ]
        print((" " * indent + "  ".join(cells)).rstrip())


def _labels(tables: Sequence[LatencyTable], stems: Sequence[Path]) -> list[str]:
    """Short names: the device, then as much of the rest as it takes to tell the tables apart."""
    labels = [t.device.name[:28] for t in tables]
    parts = [
        (t.device.runtime, t.device.precision, f"b{t.device.batch}", f"t{t.device.threads}", t.kind) for t in tables
    ]
    for column in zip(*parts, strict=True):
        more = [f"{label} {part}" for label, part in zip(labels, column, strict=True)]
        if len(set(more)) > len(set(labels)):
            labels = more
    return [
        label if labels.count(label) == 1 else f"{label} ({stem.parent.name}/{stem.name})"
        for label, stem in zip(labels, stems, strict=True)
    ]


def _short(stem: Path, paths: Sequence[str]) -> str:
    """The path, without the folder when that was the only one asked for."""
    if len(paths) == 1 and Path(paths[0]).is_dir():
        return str(stem.relative_to(paths[0]))
    return str(stem)


def _age(date: str) -> str:
    try:
        days = (datetime.date.today() - datetime.date.fromisoformat(date)).days
    except ValueError:
        return "-"
    if days < 60:
        return f"{days} d"
    return f"{days // 30} mo" if days < 730 else f"{days / 365.25:.1f} y"


def _rate(table: LatencyTable, row: Any) -> float:
    ms = float(table.effective_ms[row])
    return table.blocks[row].macs * table.device.batch / ms / 1e6 if ms else float("nan")


def _at_least_two(networks: int) -> None:
    if networks < 2:
        raise BadInput(f"--networks is at least 2, got {networks}")
