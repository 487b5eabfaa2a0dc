"""``nas fit``: a table for a device that cannot run a campaign, from timings of a few whole networks or published ones."""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nas.errors import BadInput

if TYPE_CHECKING:
    from nas.space import SearchSpace
    from nas.tables.table import LatencyTable

_LIST = "timings.csv"


def run_fit(args: argparse.Namespace, space: SearchSpace) -> Path | tuple[Path, LatencyTable]:
    """Write the networks to time (``--choose``), or the table of the timings; returns the file, or the stem and table."""
    if args.board:
        from nas.tables.fit.boards import board_table

        return _saved(args, board_table(args.board, space))
    known = _tables(args.like, space)
    if args.choose is not None:
        return _choose(args, space, known)
    return _fit(args, space, known)


def add_flags(sub: argparse.ArgumentParser) -> None:
    """The flags of ``nas fit``."""
    what = sub.add_mutually_exclusive_group(required=True)
    what.add_argument("--choose", type=int, metavar="N", help="write the N networks to time, and a list to fill in")
    what.add_argument("--timings", metavar="CSV", help="the list, filled in: columns architecture, ms")
    what.add_argument("--board", help="a Cortex-M board of MLPerf Tiny, such as NUCLEO-L4R5ZI; a wrong name lists them")
    sub.add_argument("--space", required=True, help="search space")
    sub.add_argument("--classes", type=int, help="number of classes (default: the space's own)")
    sub.add_argument("--channels", type=int, help="input channels (default: the space's own)")
    sub.add_argument(
        "--like",
        nargs="+",
        default=[],
        metavar="TABLE",
        help="tables of known devices to adapt from: then 10 networks may do, without them a few hundred are better",
    )
    sub.add_argument("--seed", type=int, default=0, help="of the choice (default 0)")
    sub.add_argument("--output", default="timings", help="with --choose: folder to write (default %(default)s)")
    sub.add_argument(
        "--tool",
        default="onnxruntime",
        choices=["onnxruntime", "trtexec", "benchmark_model"],
        help="with --choose: what will run the files (default %(default)s)",
    )
    device = sub.add_argument_group("what is timed")
    device.add_argument("--device-name", help="such as 'Jetson TX2'")
    device.add_argument("--runtime", default="unknown", help="such as tensorrt (default %(default)s)")
    device.add_argument("--runtime-version", default="unknown")
    device.add_argument("--precision", default="fp32", choices=["fp32", "fp16", "int8"], help="default fp32")
    device.add_argument("--batch", type=int, default=1, help="images per run (default 1)")
    device.add_argument("--threads", type=int, default=1, help="default 1")
    device.add_argument("--name", help="file name of the table (default: from the device)")
    device.add_argument("--run-dir", default="runs", help="folder of the table (default %(default)s)")


def _choose(args: argparse.Namespace, space: SearchSpace, known: Sequence[LatencyTable]) -> Path:
    import pandas as pd

    from nas.files import write_text
    from nas.measuring.kit import model_bytes
    from nas.modules import Network
    from nas.tables.fit.few_shot import choose_to_adapt
    from nas.tables.fit.whole_network import choose_networks

    folder = Path(args.output)
    if (folder / _LIST).exists():
        raise BadInput(f"{folder / _LIST} is there already; fill it in, or choose another --output")
    if known:
        archs = choose_to_adapt(space, known, args.choose, seed=args.seed)
    else:
        archs = choose_networks(space, args.choose, seed=args.seed)
    folder.mkdir(parents=True, exist_ok=True)
    ending = "tflite" if args.tool == "benchmark_model" else "onnx"
    files = []
    for i, blocks in enumerate(space.networks(archs)):
        files.append(f"{i:03d}.{ending}")
        content = model_bytes(
            Network(blocks), blocks[0].in_shape, tool=args.tool, precision=args.precision, batch=args.batch
        )
        (folder / files[-1]).write_bytes(content)
    frame = pd.DataFrame({"file": files, "architecture": space.describe(archs), "ms": ""})
    write_text(folder / _LIST, frame.to_csv(index=False))
    print(f"time each of the {len(files)} files there and fill in the column ms", file=sys.stderr)
    return folder / _LIST


def _fit(args: argparse.Namespace, space: SearchSpace, known: Sequence[LatencyTable]) -> tuple[Path, LatencyTable]:
    import pandas as pd

    from nas.device import Device
    from nas.tables.fit.few_shot import adapt
    from nas.tables.fit.whole_network import fit_blocks

    if not args.device_name:
        raise BadInput("name the device that was timed: --device-name 'Jetson TX2'")
    try:
        frame = pd.read_csv(args.timings)
        texts, ms = frame["architecture"].astype(str), pd.to_numeric(frame["ms"]).to_numpy(float)
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{args.timings} is not a list with the columns architecture and ms: {error}") from None
    if frame["ms"].isna().any():
        raise BadInput(
            f"{args.timings}: {int(frame['ms'].isna().sum())} of {len(frame)} networks have no ms yet; "
            "fill them in or delete their lines"
        )
    device = Device(
        name=args.device_name,
        chip=args.device_name,
        runtime=args.runtime,
        version=args.runtime_version,
        precision=args.precision,
        batch=args.batch,
        threads=args.threads,
    )
    today = datetime.date.today().isoformat()
    archs = space.parse(texts)
    if known:
        table = adapt(space, known, archs, ms, device=device, date=today)
    else:
        table = fit_blocks(space, archs, ms, device=device, date=today)
    return _saved(args, table)


def _saved(args: argparse.Namespace, table: LatencyTable) -> tuple[Path, LatencyTable]:
    stem = Path(args.run_dir) / (args.name or f"table_{table.device.key}")
    if stem.with_name(stem.name + ".json").exists():
        raise BadInput(f"{stem}.json is there already; choose another --name or --run-dir")
    table.save(stem)
    return stem, table


def _tables(paths: Sequence[str], space: SearchSpace) -> list[LatencyTable]:
    from nas.tables.table import LatencyTable

    tables = [LatencyTable.load(p.removesuffix(".json").removesuffix(".csv")) for p in paths]
    for table in tables:
        table.check_space(space)
    return tables
