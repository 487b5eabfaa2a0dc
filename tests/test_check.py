"""What goes wrong with latency tables: each mistake is made on purpose, on a table that is clean without it."""

from __future__ import annotations

import dataclasses
import datetime
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import SHARED

from nas.blocks import from_key
from nas.tables.check import check, check_saved
from nas.tables.finding import device_class, digits
from nas.tables.fit.calibration import Calibration
from nas.tables.table import LatencyTable, Validation
from search_spaces import MobileNetV3

TABLES = Path(__file__).parents[1] / "latency_tables"
SHIPPED = sorted(p.stem for p in TABLES.glob("*.csv"))
TODAY = datetime.date(2026, 11, 22)


def load(name):
    return LatencyTable.load(TABLES / name)


@pytest.fixture(scope="module")
def cpu():
    """Measured on a CPU, one thread, batch 1; validated."""
    return load("amd-epyc_onnxruntime_fp32_mobilenet_v3_digits")


@pytest.fixture(scope="module")
def gpu():
    return load("titanxp_ofa_b64")


def changed(table, *, device=None, **fields):
    """The table with other columns, fields or conditions."""
    columns = {k: v for k, v in fields.items() if k in table.rows}
    others = {k: v for k, v in fields.items() if k not in table.rows}
    return dataclasses.replace(
        table, rows=table.rows.assign(**columns), device=dataclasses.replace(table.device, **(device or {})), **others
    )


def times(table, factor, **more):
    return changed(table, **{c: table.rows[c] * factor for c in ("latency_ms", "p10_ms", "p90_ms")}, **more)


def found(table, **options):
    """Code -> severity."""
    return {f.code: f.severity for f in check(table, today=TODAY, **options)}


# --------------------------------------------------------------------------------------------------------------
# Tables as they are shipped


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_tables_have_no_errors(name):
    assert [f.message for f in check_saved(TABLES / name, today=TODAY) if f.severity == "error"] == []


def test_shipped_tables_have_no_errors_beside_each_other():
    tables = [load(n) for n in SHIPPED if "xeon-gold-6130" not in n and "ethos" not in n]
    findings = [f for t in tables for f in check(t, others=[o for o in tables if o is not t], today=TODAY)]
    assert [f.message for f in findings if f.severity == "error"] == []
    # small images on large GPUs: these take as long at batch 1 as at 32
    assert {"batch"} <= {f.code for f in findings}


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_good_measured_table_is_clean(precision):
    other = {"fp32": "int8", "int8": "fp32"}[precision]
    names = [f"amd-epyc_onnxruntime_{p}_mobilenet_v3_digits" for p in (precision, other)]
    assert found(load(names[0]), others=[load(names[1])], space=MobileNetV3.digits()).keys() <= {"version"}


# --------------------------------------------------------------------------------------------------------------
# Units


@pytest.mark.parametrize("factor", [1e-3, 1e3])
@pytest.mark.parametrize("name", [n for n in SHIPPED if n not in ("eyeriss_fbnet_b1", "fpga_fbnet_b1")])
def test_another_unit_is_seen_on_any_device(name, factor):
    table = load(name)
    assert "units" not in found_units(table)
    assert found_units(times(table, factor)).get("units") == "error"


def found_units(table):
    from nas.tables.check import _units

    return {f.code: f.severity for f in _units(table)}


def test_another_unit_is_seen_beside_another_device_of_the_class():
    one, other = load("fpga_fbnet_b1"), load("eyeriss_fbnet_b1")
    assert "units" not in found(one, others=[other])
    wrong = times(one, 1e-3)
    assert "units" not in found(wrong)  # a simulator may be of anything
    assert found(wrong, others=[other])["units"] == "error"


def test_some_rows_in_another_unit(cpu):
    ms, rows = cpu.rows["latency_ms"].to_numpy(float).copy(), [40, 200, 333]
    ms[rows] *= 1000
    wrong = changed(cpu, latency_ms=ms, p10_ms=ms * 0.99, p90_ms=ms * 1.01)
    finding = next(f for f in check(wrong, today=TODAY) if f.code == "mixed units")
    assert finding.severity == "error"
    assert set(finding.rows) == set(cpu.rows["block"].iloc[rows])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("amd-epyc_onnxruntime_fp32_mobilenet_v3_digits", "CPU"),
        ("note10_ofa_b1", "CPU"),
        ("titanx_fbnet_b1", "GPU"),
        ("2080ti_ofa_b1", "GPU"),
        ("ethos-u55-128_vela_int8_mobilenet_v3_digits", "NPU"),
        ("fpga_fbnet_b1", "accelerator"),
    ],
)
def test_classes_of_devices(name, kind):
    assert device_class(load(name)) == kind


# --------------------------------------------------------------------------------------------------------------
# Beside another table


