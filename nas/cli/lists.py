"""``nas spaces``, ``nas searchers`` and ``nas devices``: what there is to search, to search with and to search for."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from nas.cli.printing import Row, print_rows

if TYPE_CHECKING:
    from nas.space import SearchSpace


def add_spaces(sub: argparse.ArgumentParser) -> None:
    """The spaces to say more of."""
    sub.add_argument("space", nargs="*", help="spaces whose sizes are computed (default: none, all are named)")


def add_searchers(sub: argparse.ArgumentParser) -> None:
    """No flags."""


add_devices: Callable[[argparse.ArgumentParser], None] = add_searchers


def run_spaces(args: argparse.Namespace) -> None:
    """A line per search space; of those named with computed sizes."""
    import search_spaces

    if args.space:
        print_rows([{"space": name, **_sizes(search_spaces.named(name))} for name in args.space])
        print("\nMACs: multiplications with additions for one image, of the smallest and the largest network")
    else:
        print_rows([{"space": name, "about": search_spaces.about(name)} for name in search_spaces.names()])
        print("\nnas spaces NAME computes its sizes, nas quickstart --space NAME searches it")


def run_searchers(args: argparse.Namespace) -> None:
    """A line per searcher. Imports none of them."""
    from nas import searchers
    from nas.runs.settings import Settings

    print_rows([{"searcher": n, "about": searchers.about(n)} for n in searchers.names()])
    print(f"\nnas search --searcher NAME, nas sweep --searchers NAME,NAME; without it: {Settings.searcher}")


def run_devices(args: argparse.Namespace) -> None:
    """What times networks here, the devices of the tables that ship, of the tabular space, and boards with a model."""
    from nas.cli.sweep import benchmark
    from nas.tables.fit.boards import boards

    print("to measure on this machine (nas measure --runtime NAME):")
    print_rows(_runtimes(), indent=2)
    print("\nwhose tables ship (nas tables lists them; nas quickstart --table TABLE searches for one):")
    print_rows(_shipped(), indent=2)
    print(f"\nof NAS-Bench-201 (nas sweep --devices NAME,NAME):\n  {', '.join(benchmark().devices)}")
    print(f"\nboards modelled from MLPerf Tiny (nas fit --board NAME):\n  {', '.join(boards())}")
    print("\nany other that runs Python, over SSH or by cable: nas measure --help; docs/devices.md")


def _sizes(space: SearchSpace) -> Row:
    from nas.objectives.objective import macs

    networks = f"{space.size:,}" if space.size < 1_000_000 else f"{space.size:.1e}"
    if not space.blocks:  # scored by a table alone
        return {"px": "-", "networks": networks, "blocks": "-", "million MACs": "-"}
    pixels = sorted({block.size for block in space.slot_options(0)})
    reach = macs(space).extremes
    return {
        "px": f"{pixels[0]}..{pixels[-1]}" if len(pixels) > 1 else str(pixels[0]),
        "networks": networks,
        "blocks": f"{len(space.blocks):,}",
        "million MACs": f"{reach.minimum / 1e6:.3g}..{reach.maximum / 1e6:.3g}" if reach else "-",
    }


def _runtimes() -> list[Row]:
    from nas.errors import NasError
    from nas.runtimes import made, named

    rows = []
    for name, cls in named().items():
        try:
            device = made(name).device
            here = f"{device.version.split()[0]}, {device.chip}" if device.version.strip() else device.chip
        except NasError as error:
            here = f"not here: {error}"
        rows.append({"runtime": name, "precision": ", ".join(cls.precisions), "about": here})
    return rows


def _shipped() -> list[Row]:
    from nas.cli.table_files import readable
    from nas.tables.shipped import SHIPPED

    rows: dict[str, dict[str, list[str]]] = {}
    for _, table in readable([str(SHIPPED)])[0]:
        row = rows.setdefault(table.device.name, {"runtime": [], "precision": [], "kind": [], "spaces": []})
        said = (table.device.runtime, table.device.precision, table.kind, table.space.get("name", "-"))
        for column, value in zip(row.values(), said, strict=True):
            column += [value] if value not in column else []
    return [{"device": name, **{k: ", ".join(v) for k, v in row.items()}} for name, row in rows.items()]
