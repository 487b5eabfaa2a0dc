"""``nas tables``: list, show, compare and validate latency tables, and draw how devices agree."""

from __future__ import annotations

import argparse
import datetime
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from nas.checks import CountOrNone, FilePath, checked
from nas.cli.flags import add_flags, given, parameters
from nas.cli.printing import Row, print_rows
from nas.cli.table_files import PLACES, Found, is_whole, load, loadable, readable, sisters, space_of, stems, whole
from nas.errors import BadInput

if TYPE_CHECKING:
    from nas.report.heat_map import Panel
    from nas.tables.check import Finding
    from nas.tables.compare import Agreement, Comparison
    from nas.tables.table import LatencyTable

Networks = Annotated[int, Meta(ge=2, le=100_000), "random networks compared"]

_SHOWN_ROWS = 3


def run_tables(args: argparse.Namespace) -> int:
    """Run the parsed ``nas tables`` command; returns the exit status: 1 when ``validate`` found errors, else 0."""
    return int(args.tables(**{"path": args.path, **given(args, args.tables)}) or 0)


def add_tables(sub: argparse.ArgumentParser) -> None:
    """The commands of ``nas tables``; without one it lists."""
    commands = sub.add_subparsers(metavar="COMMAND", parser_class=type(sub))
    here = f"those that ship and {PLACES[1]}/"
    made: tuple[tuple[str, Callable[..., Any], str, str, str], ...] = (
        ("list", _list, "One line per table: what it is of, and its error on whole networks.", here, "runs/"),
        ("show", _show, "What a table holds, what it says of itself, and what is wrong with it.", "", "note10_ofa_b1"),
        ("compare", _compare, "How tables agree: block by block, and over random networks.", "",
         "raspi4_fbnet_b1 pixel2_fbnet_b1"),
        ("validate", _validate, "Look for what goes wrong with tables; exit status 1 on an error.", here, "runs/mine"),
        ("heatmap", _heatmap, "Draw the rank correlation between devices, space by space.", here, "--output heat.svg"),
    )  # fmt: skip
    for name, run, text, default, example in made:
        one = commands.add_parser(name, help=text, description=text, epilog=f"example:\n  nas tables {name} {example}")
        one.set_defaults(tables=run)
        about = "tables: paths, names of those that ship, or folders of them"
        one.add_argument(
            "path", nargs="*" if default else "+", help=about + f" (default: {default})" if default else about
        )
        for flag in [name for name in parameters(run) if name != "path"]:
            add_flags(one, run, flag)
    parse = sub.parse_known_args

    def parse_known_args(given: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        # plain `nas tables PATH...` lists, as it always has
        if not given or given[0] not in (*commands.choices, "-h", "--help"):
            given = ["list", *(given or [])]
        return parse(given, namespace)

    sub.parse_known_args = parse_known_args  # type: ignore[method-assign, assignment]


def _list(path: Sequence[str]) -> None:
    found, others = readable(path)
    rows = [{"table": _short(stem, path), **_row(table)} for stem, table in found]
    rows += [{"table": _short(other, path), **_whole_row(other)} for other in others]
    print_rows(rows)
    print(
        "\ntau (Kendall tau), MAPE, <=10%: on whole networks that the table had not seen; nas tables show TABLE says more"
    )


@checked
def _show(path: Sequence[str], *, rows: Annotated[CountOrNone, "slowest blocks shown"] = 10) -> None:
    from nas.tables.check import check

    for i, (stem, table) in enumerate(load(path)):
        print(("\n" if i else "") + str(stem))
        lines = _about_table(table)
        wide = max(len(key) for key in lines)
        print("\n".join(f"  {key:{wide}}  {text}" for key, text in lines.items() if text))
        slowest = table.effective_ms.argsort()[::-1][:rows]
        print(f"\n  slowest {len(slowest)} of {len(table.rows)} blocks (inside a network)")
        total = table.effective_ms.sum()
        print_rows(
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


@checked
def _compare(
    path: Sequence[str], *, rows: Annotated[CountOrNone, "blocks most apart shown"] = 5, networks: Networks = 500
) -> None:
    from nas.tables.compare import compare

    found = load(path)
    if len(found) < 2:
        raise BadInput(f"compare takes at least two tables, {', '.join(path)} has {len(found)}")
    names = _labels(found)
    first = found[0][1]
    space, why = space_of(first)
    results = [compare(first, table, space, networks=networks) for _, table in found[1:]]
    print(f"ratio: ms of each table over those of {names[0]}")
    print_rows([row for name, result in zip(names[1:], results, strict=True) for row in _agreement_rows(name, result)])
    if results[0].networks is None:
        print(f"no networks compared: {why or 'a table lacks blocks of ' + first.space.get('name', 'the space')}")
    for name, result in zip(names[1:], results, strict=True):
        print(f"\nmost apart: {name} over {names[0]}, relative to the median ratio of {result.blocks.ratio:.3g}")
        most = result.rows.head(rows).itertuples()
        print_rows(
            [
                {
                    "apart": f"{r.apart:.2f}x",
                    f"{name} ms": f"{r.second_ms:.4g}",
                    f"{names[0]} ms": f"{r.first_ms:.4g}",
                    "block": str(r.block),
                }
                for r in most
            ],
            indent=2,
        )


@checked
def _validate(path: Sequence[str], *, strict: Annotated[bool, "exit status 1 on a warning, too"] = False) -> int:
    from nas.tables.check import check_saved

    chosen = [stem for stem in stems(path) if not is_whole(stem)]
    tables = loadable(chosen)
    worst = 0
    for stem in chosen:
        others = [t for s, t in tables.items() if s != stem] + sisters(stem, tables.get(stem), besides=chosen)
        findings = check_saved(stem, others=others)
        print(f"{stem}{_findings(findings, indent=2)}")
        worst = max([worst, *({"error": 2, "warning": 1}[f.severity] for f in findings)])
    return int(worst == 2 or (worst == 1 and strict))


@checked
def _heatmap(
    path: Sequence[str], *, networks: Networks = 500, output: Annotated[FilePath, ".png, .svg or .pdf"] = "heat.png"
) -> None:
    from nas.report.heat_map import picture, write_heat_map

    picture(output)
    found, others = readable(path)
    panels = [*_space_panels(found, networks), *(_whole_panel(other, networks) for other in others)]
    if not panels:
        raise BadInput("a heat map takes two tables of the same space at least, there are not")
    for panel in panels:
        below = [panel.kendall[i, j] for i in range(len(panel.labels)) for j in range(i)]
        print(f"{panel.title}: {len(panel.labels)} devices, Kendall tau {min(below):.2f} to {max(below):.2f}")
    print(write_heat_map(panels, output))


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
            _note(f"{len(group)} tables of {name}; {why}")
            continue
        covering = [(stem, table) for stem, table in group if not table.missing(space.blocks)]
        for stem, _ in [pair for pair in group if pair not in covering]:
            _note(f"{stem} lacks blocks of {name}")
        if len(covering) < 2:
            continue
        archs = distinct_archs(space, networks, seed=0)
        kendall, spearman = rank_correlations([network_ms(table, space, archs) for _, table in covering])
        title = f"{name}, {len(archs)} random networks"
        panels.append(Panel(title=title, labels=_labels(covering), kendall=kendall, spearman=spearman))
    return panels


def _whole_panel(path: Path, networks: int) -> Panel:
    import numpy as np

    import search_spaces
    from nas.objectives.tabular import TabularBenchmark
    from nas.report.heat_map import Panel
    from nas.tables.compare import rank_correlations

    table = TabularBenchmark.load(search_spaces.named(f"{whole(path)[0].space}.cell"), path)
    archs = table.space.sample(networks, np.random.default_rng(0))
    kendall, spearman = rank_correlations([table.latency(device)(archs) for device in table.devices])
    title = f"{table.space.name}, {networks} random networks, whole-network timings"
    return Panel(title=title, labels=table.devices, kendall=kendall, spearman=spearman)


def _note(text: str) -> None:
    logging.getLogger("nas").info("note: left out: %s", text)


def _about_table(table: LatencyTable) -> Row:
    d, v, c = table.device, table.validation, table.calibration
    return {
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


_COLUMNS = (
    "chip", "runtime", "precision", "batch", "threads", "kind", "age", "blocks", "tau", "MAPE", "<=10%", "space"
)  # fmt: skip


def _row(table: LatencyTable) -> Row:
    d, v = table.device, table.validation
    cells = (
        d.chip[:32],
        f"{d.runtime} {d.version.split()[0] if d.version.strip() else ''}".strip(),
        d.precision,
        str(d.batch),
        str(d.threads),
        table.kind,
        _age(table.date),
        str(len(table.rows)),
        *((f"{v.kendall_tau:.3f}", f"{v.mape:.1%}", f"{v.within_10pct:.0%}") if v else ("-", "-", "-")),
        table.space.get("name", "-"),
    )
    return dict(zip(_COLUMNS, cells, strict=True))


def _whole_row(path: Path) -> Row:
    about, devices = whole(path)
    row = dict.fromkeys(_COLUMNS, "-")
    return row | {"chip": f"{devices} devices, whole networks", "kind": about.kind, "space": about.space}


def _agreement_rows(name: str, result: Comparison) -> list[Row]:
    both: dict[str, Agreement | None] = {"blocks": result.blocks, "networks": result.networks}
    return [
        {
            "table": name,
            "over": f"{a.n} {what}",
            "Kendall tau": f"{a.kendall_tau:.3f}",
            "Spearman": f"{a.spearman:.3f}",
            "ratio": f"{a.ratio:.3g}",
            "p10..p90": f"{a.ratio_p10:.3g}..{a.ratio_p90:.3g}",
        }
        for what, a in both.items()
        if a is not None
    ]


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


def _labels(found: Found) -> list[str]:
    """Short names: the device, then as much of the rest as it takes to tell the tables apart."""
    devices = [table.device for _, table in found]
    labels = [d.name[:28] for d in devices]
    kinds = [table.kind for _, table in found]
    parts = [
        (d.runtime, d.precision, f"b{d.batch}", f"t{d.threads}", kind) for d, kind in zip(devices, kinds, strict=True)
    ]
    for column in zip(*parts, strict=True):
        more = [f"{label} {part}" for label, part in zip(labels, column, strict=True)]
        if len(set(more)) > len(set(labels)):
            labels = more
    return [
        label if labels.count(label) == 1 else f"{label} ({stem.parent.name}/{stem.name})"
        for label, (stem, _) in zip(labels, found, strict=True)
    ]


def _short(stem: Path, paths: Sequence[str]) -> str:
    """The path, without the folder when that was the only one asked for, and of shipped tables the name."""
    from nas.tables.shipped import SHIPPED

    if len(paths) == 1 and Path(paths[0]).is_dir():
        return str(stem.relative_to(paths[0]))
    return stem.name if stem.parent == SHIPPED else str(stem)


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