@pytest.mark.parametrize("factor", [1.0, 0.5, 1.37])
def test_rows_of_another_device(cpu, factor):
    other = times(cpu, factor, device={"name": "elsewhere", "chip": "Another CPU"})
    assert found(other, others=[cpu])["copied"] == "error"


def test_a_part_copied(cpu, gpu):
    """Half of the rows from elsewhere, half with their own noise; and none."""
    rng, device = np.random.default_rng(0), {"name": "elsewhere", "chip": "Another CPU"}
    noise = np.exp(rng.normal(0, 0.05, len(cpu.rows)))
    own = times(cpu, noise, device=device)
    assert "copied" not in found(own, others=[cpu])
    noise[::2] = 1.0
    finding = next(f for f in check(times(cpu, noise, device=device), others=[cpu]) if f.code == "copied")
    assert finding.severity == "error"
    copied = set(cpu.rows["block"].iloc[::2])
    assert len(copied - set(finding.rows)) <= 0.02 * len(copied)  # a few round numbers are too common to tell


def test_an_adapted_table_says_where_its_rows_are_from(cpu):
    device = {"name": "elsewhere", "chip": "Another CPU"}
    adapted = times(cpu, 2.0, device=device, source="adapted from AMD EPYC", kind="fitted")
    assert found(adapted, others=[cpu])["copied"] == "warning"


def test_the_same_device_may_say_the_same(cpu):
    assert "copied" not in found(cpu, others=[changed(cpu, source="a copy")])


def test_rounded_tables_are_alike_by_chance():
    """Two devices with latencies in whole milliseconds share many of them."""
    rng, table = np.random.default_rng(0), load("raspi4_fbnet_b1")
    one, two = (
        changed(table, latency_ms=ms, p10_ms=ms, p90_ms=ms, device={"name": n, "chip": n})
        for n, ms in (("a", rng.integers(1, 9, len(table.rows))), ("b", rng.integers(1, 9, len(table.rows))))
    )
    assert "copied" not in found(one, others=[two])


def test_another_batch_on_a_cpu(cpu):
    """A second table that says batch 16, but took as long as one image does."""
    honest = times(cpu, 14.0 * np.exp(np.random.default_rng(0).normal(0, 0.05, len(cpu.rows))), device={"batch": 16})
    assert not {"batch", "copied"} & found(honest, others=[cpu]).keys()
    assert found(changed(honest, **_ms(cpu, 1.03)), others=[cpu])["batch"] == "error"
    assert found(times(honest, 5.0), others=[cpu])["batch"] == "error"  # 70 times as long for 16 images


def test_another_batch_on_a_gpu(gpu):
    """Batch 64 that takes less than batch 32, and as long as batch 1."""
    one, half = load("titanxp_ofa_b1"), load("titanxp_ofa_b32")
    assert "batch" not in found(gpu, others=[one, half])
    wrong = changed(one, device={"batch": 64})
    assert found(wrong, others=[half])["batch"] == "error"
    wrong = times(one, np.exp(np.random.default_rng(0).normal(0, 0.02, len(one.rows))), device={"batch": 64})
    assert found(wrong, others=[one])["batch"] == "warning"


def test_another_number_of_threads(cpu):
    noise = np.exp(np.random.default_rng(0).normal(0, 0.02, len(cpu.rows)))
    for speedup, expected in ((3.0, None), (0.99, "warning"), (9.0, "error"), (0.5, "error")):
        four = times(cpu, noise / speedup, device={"threads": 4})
        assert found(four, others=[cpu]).get("threads") == expected, speedup
        assert found(cpu, others=[four]).get("threads") == expected, speedup


def _ms(table, factor):
    return {c: table.rows[c].to_numpy(float) * factor for c in ("latency_ms", "p10_ms", "p90_ms")}


# --------------------------------------------------------------------------------------------------------------
# Rows


def test_percentiles_out_of_order(cpu):
    low = cpu.rows["p10_ms"].to_numpy(float).copy()
    low[[3, 5]] = cpu.rows["p90_ms"].iloc[[3, 5]] * 2
    finding = next(f for f in check(changed(cpu, p10_ms=low)) if f.code == "percentiles")
    assert (finding.severity, set(finding.rows)) == ("error", set(cpu.rows["block"].iloc[[3, 5]]))


def test_no_spread_at_all(cpu):
    steady = changed(cpu, p10_ms=cpu.rows["latency_ms"], p90_ms=cpu.rows["latency_ms"])
    assert found(steady)["percentiles"] == "warning"
    assert "percentiles" not in found(dataclasses.replace(steady, kind="fitted"))


def test_a_single_run(cpu):
    assert found(changed(cpu, runs=1))["runs"] == "warning"
    assert "runs" not in found(changed(cpu, runs=1, kind="simulated"))


