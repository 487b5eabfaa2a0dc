"""Tables of Cortex-M boards: operator counts, what ships against the published timings, intervals, refusals."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SHARED
from torch import nn

import nas
from experiments import cortex_m_boards
from nas.blocks import DepthwiseSeparable, Head, InvertedResidual, Stem
from nas.errors import BadInput
from nas.modules import Network
from nas.tables.features import OPERATORS, macs_by_operator
from nas.tables.fit import boards as cortex_m
from nas.tables.fit.boards import board_table, boards
from nas.tables.table import LatencyTable
from search_spaces import MobileNetV2, MobileNetV3

RESULTS = SHARED / "mlperf_tiny" / "mlperf_tiny_results.csv"
BOARD = "NUCLEO-L4R5ZI/X-CUBE-AI"

needs_data = pytest.mark.skipif(not RESULTS.exists(), reason="needs /work/shared/data/mlperf_tiny")


@pytest.fixture(scope="module")
def digits_v2():
    return MobileNetV2.digits()


@pytest.fixture(scope="module")
def entries():
    return {f"{b['board']}/{b['runtime']}": b for b in json.loads(cortex_m.FILE.read_text())["boards"]}


def test_macs_by_operator_are_those_that_torch_executes():
    network = Network(
        next(iter(MobileNetV3.digits().networks(MobileNetV3.digits().sample(1, np.random.default_rng(3)))))
    )
    counted = dict.fromkeys(OPERATORS, 0)

    def count(layer, inputs, output):
        if isinstance(layer, nn.Linear):
            counted["dense"] += layer.in_features * layer.out_features
        elif layer.groups > 1:
            counted["depthwise"] += output.numel() * layer.weight[0].numel()
        elif output.shape[-1] == 1 and layer.kernel_size == (1, 1):
            counted["dense"] += output.numel() * layer.weight[0].numel()
        else:
            counted["pointwise" if layer.kernel_size == (1, 1) else "full"] += output.numel() * layer.weight[0].numel()

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    with torch.no_grad():
        network.eval()(torch.zeros(1, *network.input_shape))
    blocks = network.describe()
    assert dict(zip(OPERATORS, macs_by_operator(blocks).sum(axis=0), strict=True)) == counted
    assert sum(counted.values()) == sum(b.macs for b in blocks)


@needs_data
def test_the_reference_networks_have_the_published_macs():
    published = pd.read_csv(SHARED / "mlperf_tiny" / "reference_models.csv").set_index("benchmark")["macs"]
    assert cortex_m_boards.network_macs().sum(axis=1).to_dict() == published.to_dict()


def test_mobilenet_as_blocks_has_the_same_macs_by_operator():
    sizes = [(16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5, (256, 2), (256, 1)]
    blocks = [Stem(in_ch=3, out_ch=8, size=96)]
    for out, stride in sizes:
        before = blocks[-1]
        blocks.append(DepthwiseSeparable(in_ch=before.out_ch, out_ch=out, size=before.out_size, stride=stride))
    total = macs_by_operator(blocks).sum(axis=0)
    total[3] += 256 * 2  # the classifier; a Head would add a convolution
    assert total.tolist() == cortex_m_boards.network_macs().loc["vww"].tolist()


@needs_data
def test_what_ships_is_what_the_published_timings_give(entries):
    ms = cortex_m_boards.timings()
    again = {f"{b['board']}/{b['runtime']}": b for b in cortex_m_boards.boards(ms)}
    assert again.keys() == entries.keys()
    for name, entry in entries.items():
        assert entry["costs"] == pytest.approx(again[name]["costs"], rel=1e-3)
        assert min(entry["costs"].values()) > 0
    # published figures, read off the results by hand
    assert entries[BOARD]["networks"]["ic"]["measured_ms"] == pytest.approx(165.67263, rel=1e-5)
    assert entries["DISCO-F746NG/Plumerai"]["networks"]["vww"]["measured_ms"] == pytest.approx(34.079678, rel=1e-5)


@needs_data
def test_a_held_out_network_is_not_seen():
    ms = cortex_m_boards.timings()
    ms = ms[ms["board"].isin(["NUCLEO-L4R5ZI", "DISCO-F746NG"]) & (ms["runtime"] == "Plumerai")].reset_index(drop=True)
    wrong = ms.copy()
    out = (wrong["network"] == "kws").to_numpy()
    on_board = out & (wrong["board"] == "DISCO-F746NG").to_numpy()
    wrong.loc[on_board, "ms"] *= 10
    right, changed = (cortex_m_boards.Fit(x).held_out(everywhere=False) for x in (ms, wrong))
    assert changed[on_board] == pytest.approx(right[on_board])  # its own timing plays no part
    assert not np.allclose(changed[~on_board], right[~on_board], rtol=0.01)  # but it does in the others
    wrong.loc[out, "ms"] *= 10
    right, changed = (cortex_m_boards.Fit(x).held_out(everywhere=True) for x in (ms, wrong))
    assert changed[out] == pytest.approx(right[out])


@needs_data
def test_known_costs_are_found_again():
    """Timings made from costs, for the boards and versions that there are, with 2% noise."""
    ms = cortex_m_boards.timings()
    fit = cortex_m_boards.Fit(ms)
    rng = np.random.default_rng(0)
    truth = np.log(np.array([2.0, 3.0, 3.0, 4.0, 20_000.0]) / 1e3) - np.log(fit.who["mhz"].to_numpy())[:, None]
    fit.log_ms = np.log(fit.predict(truth, np.ones(len(ms), bool))) + rng.normal(0, 0.02, len(ms))
    x, covariance = fit.keep(np.ones(len(ms), bool))
    deviation = np.sqrt(np.diag(covariance)).reshape(x.shape)
    assert np.abs(x - truth)[:, :2].max() < 0.25
    assert (np.abs(x - truth) < 2 * deviation).all()
    assert (deviation[:, 2] > 0.4).all()  # nothing tells depthwise from 1x1, and it says so


def test_a_table_is_complete_and_its_intervals_are_wide(digits_v2):
    table = board_table(BOARD, digits_v2)
    table.check_space(digits_v2)
    assert (table.kind, table.device.precision, table.device.name) == ("fitted", "int8", "NUCLEO-L4R5ZI")
    assert table.licence == "Apache-2.0"
    assert "MLPerf Tiny" in table.source
    assert table.validation.networks == 4
    rows = table.rows
    assert (rows["p10_ms"] * 1.25 < rows["latency_ms"]).all()
    assert (rows["p90_ms"] > rows["latency_ms"] * 1.25).all()
    assert (rows["runs"] == 0).all()


def test_operations_that_nobody_timed_widen_the_interval():
    table = board_table(BOARD, MobileNetV3.digits())
    plain = [
        b for b in table.blocks if isinstance(b, InvertedResidual) and b.kernel == 3 and not b.se and b.act != "hswish"
    ]
    odd = [b for b in table.blocks if isinstance(b, InvertedResidual) and (b.kernel > 3 or b.se or b.act == "hswish")]
    width = dict(zip(table.rows["block"], table.rows["p90_ms"] / table.rows["latency_ms"], strict=True))
    assert plain
    assert max(width[b.key] for b in plain) < min(width[b.key] for b in odd)
    assert table.notes["blocks_with_untimed_operations"] >= len(odd)


def test_the_validation_is_that_of_networks_never_seen(entries, digits_v2):
    for name in boards():
        networks = entries[name]["networks"].values()
        error = [abs(n["never_seen_ms"] / n["measured_ms"] - 1) for n in networks]
        validation = board_table(name, digits_v2).validation
        assert validation.mape == pytest.approx(np.mean(error), abs=1e-4)
        assert validation.mape <= cortex_m.LIMIT


def test_the_interval_of_whole_networks_holds_about_as_often_as_it_says(entries):
    """80% intervals from the model's error alone, over all boards, those without a table included."""
    errors = [np.log(n["never_seen_ms"] / n["measured_ms"]) for b in entries.values() for n in b["networks"].values()]
    inside = np.mean(np.abs(errors) < 1.2816 * cortex_m._model_error())
    assert 0.7 < inside < 0.95


