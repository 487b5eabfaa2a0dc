"""Latency tables: their arithmetic against independent sums, their files, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import nas
from nas.blocks import DepthwiseSeparable, Head, InvertedResidual, Stem
from nas.device import Device
from nas.errors import BadInput, MissingBlocks
from nas.modules import build
from nas.tables.features import (
    OPERATORS,
    attributes,
    block_counts,
    convolved,
    elements,
    field,
    live,
    macs_by_operator,
    make,
    size_names,
)
from nas.tables.fit.calibration import Calibration, fit_calibration
from nas.tables.shipped import SHIPPED
from nas.tables.table import LatencyTable, Validation, saved_checksum
from nas.tables.validation import distinct_archs, kendall_tau, positive, repeatability, validated
from search_spaces import MobileNetV2

SPACE = MobileNetV2.digits()
DEVICE = Device(name="board", chip="made up", runtime="none", version="", precision="fp32")


def a_table(ms=None, **fields):
    ms = np.array([0.01 + b.macs / 1e6 for b in SPACE.blocks]) if ms is None else ms
    rows = {"block": [b.key for b in SPACE.blocks], "latency_ms": ms, "p10_ms": ms * 0.9, "p90_ms": ms * 1.2, "runs": 9}
    defaults = {"device": DEVICE, "space": {"name": SPACE.name, "fingerprint": SPACE.fingerprint}}
    return LatencyTable(rows=pd.DataFrame(rows | fields.pop("columns", {})), **defaults | fields)


# ---- features ------------------------------------------------------------------------------------------------

BLOCKS = [
    Stem(in_ch=3, out_ch=16, size=32),
    DepthwiseSeparable(in_ch=16, out_ch=24, size=16, stride=2),
    InvertedResidual(in_ch=24, out_ch=24, size=8, mid=72, kernel=5, se=16, act="hswish", residual=True),
    Head(in_ch=24, out_ch=10, size=8, hidden=64, features=32),
]


def test_activations_are_those_that_torch_computes():
    for block in BLOCKS:
        seen, module = [], build(block).eval()
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_hook(lambda layer, inputs, output, seen=seen: seen.append(output.numel()))
        x = torch.zeros(1, *block.in_shape)
        with torch.no_grad():
            y = module(x)
        assert elements([block])[0] == x.numel() + y.numel()
        assert convolved([block])[0] == sum(seen)
        assert live([block])[0] >= max(x.numel(), y.numel())


def test_macs_by_operator_are_those_of_the_layers_that_torch_runs():
    for block in BLOCKS:
        found, module = dict.fromkeys(OPERATORS, 0), build(block).eval()

        def count(layer, inputs, output, found=found):
            kind = "dense"
            if isinstance(layer, nn.Conv2d) and output.shape[-1] > 1:
                kind = "depthwise" if layer.groups > 1 else "pointwise" if layer.kernel_size == (1, 1) else "full"
            found[kind] += output.numel() * layer.weight[0].numel()

        for layer in module.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.register_forward_hook(count)
        with torch.no_grad():
            module(torch.zeros(1, *block.in_shape))
        assert macs_by_operator([block])[0].tolist() == list(found.values())


def test_counts_are_of_each_networks_blocks_and_one_for_the_call():
    archs = SPACE.sample(30, np.random.default_rng(0))
    expected = [[*map(network.count, SPACE.blocks), 1] for network in SPACE.networks(archs)]
    assert block_counts(SPACE, archs).tolist() == expected
    assert (SPACE.block_ids(archs) == 0).any()  # empty positions, which count nowhere


def test_a_make_is_everything_but_sizes():
    block = BLOCKS[2]
    same = dataclasses.replace(block, in_ch=8, out_ch=8, mid=40, size=4, se=4)
    assert make(block) == make(same)
    for change in ({"kernel": 3}, {"stride": 2, "residual": False}, {"se": 0}, {"act": "relu"}, {"groups": 2}):
        assert make(block) != make(dataclasses.replace(block, **change)), change
    assert make(block, but=("act",)) == make(dataclasses.replace(block, act="relu"), but=("act",))
    assert make(BLOCKS[0]) != make(BLOCKS[1])
    assert attributes(BLOCKS[3])["features"] is True
    assert set(size_names(BLOCKS)) == {"in_ch", "out_ch", "size", "mid", "se", "hidden", "features"}
    assert field(BLOCKS, "mid").tolist() == [0, 0, 72, 0]


# ---- arithmetic ----------------------------------------------------------------------------------------------


def test_a_network_costs_its_blocks_and_a_call():
    calibration = Calibration(scale=0.8, fixed_ms=0.5, per_block_ms=0.003, per_element_ms=1e-6)
    table = a_table(calibration=calibration)
    network = SPACE.networks(SPACE.sample(1, np.random.default_rng(0)))[0]
    by_hand = 0.5
    for b in network:
        size = math.prod(b.in_shape) + math.prod(b.out_shape)
        by_hand += 0.8 * (0.01 + b.macs / 1e6) + 0.003 + 1e-6 * size
    assert table.predict(network) == pytest.approx(by_hand)
    other = InvertedResidual(in_ch=7, out_ch=7, size=5, mid=9)
    with pytest.raises(MissingBlocks, match="mid=9"):
        table.predict([*network, other])
    corrected = a_table(calibration=calibration, columns={"correction_ms": 0.25})
    assert corrected.predict(network) == pytest.approx(by_hand + 0.25 * len(network))


def test_spread_is_the_deviation_of_normal_timings():
    """Percentiles of a million normal timings; the calibration scales them."""
    samples = np.random.default_rng(0).normal(5.0, 0.3, 1_000_000)
    low, high = np.quantile(samples, [0.1, 0.9])
    columns = {"p10_ms": low, "p90_ms": high}
    table = a_table(np.full(len(SPACE.blocks), 5.0), columns=columns, calibration=Calibration(scale=0.5))
    assert table.spread(SPACE.blocks[:3]) == pytest.approx([0.15] * 3, rel=0.01)


def test_relative_error_is_the_deviation_of_normal_errors():
    errors = np.random.default_rng(0).normal(0, 0.07, 200_000)
    validation = validated(1 + errors, np.ones(200_000))
    assert a_table(validation=validation).relative_error == pytest.approx(0.07, rel=0.01)
    with pytest.raises(BadInput, match="nothing is known of its error"):
        _ = a_table().relative_error


def test_energy_is_looked_up_or_refused():
    assert a_table(columns={"energy_mj": 2.5}).lookup_energy(SPACE.blocks[:2]).tolist() == [2.5, 2.5]
    for columns in ({}, {"energy_mj": np.where(np.arange(len(SPACE.blocks)) == 3, np.nan, 1.0)}):
        with pytest.raises(BadInput, match="no energy"):
            a_table(columns=columns).lookup_energy(SPACE.blocks[:2])


def test_a_fingerprint_changes_with_every_number_that_counts():
    table = a_table()
    others = [
        a_table(np.array([0.01 + b.macs / 1e6 for b in SPACE.blocks]) * (1 + 1e-4)),
        dataclasses.replace(table, device=dataclasses.replace(DEVICE, threads=2)),
        *(
            dataclasses.replace(table, calibration=Calibration(**{f: 2.0}))
            for f in ("scale", "fixed_ms", "per_block_ms")
        ),
        a_table(columns={"correction_ms": 0.1}),
    ]
    assert len({t.fingerprint for t in [table, *others]}) == len(others) + 1
    assert dataclasses.replace(table, notes={"a": 1}).fingerprint == table.fingerprint


# ---- validation ----------------------------------------------------------------------------------------------


def test_figures_of_a_validation_are_counted_pair_by_pair():
    rng = np.random.default_rng(1)
    measured = rng.permutation(np.arange(1.0, 21.0))
    predicted = 40 + measured + rng.normal(0, 6, 20)
    agree = [
        np.sign(predicted[i] - predicted[j]) * np.sign(measured[i] - measured[j]) for i, j in combinations(range(20), 2)
    ]
    seen = validated(predicted, measured)
    assert seen.kendall_tau == pytest.approx(np.mean(agree), abs=1e-4)
    ranks = np.corrcoef(predicted.argsort().argsort(), measured.argsort().argsort())[0, 1]
    assert abs(ranks - seen.kendall_tau) > 0.05  # Spearman's rho, which is another number
    assert seen.networks == 20


def test_within_ten_percent_is_within_ten_percent():
    predicted = np.array([1.0, 1.099, 0.901, 1.101, 0.899, 1.19, 0.81, 3.0])
    seen = validated(predicted, np.ones(8))
    assert seen.within_10pct == 3 / 8
    assert seen.mape == pytest.approx(np.mean([0, 0.099, 0.099, 0.101, 0.101, 0.19, 0.19, 2.0]), abs=1e-4)
    assert validated(predicted * 7, np.full(8, 7.0)).mape == seen.mape  # relative to what was measured
    assert math.isnan(kendall_tau(np.ones(4), np.arange(4.0)))


def test_repeatability_is_over_the_blocks_that_both_hold():
    once = a_table()
    factor = np.where(np.arange(len(SPACE.blocks)) < 5, 2.0, 1.1)
    again = a_table(once.rows["latency_ms"].to_numpy() * factor)
    few = dataclasses.replace(again, rows=again.rows.iloc[4:])
    seen = repeatability(once, few)
    assert seen["blocks"] == len(SPACE.blocks) - 4
    assert seen["median"] == pytest.approx(0.1)
    tenths = repeatability(np.full(11, 2.0), 2.0 + np.arange(11) / 5)
    assert tenths == {"blocks": 11, "median": 0.5, "p90": 0.9}
    with pytest.raises(BadInput, match="no block in common"):
        repeatability(
            once, dataclasses.replace(again, rows=again.rows.assign(block=[f"other {i}" for i in again.rows.index]))
        )


def test_distinct_architectures_are_new_ones():
    some = distinct_archs(SPACE, 40, 0)
    assert len(np.unique(some, axis=0)) == len(some) == 40
    others = distinct_archs(SPACE, 40, 0, exclude=some)
    assert not {r.tobytes() for r in some} & {r.tobytes() for r in others}
    assert np.array_equal(distinct_archs(SPACE, 10, 0), some[:10])


# ---- calibration ---------------------------------------------------------------------------------------------


def a_campaign(n=40, seed=0):
    networks = SPACE.networks(distinct_archs(SPACE, n, seed))
    alone = [np.array([0.05 + b.macs / 1e7 for b in blocks]) for blocks in networks]
    return networks, alone


def predicted(fit, networks, alone):
    return np.array([fit.apply(n, a).sum() + fit.fixed_ms for n, a in zip(networks, alone, strict=True)])


def test_disturbed_networks_hardly_move_the_calibration():
    networks, alone = a_campaign()
    true = predicted(Calibration(scale=0.8, fixed_ms=0.02, per_block_ms=-0.01, per_element_ms=1e-7), networks, alone)
    measured = true.copy()
    measured[::6] *= np.linspace(1.3, 4, len(measured[::6]))  # something else ran
    error = np.abs(predicted(fit_calibration(networks, alone, measured), networks, alone) / true - 1)
    assert error.max() < 0.03
    sizes = [[a.sum(), 1, len(n), elements(n).sum()] for n, a in zip(networks, alone, strict=True)]
    design = np.array(sizes) / measured[:, None]
    squares = np.array(sizes) @ np.linalg.lstsq(design, np.ones(len(networks)), rcond=None)[0]
    assert np.abs(squares / true - 1).max() > 2 * error.max()  # least squares would be misled


def test_what_conversions_cost_follows_inputs_and_outputs():
    """Time that depends on elements alone: neither MACs nor the number of blocks explain it."""
    networks, alone = a_campaign()
    size = [sum(math.prod(b.in_shape) + math.prod(b.out_shape) for b in n) for n in networks]
    measured = np.array([0.9 * a.sum() + 4e-6 * s for a, s in zip(alone, size, strict=True)])
    fit = fit_calibration(networks, alone, measured)
    assert fit.per_element_ms == pytest.approx(4e-6, rel=0.15)
    assert predicted(fit, networks, alone) == pytest.approx(measured, rel=0.01)


def test_coefficients_stay_within_reason():
    networks, alone = a_campaign()
    whole = np.array([a.sum() for a in alone])
    assert fit_calibration(networks, alone, whole - 0.9 * whole.min()).fixed_ms == pytest.approx(0, abs=1e-6)
    for factor, scale in ((0.01, 0.2), (50, 3.0)):
        fit = fit_calibration(networks, alone, factor * whole)
        assert 0.2 <= fit.scale <= 3.0
        assert abs(np.log(fit.scale / scale)) < abs(np.log(scale))  # as far as it may go, or nearly
    unchanged = Calibration()
    assert unchanged.fixed_ms == 0
    assert unchanged.apply(networks[0], alone[0]).tolist() == alone[0].tolist()


def test_no_block_is_free():
    fit = Calibration(scale=0.5, per_block_ms=-1.0)
    alone = np.array([0.1, 10.0])
    assert fit.apply(BLOCKS[:2], alone).tolist() == [0.05 * 0.1, 4.0]


def test_few_noisy_networks_change_little():
    """Six networks, 5% off: drawn towards no change, what is fitted to them serves 200 others better than it would alone."""
    networks, alone = a_campaign(200, 1)
    true = predicted(Calibration(scale=0.8, fixed_ms=0.02, per_block_ms=-0.01, per_element_ms=1e-7), networks, alone)
    errors = []
    for seed in range(6):
        few = true[:6] * np.random.default_rng(seed).lognormal(0, 0.05, 6)
        fit = fit_calibration(networks[:6], alone[:6], few)
        errors.append(np.abs(predicted(fit, networks, alone) / true - 1).mean())
    assert np.mean(errors) < 0.059  # 0.065 without


def test_networks_that_cost_what_their_blocks_do_change_nothing():
    networks, alone = a_campaign(6)
    fit = fit_calibration(networks, alone, np.array([a.sum() for a in alone]))
    assert (fit.scale, fit.fixed_ms, fit.per_block_ms, fit.per_element_ms) == pytest.approx((1, 0, 0, 0), abs=1e-9)


def test_what_one_network_cannot_tell_apart_is_shared():
    """Timed six times, one network slower than its blocks: the scale explains that, the others equally little."""
    networks, alone = a_campaign(1)
    fit = fit_calibration(networks * 6, alone * 6, np.full(6, 1.1 * alone[0].sum()))
    per_block, per_element = len(networks[0]) * fit.per_block_ms, elements(networks[0]).sum() * fit.per_element_ms
    assert per_block == pytest.approx(fit.fixed_ms, rel=0.01)
    assert per_element == pytest.approx(fit.fixed_ms, rel=0.01)
    assert 0 < fit.fixed_ms < 0.05 * (fit.scale - 1) * alone[0].sum()
    assert predicted(fit, networks, alone) == pytest.approx(1.1 * alone[0].sum(), rel=0.001)


# ---- names and files -----------------------------------------------------------------------------------------


def test_shipped_tables_are_loaded_by_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    table = LatencyTable.load("note10_ofa_b1")
    assert table.device.name == "note10"
    assert LatencyTable.load("note10_ofa_b1.csv").fingerprint == table.fingerprint
    a_table().save(tmp_path / "note10_ofa_b1")  # one's own comes first
    assert LatencyTable.load("note10_ofa_b1").device.name == "board"
    with pytest.raises(BadInput, match="such as note10_ofa_b1"):
        LatencyTable.load("note10_ofa_b2")


def test_neither_tables_nor_their_command_import_torch():
    text = (
        "import sys; import nas; from nas.cli.app import main; table = nas.LatencyTable.load('note10_ofa_b1'); "
        f"assert main(['tables', {str(SHIPPED)!r}]) == 0; print({{'torch', 'onnxruntime', 'ray'}} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize(
    "name", ["", "  ", "/", ".", "..", "a\0b", "x" * 300, "no/such/table", "loop", "folder", "x.json"]
)
def test_what_is_no_table_is_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    with pytest.raises(BadInput) as caught:
        LatencyTable.load(name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("precision", ["../../x", "", "a/b", ".hidden", "x" * 200])
def test_names_that_leave_the_folder_are_refused(precision, tmp_path):
    with pytest.raises(BadInput, match="becomes a file name"):
        a_table(device=dataclasses.replace(DEVICE, precision=precision))
    a_table().save(tmp_path / "t")
    meta = tmp_path / "t.json"
    header = json.loads(meta.read_text())
    meta.write_text(json.dumps(header | {"device": header["device"] | {"precision": precision}}))
    with pytest.raises(BadInput):
        LatencyTable.load(tmp_path / "t")


def wrong_headers(header, path=()):
    """Every field of a good header: missing, or of another type."""
    for key, value in header.items():
        here = (*path, key)
        if key in ("format", "checksum", "fixed_ms") or "notes" in path:
            continue
        yield here, {k: v for k, v in header.items() if k != key}
        for wrong in (None, True, "text", -1, 1.5, [], {"a": 1}):
            fits = type(wrong) is type(value) or (type(value) is float and type(wrong) is int and wrong >= 0)
            if not fits and not (key == "validation" and wrong is None) and key not in ("notes", "space"):
                yield here, header | {key: wrong}
        if isinstance(value, dict):
            yield from ((inner, header | {key: changed}) for inner, changed in wrong_headers(value, here))


def test_every_wrong_field_is_named(tmp_path):
    validation = Validation(networks=9, kendall_tau=0.9, mape=0.02, within_10pct=1.0)
    a_table(validation=validation).save(tmp_path / "t")
    meta = tmp_path / "t.json"
    good = json.loads(meta.read_text())
    defaults = {"batch", "threads", "kendall_tau", "scale", "per_block_ms", "per_element_ms"}
    seen = 0
    for path, changed in wrong_headers(good):
        meta.write_text(json.dumps(changed))
        if path[-1] in defaults or path[-2:] == ("space", "name") or path[-1] == "fingerprint":
            continue
        with pytest.raises(BadInput) as caught:
            LatencyTable.load(tmp_path / "t")
        assert path[-1] in str(caught.value), (path, str(caught.value))
        assert "\n" not in str(caught.value)
        seen += 1
    assert seen > 80
    meta.write_text(json.dumps(good))
    assert LatencyTable.load(tmp_path / "t").validation == validation


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{", "[" * 100_000, '{"notes": ' * 100_000, "\x00", '{"device": 1e999}', "\ud800"]
)
def test_headers_that_are_no_json(text, tmp_path):
    a_table().save(tmp_path / "t")
    (tmp_path / "t.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    for read in (LatencyTable.load, saved_checksum):
        with pytest.raises(BadInput) as caught:
            read(tmp_path / "t")
        assert "\n" not in str(caught.value)


def test_a_later_format_is_refused_and_an_earlier_one_read(tmp_path):
    a_table().save(tmp_path / "t")
    meta = tmp_path / "t.json"
    header = json.loads(meta.read_text())
    meta.write_text(json.dumps({k: v for k, v in header.items() if k != "format"}))  # as shipped ones are
    assert LatencyTable.load(tmp_path / "t").device == DEVICE
    meta.write_text(json.dumps(header | {"format": 2}))
    with pytest.raises(BadInput, match="format 2"):
        LatencyTable.load(tmp_path / "t")


@pytest.mark.parametrize("column", ["latency_ms", "p10_ms", "p90_ms", "runs", "correction_ms"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "text", "", "1e999"])
def test_rows_hold_numbers(column, value, tmp_path):
    table = a_table(columns={"correction_ms": 0.1})
    table.save(tmp_path / "t")
    rows = table.rows.astype(object)
    rows.loc[7, column] = value
    rows.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(BadInput, match=column) as caught:
        LatencyTable.load(tmp_path / "t")
    assert table.rows["block"][7] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_that_cannot_be_are_refused():
    rows = a_table().rows
    for wrong, message in (
        (rows.drop(columns="p10_ms"), "p10_ms missing"),
        (rows.iloc[:0], "one row per block"),
        (rows.assign(block=3), "blocks are texts"),
        (pd.concat([rows, rows.iloc[:1]]), "in the table twice"),
        (rows.assign(runs=-1), "runs is a number"),
        (rows.assign(latency_ms=0.0), "latencies are positive"),
        (rows.assign(latency_ms=-1.0), "latencies are positive"),
    ):
        with pytest.raises(BadInput, match=message):
            LatencyTable(device=DEVICE, rows=wrong)
    LatencyTable(device=DEVICE, rows=rows.assign(latency_ms=0.0, runs=0), kind="published")  # counted elsewhere
    with pytest.raises(BadInput, match="kind is one of"):
        LatencyTable(device=DEVICE, rows=rows, kind="guessed")


def test_a_saved_table_holds_its_rows_and_nothing_else(tmp_path):
    table = a_table()
    table.save(tmp_path / "t")
    written = pd.read_csv(tmp_path / "t.csv")
    assert list(written) == list(table.rows)
    assert written["block"].tolist() == [b.key for b in SPACE.blocks]
    pd.testing.assert_frame_equal(LatencyTable.load(tmp_path / "t").rows, table.rows, rtol=1e-5)


def test_a_validation_without_a_rank_correlation_survives_the_disk(tmp_path):
    constant = validated(np.ones(4), np.ones(4))
    assert math.isnan(constant.kendall_tau)
    a_table(validation=constant).save(tmp_path / "t")
    assert math.isnan(LatencyTable.load(tmp_path / "t").validation.kendall_tau)


@pytest.mark.parametrize(
    "make_it",
    [
        lambda: Validation(networks=0, mape=0.1, within_10pct=1.0),
        lambda: Validation(networks=3, mape=-0.1, within_10pct=1.0),
        lambda: Validation(networks=3, mape=0.1, within_10pct=1.5),
        lambda: Validation(networks=3, kendall_tau=1.5, mape=0.1, within_10pct=1.0),
        lambda: Calibration(scale=0.0),
        lambda: Calibration(fixed_ms=-1.0),
        lambda: Calibration(per_block_ms=float("nan")),
        lambda: nas.estimate(a_table(), SPACE.blocks, beyond=float("nan")),
        lambda: nas.estimate(a_table(), SPACE.blocks, beyond=0.5),
        lambda: distinct_archs(SPACE, -1, 0),
        lambda: distinct_archs(SPACE, 10**9, 0),
        lambda: positive("timings", ["fast"]),
        lambda: positive("timings", [1.0, float("inf")]),
    ],
)
def test_numbers_out_of_range_are_one_line(make_it):
    with pytest.raises(BadInput) as caught:
        make_it()
    assert "\n" not in str(caught.value)


def test_a_table_prints_on_one_line():
    assert (
        repr(a_table()) == f"LatencyTable(board_none_fp32_b1_t1, measured, {len(SPACE.blocks)} blocks of {SPACE.name})"
    )
    assert Path(SHIPPED / "README.md").exists()


def test_the_figures_of_a_validation_at_their_borders():
    made = validated(np.array([1.25, 2.0, 3.0, 4.6]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert (made.networks, made.within_10pct) == (4, 0.5)
    assert made.mape == pytest.approx((0.25 + 0.15) / 4)
    third = validated(np.array([1.05, 2.0, 6.0]), np.array([1.0, 2.0, 3.0]))
    assert third.within_10pct == 0.6667
    with pytest.raises(BadInput, match=r"but one is 0\.0"):
        positive("timings", [1.0, 0.0])
    assert positive("timings", [0.5, 1e-9]).tolist() == [0.5, 1e-9]


def test_distinct_networks_are_the_first_of_the_draw():
    drawn = SPACE.sample(4 * 5 + 64, np.random.default_rng(3))
    _, first = np.unique(drawn, axis=0, return_index=True)
    assert np.array_equal(distinct_archs(SPACE, 5, 3), drawn[np.sort(first)[:5]])