def test_rows_that_take_no_time():
    """The source counts them elsewhere; its note is passed on."""
    table = load("raspi4_fbnet_b1")
    finding = next(f for f in check(table, today=TODAY) if f.code == "zero")
    assert len(finding.rows) == (table.rows["latency_ms"] == 0).sum() > 0
    assert table.notes["blocks"] in finding.message


def test_rows_that_are_not_positive_are_unreadable(cpu, tmp_path):
    stem = cpu.save(tmp_path / "t")
    lines = stem.read_text().splitlines()
    key, _, rest = lines[9].partition(",")
    stem.write_text("\n".join([*lines[:9], f"{key},-{rest}", *lines[10:]]))
    (finding,) = check_saved(tmp_path / "t")
    assert (finding.severity, finding.code) == ("error", "unreadable")
    assert key in finding.message


def test_rows_on_straight_lines_are_interpolated():
    """Every second expansion replaced by what lies between its neighbours."""
    table = load("note10_ofa_b1")
    assert "interpolated" not in found(table)
    group: dict[tuple[object, ...], list[tuple[int, int]]] = {}
    ms = table.rows["latency_ms"].to_numpy(float).copy()
    for i, b in enumerate(table.blocks):
        if b.kind == "inverted_residual":
            group.setdefault((b.in_ch, b.out_ch, b.size, b.kernel, b.stride, b.se > 0), []).append((b.mid, i))
    lines = [sorted(rows) for rows in group.values() if len({mid for mid, _ in rows}) == 3]
    for (a, i), (b, j), (c, k) in lines:
        ms[j] = ms[i] + (ms[k] - ms[i]) * (b - a) / (c - a)
    assert len(lines) > 10
    wrong = found(changed(table, latency_ms=ms, p10_ms=ms * 0.98, p90_ms=ms * 1.02))
    assert wrong["interpolated"] == "error"


@pytest.mark.skipif(not (SHARED / "tfnas_lut").exists(), reason="needs the published data in shared/")
def test_the_interpolated_table_of_tf_nas():
    """The source's rows as they are: most widths lie on straight lines (of the shipped knots, none does)."""
    source = pd.read_csv(SHARED / "tfnas_lut" / "xeon_gold_6130_cpu_b1.csv.gz")
    source = source[(source["latency_ms"] > 0) & (source["kernel"] == 3) & (source["c_in"] <= 40)]
    blocks = [
        f"inverted_residual in_ch={r.c_in} out_ch={r.c_out} size={r.h_in} mid={r.mid_channels} kernel={r.kernel} "
        f"stride={r.stride} se={r.se_channels} act={r.act.replace('swish', 'silu')} "
        f"residual={int(r.stride == 1 and r.c_in == r.c_out)}"
        for r in source.itertuples()
    ]
    ms = source["latency_ms"].to_numpy()
    rows = pd.DataFrame({"block": blocks, "latency_ms": ms, "p10_ms": ms, "p90_ms": ms, "runs": 1})
    shipped = load("xeon-gold-6130_tfnas_b1")
    table = dataclasses.replace(shipped, rows=rows.drop_duplicates("block"))
    assert from_key(blocks[0]).key == blocks[0]
    finding = next(f for f in check(table, today=TODAY) if f.code == "interpolated")
    assert finding.severity == "error"
    assert len(finding.rows) > 0.3 * len(table.rows)  # where neighbours differ by over 1%, and widths were not skipped


def test_larger_blocks_that_are_faster(cpu):
    """One block's time divided by three is seen when a smaller one of its make takes longer; so is which one it was."""
    widest = max(
        (i for i, b in enumerate(cpu.blocks) if b.kind == "inverted_residual"),
        key=lambda i: cpu.rows["latency_ms"].iloc[i],
    )
    ms = cpu.rows["latency_ms"].to_numpy(float).copy()
    assert "order" not in found(cpu)
    ms[widest] /= 8
    wrong = changed(
        cpu, latency_ms=ms, p10_ms=np.minimum(ms, cpu.rows["p10_ms"]), p90_ms=np.minimum(ms * 1.1, cpu.rows["p90_ms"])
    )
    finding = next(f for f in check(wrong, today=TODAY) if f.code == "order")
    assert finding.rows == (cpu.blocks[widest].key,)
    assert finding.severity == "warning"
    spread = changed(wrong, p90_ms=np.maximum(wrong.rows["p90_ms"], cpu.rows["p90_ms"]))
    assert "order" not in found(spread)  # its timings reach as far as those of smaller blocks


def test_a_table_in_no_order_at_all(cpu):
    """Latencies shuffled between blocks."""
    shuffled = cpu.rows[["latency_ms", "p10_ms", "p90_ms"]].sample(frac=1, random_state=0).reset_index(drop=True)
    wrong = changed(cpu, **{c: shuffled[c] for c in shuffled})
    assert found(wrong)["order"] == "error"