def test_faster_boards_are_faster(digits_v2):
    total = {name: board_table(name, digits_v2).effective_ms.sum() for name in boards()}
    assert total["DISCO-F746NG/Plumerai"] < total["NUCLEO-L4R5ZI/Plumerai"] < total["NUCLEO-G0B1RE/Bosch HALE"]


def test_a_search_takes_it_and_it_saves_and_loads(digits_v2, tmp_path):
    table = board_table(BOARD, digits_v2)
    table.save(tmp_path / "board")
    again = LatencyTable.load(tmp_path / "board")
    objective = nas.latency(digits_v2, again)
    archs = digits_v2.sample(5, np.random.default_rng(0))
    expected = [(macs_by_operator(blocks) @ _costs()).sum() + table.fixed_ms for blocks in digits_v2.networks(archs)]
    assert objective(archs) == pytest.approx(expected, rel=1e-4)


def shipped_load(network):
    return np.array([*cortex_m._file().network_macs[network].values(), 1.0])


def _costs():
    entry = next(b for b in json.loads(cortex_m.FILE.read_text())["boards"] if f"{b['board']}/{b['runtime']}" == BOARD)
    return [entry["costs"][kind] for kind in OPERATORS]


def test_without_a_runtime_the_last_submitted_is_taken(digits_v2):
    device = board_table("nucleo-l4r5zi", digits_v2).device
    assert (device.runtime, device.version) == ("X-CUBE-AI", "MLPerf Tiny v1.3")


