"""``nas fit``: a table for a device that cannot run a campaign, from timings of a few whole networks or published ones."""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from nas.checks import Batch, FilePath, Seed, Text, Threads, checked
from nas.cli import names
from nas.cli.flags import add_flags, given, option
from nas.cli.printing import print_table
from nas.cli.table_files import timings
from nas.errors import BadInput
from nas.files import file_name, folder_of, write_bytes, write_text
from nas.tables.fit.whole_network import Chosen
from nas.tables.names import table_stem
from nas.tables.table import LatencyTable

if TYPE_CHECKING:
    from nas.space import SearchSpace

_LIST = "timings.csv"


@checked
@dataclass(frozen=True, kw_only=True)
class Fit:
    """One of ``choose``, ``timings`` and ``board``, and what goes with it."""

    choose: Annotated[Chosen | None, "write the networks to time, this many, and a list to fill in"] = None
    timings: Annotated[FilePath | None, "the list, filled in: columns architecture, ms"] = None
    board: Annotated[Text | None, "a Cortex-M board of MLPerf Tiny, such as NUCLEO-L4R5ZI; a wrong name lists them"] = (
        None
    )
    counted: Annotated[bool, "with --board: count instructions, too (takes arm-none-eabi-gcc and QEMU)"] = False
    like: Annotated[
        list[FilePath],
        "tables of known devices to adapt from: then 10 networks may do, without them a few hundred are better",
    ] = field(default_factory=list)
    seed: Annotated[Seed, "of the choice"] = 0
    output: Annotated[FilePath, "with --choose: folder to write"] = "timings"
    tool: Annotated[Literal["onnxruntime", "trtexec", "benchmark_model"], "with --choose: what will run the files"] = (
        "onnxruntime"
    )
    name: Annotated[Text | None, "file name of the table (default: table_<precision>)"] = None
    run_dir: Annotated[FilePath, "folder of the table"] = "runs"

    def __post_init__(self) -> None:
        ways = ("choose", "timings", "board")
        chosen = [option(way) for way in ways if getattr(self, way) is not None]
        if len(chosen) != 1:
            raise BadInput(f"give one of {', '.join(map(option, ways))}, got {' and '.join(chosen) or 'none'}")
        if self.counted and self.board is None:
            raise BadInput("--counted goes with --board")
        if self.name is not None:
            file_name(self.name, "name")
        folder_of(self.run_dir)
        folder_of(self.output, "output")


@checked
@dataclass(frozen=True, kw_only=True)
class Timed:
    """What is timed."""

    device_name: Annotated[Text | None, "such as 'Jetson TX2'"] = None
    runtime: Annotated[Text, "such as tensorrt"] = "unknown"
    runtime_version: Annotated[Text, "of the runtime"] = "unknown"
    precision: Annotated[Literal["fp32", "fp16", "int8"], "of the networks"] = "fp32"
    batch: Annotated[Batch, "images per run"] = 1
    threads: Annotated[Threads, "of the runtime"] = 1


def add_fit(sub: argparse.ArgumentParser) -> None:
    """The flags of ``nas fit``."""
    add_flags(sub, Fit)
    add_flags(sub, names.space)
    add_flags(sub.add_argument_group("what is timed"), Timed)


def run_fit(args: argparse.Namespace) -> None:
    """Write the networks to time (``--choose``), or the table of the timings."""
    what, timed = Fit(**given(args, Fit)), Timed(**given(args, Timed))
    space = names.space(**given(args, names.space))
    if what.board:
        from nas.measuring.counted import counted_board_table
        from nas.tables.fit.boards import board_table

        _save(what, (counted_board_table if what.counted else board_table)(what.board, space))
        return
    known = [LatencyTable.load(path) for path in what.like]
    for table in known:
        table.check_space(space)
    if what.choose is not None:
        print(_choose(what, timed, space, known))
    else:
        _save(what, _fitted(what, timed, space, known))


def _choose(what: Fit, timed: Timed, space: SearchSpace, known: list[LatencyTable]) -> Path:
    import pandas as pd

    from nas.measuring.kit import model_bytes
    from nas.modules import Network
    from nas.tables.fit.few_shot import choose_to_adapt
    from nas.tables.fit.whole_network import choose_networks

    assert what.choose is not None
    folder = folder_of(what.output, "output")
    if (folder / _LIST).exists():
        raise BadInput(f"{folder / _LIST} is there already; fill it in, or choose another --output")
    if known:
        archs = choose_to_adapt(space, known, what.choose, seed=what.seed)
    else:
        archs = choose_networks(space, what.choose, seed=what.seed)
    ending = "tflite" if what.tool == "benchmark_model" else "onnx"
    files = [f"{i:03d}.{ending}" for i in range(len(archs))]
    for file, blocks in zip(files, space.networks(archs), strict=True):
        content = model_bytes(
            Network(blocks), blocks[0].in_shape, tool=what.tool, precision=timed.precision, batch=timed.batch
        )
        write_bytes(folder / file, content)
    frame = pd.DataFrame({"file": files, "architecture": space.describe(archs), "ms": ""})
    write_text(folder / _LIST, frame.to_csv(index=False))
    logging.getLogger("nas").info("time each of the %d files there and fill in the column ms", len(files))
    return folder / _LIST


def _fitted(what: Fit, timed: Timed, space: SearchSpace, known: list[LatencyTable]) -> LatencyTable:
    from nas.device import Device
    from nas.tables.fit.few_shot import adapt
    from nas.tables.fit.whole_network import fit_blocks

    if not timed.device_name:
        raise BadInput("name the device that was timed: --device-name 'Jetson TX2'")
    device = Device(
        name=timed.device_name,
        chip=timed.device_name,
        runtime=timed.runtime,
        version=timed.runtime_version,
        precision=timed.precision,
        batch=timed.batch,
        threads=timed.threads,
    )
    texts, ms = timings(str(what.timings))
    archs = space.parse(texts)
    if known:
        return adapt(space, known, archs, ms, device=device)  # type: ignore[arg-type]
    return fit_blocks(space, archs, ms, device=device)  # type: ignore[arg-type]


def _save(what: Fit, table: LatencyTable) -> None:
    folder = folder_of(what.run_dir)
    stem = folder / what.name if what.name else table_stem(folder, table.device.precision)
    if stem.with_name(stem.name + ".json").exists():
        raise BadInput(f"{stem}.json is there already; choose another --name or --run-dir")
    table.save(stem)
    print_table(stem, table)