# --------------------------------------------------------------------------------------------------------------
# What it says of itself


@pytest.mark.parametrize(
    ("validation", "severity"),
    [
        (None, "warning"),
        (Validation(networks=20, kendall_tau=0.95, mape=0.02, within_10pct=1.0), None),
        (Validation(networks=20, kendall_tau=0.7, mape=0.05, within_10pct=0.9), "warning"),
        (Validation(networks=20, kendall_tau=0.95, mape=0.15, within_10pct=0.3), "warning"),
        (Validation(networks=5, kendall_tau=0.95, mape=0.02, within_10pct=1.0), "warning"),
        (Validation(networks=20, kendall_tau=0.2, mape=0.05, within_10pct=0.9), "error"),
        (Validation(networks=20, kendall_tau=float("nan"), mape=0.05, within_10pct=0.9), "error"),
        (Validation(networks=20, kendall_tau=0.95, mape=0.6, within_10pct=0.0), "error"),
    ],
)
def test_validation_missing_or_poor(cpu, validation, severity):
    assert found(changed(cpu, validation=validation)).get("validation") == severity


def test_a_calibration_at_its_limit(cpu):
    def calibrated(scale):
        return changed(cpu, calibration=dataclasses.replace(cpu.calibration, scale=scale))

    assert found(calibrated(3.0))["calibration"] == "warning"
    assert "calibration" not in found(calibrated(1.0))
    assert isinstance(cpu.calibration, Calibration)


def test_age(cpu):
    assert "age" not in found(cpu)
    for date in ("2024-01-01", "2027-06-01", "last week"):
        assert found(dataclasses.replace(cpu, date=date))["age"] == "warning", date
    assert "age" not in found(load("note10_ofa_b1"))  # published: old by nature


def test_another_version_than_installed(cpu, monkeypatch):
    monkeypatch.setattr("nas.tables.check.cpu_name", lambda: cpu.device.chip)
    monkeypatch.setattr("importlib.metadata.version", lambda package: {"onnxruntime": "1.30.0"}[package])
    finding = next(f for f in check(cpu, today=TODAY) if f.code == "version")
    assert finding.severity == "warning"
    assert "1.30.0" in finding.message
    assert cpu.device.version in finding.message
    monkeypatch.setattr("importlib.metadata.version", lambda package: cpu.device.version)
    assert "version" not in found(cpu)
    monkeypatch.setattr("importlib.metadata.version", lambda package: "1.30.0")
    monkeypatch.setattr("nas.tables.check.cpu_name", lambda: "Another CPU")
    assert "version" not in found(cpu)


def test_blocks_that_a_space_needs(cpu):
    assert "coverage" not in found(cpu, space=MobileNetV3.digits())
    space = MobileNetV3.cifar()
    finding = next(f for f in check(cpu, space=space) if f.code == "coverage")
    assert finding.severity == "error"
    assert set(finding.rows) == {b.key for b in cpu.missing(space.blocks)}


def test_edited_by_hand(cpu, tmp_path):
    csv = cpu.save(tmp_path / "t")
    clean = {f.code for f in check_saved(tmp_path / "t", today=TODAY)}
    assert "edited" not in clean
    text = csv.read_text()
    csv.write_text(text.replace(f"{cpu.rows['latency_ms'].iloc[7]:.6g}", "0.0042", 1))
    assert check_saved(tmp_path / "t", today=TODAY)[0].code == "edited"
    csv.write_text(text)
    meta = tmp_path / "t.json"
    header = json.loads(meta.read_text())
    meta.write_text(json.dumps(header | {"source": "words may be added"}))
    assert {f.code for f in check_saved(tmp_path / "t", today=TODAY)} == clean
    better = header["validation"] | {"kendall_tau": 0.99}
    meta.write_text(json.dumps(header | {"validation": better}))
    assert check_saved(tmp_path / "t", today=TODAY)[0].code == "edited"
    del header["checksum"]  # as saved before there was one
    meta.write_text(json.dumps(header))
    assert {f.code for f in check_saved(tmp_path / "t", today=TODAY)} == clean


def test_damaged_files(cpu, tmp_path):
    csv = cpu.save(tmp_path / "t")
    csv.write_text(csv.read_text()[:2000])
    assert [f.code for f in check_saved(tmp_path / "t")] == ["unreadable"]
    assert [f.code for f in check_saved(tmp_path / "nowhere")] == ["unreadable"]


def test_errors_come_first(cpu):
    severities = [f.severity for f in check(times(changed(cpu, runs=1), 1e-3, validation=None), today=TODAY)]
    assert severities == sorted(severities)
    assert {"error", "warning"} == set(severities)


def test_significant_digits():
    assert digits([1.0, 0.25, 1.5e-5, 123456.7, 100.0, 0.0]).tolist() == [1, 2, 2, 6, 1, 0]