@pytest.mark.parametrize(
    ("board", "message"),
    [
        ("NUCLEO-H7A3ZI-Q", "no timings of 'NUCLEO-H7A3ZI-Q'.*DISCO-F746NG"),
        ("NUCLEO-L4R5ZI/TFLM", "no timings of 'NUCLEO-L4R5ZI/TFLM'.*NUCLEO-L4R5ZI/X-CUBE-AI"),
        ("", "no timings"),
        ("EK-RA6M4", "which runtime"),
        ("NUCLEO-U575ZI-Q/Plumerai", "off by 26% on average when held out, the limit is 25%"),
    ],
)
def test_boards_that_the_data_cannot_support_are_refused_in_one_line(board, message, digits_v2):
    with pytest.raises(BadInput, match=message) as caught:
        board_table(board, digits_v2)
    assert "\n" not in str(caught.value)


def test_a_board_with_too_few_networks_is_refused(digits_v2, monkeypatch):
    shipped = cortex_m._file()
    whole = next(b for b in shipped.boards if b.name == BOARD)
    few = dataclasses.replace(whole, networks=dict(itertools.islice(whole.networks.items(), 3)))
    monkeypatch.setattr(cortex_m, "_file", lambda: dataclasses.replace(shipped, boards=(few,)))
    with pytest.raises(BadInput, match="only 3 of MLPerf Tiny's 4"):
        board_table(BOARD, digits_v2)


def test_squeeze_excite_and_heads_are_matrix_times_vector():
    gated = InvertedResidual(in_ch=16, out_ch=16, size=8, mid=32, se=8)
    assert macs_by_operator([gated])[0, 3] == 2 * 32 * 8
    head = Head(in_ch=16, out_ch=10, size=4, hidden=64)
    assert macs_by_operator([head])[0].tolist() == [0, 16 * 64 * 16, 0, 640]


@pytest.fixture
def without_board(monkeypatch):
    """What would ship had a board never been submitted."""
    ms = cortex_m_boards.timings()
    shipped = cortex_m._file()

    def forget(board):
        known = {c: cortex_m.Prior(**p) for c, p in cortex_m_boards.new_boards(ms[ms["board"] != board]).items()}
        file = dataclasses.replace(shipped, new_boards=known)
        monkeypatch.setattr(cortex_m, "_file", lambda: file)

    return forget


