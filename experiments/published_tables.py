"""Writes the published tables in latency_tables/ from the data that others measured (../shared/data beside the project)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sources import SHARED, TABLES, staged

from nas.blocks import Block, InvertedResidual
from nas.device import Device
from nas.space import SearchSpace
from nas.tables.fit.calibration import Calibration
from nas.tables.table import LatencyTable
from search_spaces import FBNet, OnceForAll
from search_spaces.nasbench201 import EDGES, OPERATIONS

Published = Mapping[str, list[tuple[float, float, int]]]  # operation -> mean, standard deviation, runs, per image size
OFA = {"source": "han-cai/files (data of once-for-all, github mit-han-lab/once-for-all)", "licence": "MIT"}
NOTES = {
    "percentiles": "from the source's mean and standard deviation, taken as normal",
    "device": "runtime, precision and threads are not in the source's file: assumed or recalled from the papers, not checked",
    "date": "that of the paper",
}


@dataclass(frozen=True, kw_only=True)
class Names:
    """How a source calls the operations of a stem, a block and a head, in the block's own numbers."""

    stem: str
    block: str
    head: tuple[str, ...]

    def of(self, block: Block) -> list[str]:
        """The operations of one block."""
        mid = getattr(block, "mid", block.in_ch)
        numbers = {
            **{name: getattr(block, name, 0) for name in ("hidden", "features", "kernel", "stride")},
            **{"n": block.size, "m": block.out_size, "i": block.in_ch, "o": block.out_ch},
            **{"mid": mid, "expand": mid // block.in_ch, "skip": int(getattr(block, "residual", False))},
            **{"se": int(getattr(block, "se", 0) > 0), "hs": int(getattr(block, "act", "") == "hswish")},
        }
        names = {"stem": (self.stem,), "head": self.head}.get(block.kind, (self.block,))
        return [name.format(**numbers) for name in names]


_WHERE = "-input:{n}x{n}x{i}-output:{m}x{m}x{o}"
NOTE10 = Names(
    stem=f"Conv{_WHERE}",
    block=f"expanded_conv{_WHERE}-expand:{{mid}}-kernel:{{kernel}}-stride:{{stride}}-idskip:{{skip}}-se:{{se}}-hs:{{hs}}",
    head=(
        "Conv_1-input:{n}x{n}x{i}-output:{n}x{n}x{hidden}",
        "AvgPool2D-input:{n}x{n}x{hidden}-output:1x1x{hidden}",
        "Conv_2-input:1x1x{hidden}-output:1x1x{features}",
        "Logits-input:1x1x{features}-output:{o}",
    ),
)
PIXEL1 = Names(
    stem=f"Conv{_WHERE}",
    block=f"expanded_conv{_WHERE}-expand:{{expand}}-kernel:{{kernel}}-stride:{{stride}}-idskip:{{skip}}",
    head=("Conv_1-input:{n}x{n}x{i}-output:{n}x{n}x{hidden}", "Logits-input:{n}x{n}x{hidden}-output:{o}"),
)
I7 = Names(
    stem=f"first_conv{_WHERE}",
    block=f"MBConv{_WHERE}-expand:{{expand}}-kernel:{{kernel}}-stride:{{stride}}-idskip:{{skip}}-se:{{se}}",
    head=(
        "final_expand_layer-input:{n}x{n}x{i}-output:{n}x{n}x{hidden}",
        "feature_mix_layer-input:1x1x{hidden}-output:1x1x{features}",
        "classifier-input:{features}-output:{o}",
    ),
)


def main() -> None:
    """All of them."""
    write_nasbench201()
    write_note10()
    write_pixel1()
    write_fbnet()
    write_i7_8700k()
    write_xeon_6130()


def write_note10() -> None:
    """Once-for-all's MobileNetV3 of width 1.2 on a Samsung Note10."""
    table = _once_for_all(
        OnceForAll.mobilenet_v3(),
        _device("note10", "Samsung Note10 CPU", "unknown"),
        "samsung_note10_latency.csv",
        NOTE10,
        date="2020-05-01",
        notes={"image_sizes": "a block that the source timed at several image sizes has their mean"},
    )
    table = replace(table, notes={**table.notes, "published_networks": _check_note10(table)})
    print(table.save(TABLES / "note10_ofa_b1"))


def write_pixel1() -> None:
    """ProxylessNAS at 224 px on a Google Pixel 1."""
    device = _device("pixel1", "Google Pixel 1 CPU", "TFLite")
    space = OnceForAll.proxyless_nas()
    table = _once_for_all(space, device, "google_pixel1_latency_proxylessnas.csv", PIXEL1, date="2018-12-01")
    print(table.save(TABLES / "pixel1_proxyless_b1"))


def write_fbnet() -> None:
    """FBNet's CIFAR-100 networks on a Raspberry Pi 4, and on Eyeriss and an FPGA as estimated by tools."""
    space = FBNet.cifar100()
    costs = pd.read_csv(SHARED / "fbnet_lut_hwnasbench" / "fbnet_cifar100_lut.csv")
    fixed = pd.read_csv(SHARED / "fbnet_lut_hwnasbench" / "fbnet_cifar100_lut_const.csv", index_col="device")[
        "const_ms"
    ]
    devices = {
        "raspi4": (_device("raspi4", "Raspberry Pi 4", "TFLite"), "published"),
        "eyeriss": (_device("eyeriss", "Eyeriss", "simulator", "unknown"), "simulated"),
        "fpga": (_device("fpga", "FPGA", "HLS estimate", "unknown"), "simulated"),
    }
    for name, (device, kind) in devices.items():
        columns = ["kernel", "expand", "group", "h_in", "c_in", "c_out", "stride", "latency_minus_skip_ms"]
        ms = {tuple(row[:-1]): row[-1] for row in costs.loc[costs["device"] == name, columns].itertuples(index=False)}
        table = LatencyTable(
            device=device,
            rows=_without_spread([b.key for b in space.blocks], [_over_skip(ms, b) for b in space.blocks]),
            calibration=Calibration(fixed_ms=float(fixed[name])),
            kind=kind,
            space=_identity(space),
            date="2021-05-01",
            source="HW-NAS-Bench (GATECH-EIC/HW-NAS-Bench, ICLR 2021), solved from the sums in HayeonLee/HELP at 45f70eb",
            licence="MIT",
            notes={
                "blocks": "each block's latency less that of 'skip' at its place: only these differences and sums of "
                "whole networks are published. Stem, head and the 1x1 convolutions that skip where the shape changes "
                "are 0 here, and together fixed_ms; so every sum is the source's",
                "percentiles": "no spread is published: equal to the latency",
                "validation": "none is possible: the source's whole networks are sums of its blocks",
                "device": NOTES["device"],
                "date": NOTES["date"],
            },
        )
        print(table.save(TABLES / f"{name}_fbnet_b1"))


def write_i7_8700k() -> None:
    """Once-for-all's MobileNetV3 of both widths on an Intel i7-8700K, 96 to 256 px."""
    frame = pd.read_csv(SHARED / "nsganetv2_lut" / "i7_8700k_lut.csv.gz")
    source: Published = {
        row.key: [(row.latency_ms, row.std_ms, 1)] for row in frame[["key", "latency_ms", "std_ms"]].itertuples()
    }
    for width in (1.0, 1.2):
        space = OnceForAll.mobilenet_v3(width=width, resolutions=tuple(range(96, 257, 4)))
        table = LatencyTable(
            device=_device("i7-8700k", "Intel Core i7-8700K", "unknown"),
            rows=_rows(space, source, I7),
            kind="published",
            space=_identity(space),
            date="2020-07-01",
            source="NSGANetV2 (human-analysis/nsganetv2 at 949322a5, ECCV 2020)",
            licence="Apache-2.0",
            notes=NOTES
            | {
                "unknown": "batch, framework, threads and unit are not stated by the source; ms by plausibility, batch 1 and "
                "one thread assumed",
                "runs": "not published: 1",
                "pooling": "the head has no average pooling in the source: it is missing here too",
                "validation": "none: the source publishes no whole networks",
            },
        )
        print(table.save(TABLES / f"i7-8700k_ofa_w{round(10 * width)}_b1"))


def write_xeon_6130() -> None:
    """TF-NAS's blocks on one thread of a Xeon Gold 6130: only the widths that were measured."""
    folder = SHARED / "tfnas_lut"
    frame = pd.read_csv(folder / "xeon_gold_6130_cpu_b1.csv.gz").sort_values("mid_channels", kind="stable")
    place = [c for c in frame if c not in ("mid_channels", "latency_ms")]
    measured = pd.concat([group[knots(group)] for _, group in frame.groupby(place)])
    table = LatencyTable(
        device=_device("xeon-gold-6130", "Intel Xeon Gold 6130", "PyTorch 1.1"),
        rows=_without_spread([_tfnas_block(row).key for row in measured.itertuples()], measured["latency_ms"].tolist()),
        kind="published",
        space={"name": "tf-nas widths"},
        date="2020-07-01",
        source="TF-NAS (AberHu/TF-NAS at 08b31a2e, ECCV 2020)",
        licence="MIT",
        notes={
            "blocks": f"{len(measured)} of the source's {len(frame)} rows: those between straight lines. The others are "
            "interpolated between them, or extrapolated below them (84 to values that are not positive)",
            "stem_and_head_ms": json.loads((folder / "xeon_gold_6130_cpu_b1.base.json").read_text())["base_ms"],
            "not_covered": "stem, first block, last convolution and classifier are one number in the source "
            "(stem_and_head_ms), so no space is covered whole; nas.estimate interpolates between these widths",
            "percentiles": "no spread is published: equal to the latency",
            "act": "the source's swish is silu here; its squeeze-excite has a sigmoid gate, with relu too",
            "validation": "none: the source publishes no whole networks",
            "date": NOTES["date"],
        },
    )
    print(table.save(TABLES / "xeon-gold-6130_tfnas_b1"))


def _once_for_all(
    space: SearchSpace, device: Device, file: str, names: Names, *, date: str, notes: Mapping[str, str] | None = None
) -> LatencyTable:
    return LatencyTable(
        device=device,
        rows=_rows(space, _published(file), names),
        kind="published",
        space=_identity(space),
        date=date,
        notes=NOTES | dict(notes or {}),
        **OFA,
    )


def knots(rows: pd.DataFrame) -> NDArray[np.bool_]:
    """``(n,)``: which rows, in order of width, are measured: where the slope changes by more than rounding, and the last.

    The last: were it extrapolated, the slope would not change at the knot before it.
    """
    width, ms = rows["mid_channels"].to_numpy(float), rows["latency_ms"].to_numpy(float)
    slopes = np.diff(ms) / np.diff(width)
    rounding = 3e-6 * np.maximum(1.0, ms[1:-1])
    bent = np.abs(np.diff(slopes)) > rounding
    return np.concatenate([[False], bent, [bool(bent.any())]]) & (ms > 0)


def _tfnas_block(row: Any) -> InvertedResidual:
    return InvertedResidual(
        in_ch=row.c_in,
        mid=row.mid_channels,
        out_ch=row.c_out,
        size=row.h_in,
        kernel=row.kernel,
        stride=row.stride,
        se=row.se_channels,
        act={"swish": "silu"}.get(row.act, row.act),
        residual=row.stride == 1 and row.c_in == row.c_out,
    )


def _over_skip(ms: Mapping[tuple[float, ...], float], b: Block) -> float:
    if not isinstance(b, InvertedResidual):
        return 0.0
    return ms[b.kernel, b.mid // b.in_ch, b.groups, b.size, b.in_ch, b.out_ch, b.stride]


def _device(name: str, chip: str, runtime: str, precision: str = "fp32") -> Device:
    return Device(name=name, chip=chip, runtime=runtime, version="", precision=precision, batch=1, threads=1)


def _identity(space: SearchSpace) -> dict[str, str]:
    return {"name": space.name, "fingerprint": space.fingerprint}


def _published(file: str) -> Published:
    rows: dict[str, list[tuple[float, float, int]]] = {}
    for row in pd.read_csv(SHARED / "ofa" / file).itertuples():
        rows.setdefault(row.op, []).append((row.mean_ms, row.std_ms, row.n_runs))
    return rows


def _without_spread(blocks: list[str], ms: list[float]) -> pd.DataFrame:
    return pd.DataFrame({"block": blocks, "latency_ms": ms, "p10_ms": ms, "p90_ms": ms, "runs": 1})


def _rows(space: SearchSpace, source: Published, names: Names) -> pd.DataFrame:
    """One row per block of ``space``: the sum of its operations in ``source``; variances add up."""
    rows = []
    for block in space.blocks:
        keys = names.of(block)
        timed = [np.mean(source[key], axis=0) for key in keys]
        mean = float(sum(ms for ms, _, _ in timed))
        spread = NormalDist().inv_cdf(0.9) * float(sum(std**2 for _, std, _ in timed)) ** 0.5
        runs = min(n for key in keys for _, _, n in source[key])
        rows.append((block.key, mean, max(mean - spread, 0.0), mean + spread, runs))
    return pd.DataFrame(rows, columns=["block", "latency_ms", "p10_ms", "p90_ms", "runs"])


def _check_note10(table: LatencyTable) -> dict[str, Any]:
    """Once-for-all's own Note10 networks of this width at up to 224 px: their latency as published and by ``table``.

    What the table does not have at a network's image size is interpolated, in the area of the image, between 208 and 224.
    """
    space = OnceForAll.mobilenet_v3(resolutions=(208, 220, 224))
    known = set(table.rows["block"])
    published = pd.read_csv(SHARED / "ofa" / "specialized_networks.csv")
    ours = published[(published["device"] == "note10") & (published["first_conv_out"] == 24)]
    networks = {}
    for row in ours[ours["image_size"] <= 224].itertuples():
        sizes = (208, row.image_size, 224)
        configs = [staged(space, size, row.kernels, row.expands, row.depths) for size in sizes]
        small, own, large = space.networks(space.encode(configs))
        area = (row.image_size**2 - 208**2) / (224**2 - 208**2)
        ms = sum(
            table.predict([b]) if b.key in known else (1 - area) * table.predict([s]) + area * table.predict([g])
            for s, b, g in zip(small, own, large, strict=True)
        )
        networks[row.name] = {
            "published_ms": row.latency_ms,
            "table_ms": round(ms, 2),
            "blocks_interpolated": sum(b.key not in known for b in own),
        }
    return networks


def write_nasbench201() -> None:
    """nasbench201.csv.gz and .json: accuracy as a fraction, latencies in ms."""
    source = pd.read_csv(SHARED / "nasbench201" / "nasbench201.csv.gz")
    frame = pd.DataFrame({e: [OPERATIONS[i] for i in source[e]] for e in EDGES})
    frame["accuracy"] = (source["cifar100_top1"] / 100).round(6)
    for column in [c for c in source if c.startswith("lat_")]:
        frame[f"latency_ms.{column.removeprefix('lat_')}"] = source[column]
    path = TABLES / "nasbench201.csv.gz"
    path.write_bytes(gzip.compress(frame.to_csv(index=False).encode(), compresslevel=9, mtime=0))
    about = {
        "kind": "published",
        "space": "nasbench201",
        "columns": {
            "accuracy": "CIFAR-100 top-1 as a fraction, NAS-Bench-201 (Dong and Yang, ICLR 2020)",
            "latency_ms.<device>": "whole-network latency in ms; the suffix is the batch size where there is one",
        },
        "source": (
            "latencies: HayeonLee/HELP at 45f70eb (NeurIPS 2021), but raspi4 and eyeriss: HW-NAS-Bench (ICLR 2021); "
            "accuracy: NAS-Bench-201 as tabulated by roldebijvank/HW-NAS-Bench-360"
        ),
        "licence": "MIT (HELP, HW-NAS-Bench, NAS-Bench-201)",
        "notes": "phones are rounded to whole ms by the source; eyeriss was estimated by a simulator, not measured",
        "rows": len(frame),
    }
    path.with_name("nasbench201.json").write_text(json.dumps(about, indent=2) + "\n")
    print(path, f"{path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
