"""Ethos-U: tables of blocks against whole networks, both compiled by vela; predicted against real memory.

For each space and accelerator: every block through vela, 30 networks to calibrate with, 50 others to judge by. vela is
deterministic, so what is left is what a sum of blocks cannot see. Peak SRAM on the NPU is predicted by the most that any
block needs, alone or after a 1x1 convolution (inside a network, maps are padded to 16 channels and weights fetched ahead),
and compared with vela's figure; the arena of TensorFlow Lite Micro and the file's size are predicted by ``peak_sram`` and
``flash_size``, and compared with what the interpreter records and the file measures. A full run (5 minutes on 2 cores)
also writes the tables, ``kind: simulated``, into latency_tables/.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from harness import Measured, Target, run

from nas.blocks import Block, Stem
from nas.deploy.arena import recorded_arena
from nas.device import slug
from nas.measuring.assemble import assemble
from nas.measuring.plan import plan
from nas.modules import Network, build
from nas.objectives import flash_size, peak_sram
from nas.runtimes import EthosU
from nas.runtimes.litert import timing_tflite
from nas.space import SearchSpace
from search_spaces import MobileNetV2, MobileNetV3

TABLES = Path(__file__).parents[2] / "latency_tables"
SHIPPED = (EthosU("ethos-u55-128"), EthosU("ethos-u65-256"), EthosU("ethos-u85-256"))
WITH_DRAM = EthosU("ethos-u85-256", "Ethos_U85_SYS_DRAM_Mid", "Dedicated_Sram_384KB")
RUNS = (
    (MobileNetV2.digits, SHIPPED),
    (MobileNetV3.digits, (*SHIPPED, WITH_DRAM)),
)
CALIBRATE, UNSEEN = 30, 50

TARGETS = [
    *(
        Target(figure=f"{r.accelerator}_kendall_tau", sense=">=", bound=0.95, why="issue 4, worst space")
        for r in SHIPPED
    ),
    *(
        Target(figure=f"{r.accelerator}_sram_error", sense="<=", bound=0.10, why="issue 4, worst network")
        for r in SHIPPED
    ),
    Target(figure="with_dram_kendall_tau", sense=">=", bound=0.95, why="issue 4; weights streamed from DRAM"),
    Target(figure="arena_error", sense="<=", bound=0.10, why="issue 4, worst network"),
    Target(figure="flash_error", sense="<=", bound=0.10, why="issue 4, worst network"),
]


def measure(quick: bool) -> Measured:
    rows: list[dict[str, object]] = []
    for make, runtimes in RUNS[:1] if quick else RUNS:
        with tempfile.TemporaryDirectory() as folder:
            rows += _space(make(), runtimes[:1] if quick else runtimes, Path(folder), quick)
    frame = pd.DataFrame(rows)
    figures = {"arena_error": frame["arena_error"].max(), "flash_error": frame["flash_error"].max()}
    for runtime in SHIPPED:
        own = frame[frame["device"] == runtime.device.name]
        if len(own):
            figures[f"{runtime.accelerator}_kendall_tau"] = own["kendall_tau"].min()
            figures[f"{runtime.accelerator}_sram_error"] = own["sram_error"].max()
            figures[f"{runtime.accelerator}_sram_within_10pct"] = own["sram_within_10pct"].min()
    dram = frame[frame["device"] == WITH_DRAM.device.name]
    if len(dram):
        figures["with_dram_kendall_tau"] = dram["kendall_tau"].min()
    return Measured(rows=frame, figures={name: float(value) for name, value in figures.items()})


def _space(space: SearchSpace, runtimes: Sequence[EthosU], folder: Path, quick: bool) -> list[dict[str, object]]:
    """One row per accelerator; the files are compiled by all of them."""
    campaign = plan(space, calibrate=10 if quick else CALIBRATE, validate=10 if quick else UNSEEN)
    after = [(_before(b), b) for b in space.blocks if not isinstance(b, Stem)]
    networks = [*((b,) for b in space.blocks), *after, *space.networks(campaign.archs)]
    paths = [_written(blocks, folder / f"{i}.tflite") for i, blocks in enumerate(networks)]
    unseen = paths[-len(campaign.validate) :]
    recorded = np.array([sum(recorded_arena(path.read_bytes())) for path in unseen])
    sizes = np.array([path.stat().st_size for path in unseen])
    memory = {
        "arena_error": _worst(peak_sram(space)(campaign.validate), recorded),
        "flash_error": _worst(flash_size(space)(campaign.validate), sizes),
    }
    rows: list[dict[str, object]] = []
    for runtime in runtimes:
        compiled = runtime.prepare_all(paths, [blocks[0].in_shape for blocks in networks])
        ms, sram = np.array([c.ms for c in compiled]), np.array([c.sram for c in compiled], dtype=float)
        alone, inside = (
            ms[: len(space.blocks)],
            dict(zip((b for _, b in after), sram[len(space.blocks) :], strict=False)),
        )
        needed = np.array([max(s, inside.get(b, 0)) for b, s in zip(space.blocks, sram, strict=False)])
        blocks = pd.DataFrame(
            {
                "block": [b.key for b in space.blocks],
                "latency_ms": alone,
                "p10_ms": alone,
                "p90_ms": alone,
                "runs": 1,
                "sram_bytes": needed.astype(int),
            }
        )
        table, _ = assemble(
            campaign,
            runtime.device,
            blocks,
            ms[-len(campaign.archs) :],
            kind="simulated",
            source="experiments/benchmarks/ethos_u.py: estimates of Arm's compiler vela",
            notes={
                "runs": "deterministic",
                "sram_bytes": "of the block compiled alone, or after a 1x1 convolution if that is more",
            },
        )
        peak, true = space.scorer(needed, combine=np.maximum)(campaign.validate), sram[-len(campaign.validate) :]
        assert table.validation is not None
        rows.append(
            {
                "space": space.name,
                "device": runtime.device.name,
                "chip": runtime.device.chip,
                "blocks": len(blocks),
                "networks": table.validation.networks,
                "kendall_tau": table.validation.kendall_tau,
                "mape": table.validation.mape,
                "within_10pct": table.validation.within_10pct,
                "sram_error": _worst(peak, true),
                "sram_within_10pct": round(float((np.abs(peak - true) <= 0.1 * true).mean()), 4),
                **memory,
            }
        )
        print(rows[-1], flush=True)
        if not quick and runtime in SHIPPED:
            table.save(TABLES / f"{slug(runtime.device.name)}_vela_int8_{space.name}")
    return rows


def _before(block: Block) -> Stem:
    """A cheap layer whose output ``block`` takes."""
    return Stem(in_ch=3, out_ch=block.in_ch, kernel=1, stride=1, size=block.size)


def _written(blocks: tuple[Block, ...], path: Path) -> Path:
    module = build(blocks[0]) if len(blocks) == 1 else Network(blocks)
    path.write_bytes(timing_tflite(module, blocks[0].in_shape, precision="int8"))
    return path


def _worst(predicted: np.ndarray, true: np.ndarray) -> float:
    """Largest relative error; NaN where there is nothing to be right about."""
    return round(float(np.abs(predicted / true - 1).max()), 4) if (true > 0).all() else float("nan")


if __name__ == "__main__":
    run("ethos_u", TARGETS, measure, packages=("ethos-u-vela", "tflite-micro", "ai-edge-litert", "torch"))