@needs_data
def test_one_timing_makes_an_unknown_board_known(without_board, digits_v2, entries):
    """Every board as if it were new: each of its networks predicted after vww alone was timed."""
    errors, blind = [], []
    for _name, entry in entries.items():
        without_board(entry["board"])
        measured = {n: v["measured_ms"] for n, v in entry["networks"].items()}
        for ms, found in (({"vww": measured["vww"]}, errors), ({}, blind)):
            costs, _ = cortex_m._learn(entry["core"], entry["mhz"], ms)
            found += [abs(np.log(shipped_load(n) @ costs / measured[n])) for n in ("ic", "kws", "ad")]
    assert len(errors) == 3 * len(entries)
    assert np.mean(errors) < 0.25
    assert np.mean(blind) > 1.3 * np.mean(errors)  # a core and a clock are not enough: why unknown boards are refused


@needs_data
def test_the_interval_of_a_new_board_holds_the_truth(without_board, entries):
    inside = []
    for entry in entries.values():
        without_board(entry["board"])
        measured = {n: v["measured_ms"] for n, v in entry["networks"].items()}
        costs, covariance = cortex_m._learn(entry["core"], entry["mhz"], {"ic": measured["ic"]})
        for n in ("vww", "kws"):
            part = costs * shipped_load(n)
            share = part / part.sum()
            deviation = np.sqrt(share @ covariance @ share + cortex_m._file().timing_log_sd ** 2)
            inside.append(abs(np.log(part.sum() / measured[n])) < 1.2816 * deviation)
    assert np.mean(inside) >= 0.7


def test_your_own_board(digits_v2):
    about = {"core": "Cortex-M7", "mhz": 280.0, "runtime": "TFLM"}
    one = cortex_m.own_board_table("mine", digits_v2, {"vww": 50.0}, **about)
    slow = cortex_m.own_board_table("mine", digits_v2, {"vww": 100.0}, **about)
    assert one.validation is None
    assert (one.device.name, one.device.runtime, one.kind) == ("mine", "TFLM", "fitted")
    assert 1.6 < slow.effective_ms.sum() / one.effective_ms.sum() < 2.0  # it follows, drawn a little towards the rest
    three = cortex_m.own_board_table("mine", digits_v2, {"vww": 50.0, "ic": 60.0, "kws": 17.0}, **about)
    assert three.validation.networks == 3
    width = [(t.rows["p90_ms"] / t.rows["latency_ms"]).median() for t in (three, one)]
    assert width[0] < width[1]
    other = cortex_m.own_board_table("mine", digits_v2, {"vww": 50.0}, core="Cortex-M55", mhz=280.0)
    assert (other.rows["p90_ms"] / other.rows["latency_ms"]).median() > width[1]


def test_the_validation_of_your_own_board_has_not_seen_the_network_it_predicts(digits_v2):
    """One of three timings is three times too long: a fit that has seen it would follow it."""
    ms, about = {"vww": 50.0, "ic": 60.0, "kws": 51.0}, {"core": "Cortex-M7", "mhz": 280.0}
    table = cortex_m.own_board_table("mine", digits_v2, ms, **about)
    unseen, seen = [], []
    for network, measured in ms.items():
        others = {n: v for n, v in ms.items() if n != network}
        for timed, errors in ((others, unseen), (ms, seen)):
            costs, _ = cortex_m._learn(**about, ms=timed)
            errors.append(abs(shipped_load(network) @ costs / measured - 1))
    assert table.validation.mape == pytest.approx(np.mean(unseen), abs=1e-3)
    assert np.mean(unseen) > 1.3 * np.mean(seen)


@pytest.mark.parametrize(
    ("ms", "mhz", "message"),
    [
        ({}, 100.0, r"timings of MLPerf Tiny's networks \(ic, kws, vww, ad\) are needed, got none"),
        ({"resnet": 3.0}, 100.0, "got resnet"),
        ({"ic": 0.0}, 100.0, "ic in ms is a number above 0"),
        ({"ic": float("nan")}, 100.0, "ic in ms"),
        ({"ic": 3.0}, -1.0, "mhz is a number above 0"),
    ],
)
def test_timings_that_cannot_be_are_refused(ms, mhz, message, digits_v2):
    with pytest.raises(BadInput, match=message):
        cortex_m.own_board_table("mine", digits_v2, ms, core="Cortex-M7", mhz=mhz)
