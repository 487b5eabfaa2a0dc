"""Tables, campaigns and interpolation: exact recovery from a device whose truth is known, and one real campaign."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import nas
from nas.blocks import InvertedResidual
from nas.device import Device
from nas.errors import BadInput, MissingBlocks
from nas.measuring.campaign import measure
from nas.measuring.energy import Later
from nas.measuring.plan import plan
from nas.modules import Network, describe
from nas.runtimes import OnnxRuntime
from nas.tables.fit.calibration import Calibration, elements, fit_calibration
from nas.tables.interpolate import estimate
from nas.tables.table import LatencyTable
from search_spaces import MobileNetV2, MobileNetV3

SPACE = MobileNetV2.digits()


def inside(block) -> float:
    """The truth of the fake device: what a block costs inside a network, in ms."""
    return 0.01 + block.macs / 2e7 + (0.005 if block.act == "relu6" else 0.0)


class FakeDevice:
    """A device with known costs: alone, a block also pays for its call and for converting its layout. 1% noise."""

    def __init__(self, noise=0.01, pause=0.0, stop_at=None):
        self.noise, self.pause, self.stop_at = noise, pause, stop_at
        self.rng = np.random.default_rng(0)
        self.prepared: list[str] = []

    device = Device(name="fake", chip="fake", runtime="fake", version="1", precision="fp32")

    def prepare(self, network, input_shape):
        if self.stop_at is not None and len(self.prepared) >= self.stop_at:
            raise KeyboardInterrupt
        time.sleep(self.pause)
        if isinstance(network, Network):
            blocks = network.describe()
            return 0.03 + sum(inside(b) for b in blocks)
        block = describe(network)
        self.prepared.append(block.key)
        return inside(block) + 0.02 + 1e-6 * elements([block])[0]

    def time(self, prepared, repeats):
        samples = prepared * (1 + self.noise * self.rng.standard_normal(repeats))
        samples[self.rng.random(repeats) < 0.05] *= 5  # something else ran
        return samples


def test_a_campaign_recovers_what_blocks_cost_inside_networks(tmp_path):
    table = measure(SPACE, FakeDevice(), run_dir=tmp_path)
    truth = np.array([inside(b) for b in SPACE.blocks])
    assert np.abs(table.lookup(SPACE.blocks) / truth - 1).max() < 0.1
    assert table.calibration.per_block_ms < 0
    assert table.validation.within_10pct == 1.0
    assert table.validation.mape < 0.02
    assert table.validation.kendall_tau > 0.9
    archs = SPACE.sample(200, np.random.default_rng(99))
    objective = nas.latency(SPACE, table, name="here_ms")
    assert objective.name == "here_ms"
    predicted = objective(archs)
    assert predicted == pytest.approx([table.predict(blocks) for blocks in SPACE.networks(archs)])
    real = [0.03 + sum(inside(b) for b in blocks) for blocks in SPACE.networks(archs)]
    assert np.abs(predicted / real - 1).mean() < 0.02


def test_validation_networks_are_not_those_of_the_calibration(tmp_path):
    measure(SPACE, FakeDevice(), run_dir=tmp_path)
    networks = pd.read_csv(tmp_path / "table_fp32_networks.csv")
    by_role = networks.groupby("role")["architecture"].agg(set)
    assert (networks["role"] == "calibrate").sum() == 60
    assert not by_role["calibrate"] & by_role["validate"]


def test_the_recorded_error_is_the_real_one(tmp_path):
    table = measure(SPACE, FakeDevice(), run_dir=tmp_path)
    networks = pd.read_csv(tmp_path / "table_fp32_networks.csv").query("role == 'validate'")
    error = (networks["predicted_ms"] / networks["measured_ms"] - 1).abs()
    assert table.validation.mape == pytest.approx(error.mean(), abs=1e-3)


def test_a_table_survives_saving(tmp_path):
    table = measure(SPACE, FakeDevice(), run_dir=tmp_path)
    again = LatencyTable.load(tmp_path / "table_fp32")
    assert again.fingerprint == table.fingerprint
    assert again.device == table.device
    assert again.validation == table.validation
    assert again.lookup(SPACE.blocks) == pytest.approx(table.lookup(SPACE.blocks), rel=1e-5)
    faster = dataclasses.replace(table, device=dataclasses.replace(table.device, batch=2))
    assert faster.fingerprint != table.fingerprint
    assert faster.name != table.name


def test_an_interrupted_campaign_repeats_no_finished_block(tmp_path):
    broken = FakeDevice(stop_at=130)
    with pytest.raises(KeyboardInterrupt):
        measure(SPACE, broken, run_dir=tmp_path)
    order = [b.key for b in plan(SPACE).order()]
    lines = map(json.loads, (tmp_path / "table_fp32.partial.jsonl").read_text().splitlines())
    done = {order[int(line["file"][-5:])] for line in lines if "file" in line}
    assert len(done) >= 48
    rest = FakeDevice()
    table = measure(SPACE, rest, run_dir=tmp_path, resume=True)
    reference = plan(SPACE).reference.key
    again = json.loads((tmp_path / "table_fp32.json").read_text())["notes"]["repeatability"]["blocks"]
    once = rest.prepared[: -again - 1]  # the last group is the sample that is timed again
    assert not done & (set(once) - {reference})
    assert set(table.rows["block"]) == {b.key for b in SPACE.blocks}
    assert not (tmp_path / "table_fp32.partial.jsonl").exists()
    untouched = FakeDevice()
    assert (
        measure(SPACE, untouched, run_dir=tmp_path, resume=True).fingerprint
        == LatencyTable.load(tmp_path / "table_fp32").fingerprint
    )
    assert untouched.prepared == []


_KILLED = (
    "import os; from test_latency import *; measure(SPACE, FakeDevice(pause=0.004), run_dir=os.environ['RUN_DIR'])"
)


def test_a_killed_campaign_goes_on(tmp_path):
    environment = os.environ | {"RUN_DIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parent)}
    process = subprocess.Popen([sys.executable, "-c", _KILLED], env=environment, cwd=Path(__file__).parents[1])
    partial = tmp_path / "table_fp32.partial.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (partial.exists() and partial.read_text().count("\n") > 60):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "table_fp32.json").exists()
    with partial.open("a") as file:
        file.write('{"file": "blocks/000')  # a line cut off in the middle
    rest = FakeDevice()
    table = measure(SPACE, rest, run_dir=tmp_path, resume=True)
    assert len(rest.prepared) < len(SPACE.blocks)
    assert table.validation.within_10pct == 1.0


def test_campaigns_for_something_else_are_refused(tmp_path):
    measure(SPACE, FakeDevice(), run_dir=tmp_path)
    with pytest.raises(BadInput, match="already holds"):
        measure(SPACE, FakeDevice(), run_dir=tmp_path, resume=False)
    with pytest.raises(BadInput, match="a table of another space "):
        measure(MobileNetV3.digits(), FakeDevice(), run_dir=tmp_path)
    other = FakeDevice()
    other.device = dataclasses.replace(FakeDevice.device, threads=2)
    with pytest.raises(BadInput, match=r"a table of another threads \(1, now 2\); choose"):
        measure(SPACE, other, run_dir=tmp_path)
    for change in ({"calibrate": 50}, {"validate": 19}, {"seed": 1}):
        with pytest.raises(BadInput, match=r"a table of another choice of networks \(calibrate, validate, seed\)"):
            measure(SPACE, FakeDevice(), run_dir=tmp_path, **change)
    with pytest.raises(BadInput, match=r"a table of another energy \(, now Later\)"):
        measure(SPACE, FakeDevice(), run_dir=tmp_path, meter=Later())
    again = FakeDevice()
    assert measure(SPACE, again, run_dir=tmp_path).name.startswith("fake")
    assert not again.prepared
    with pytest.raises(KeyboardInterrupt):
        measure(SPACE, FakeDevice(stop_at=100), run_dir=tmp_path, name="b")
    with pytest.raises(BadInput, match="is a campaign for another threads"):
        measure(SPACE, other, run_dir=tmp_path, name="b", resume=True)


def test_missing_blocks_are_named_not_zero(tmp_path):
    table = measure(SPACE, FakeDevice(), run_dir=tmp_path)
    missing = dataclasses.replace(next(b for b in SPACE.blocks if not getattr(b, "residual", True)), out_ch=80)
    with pytest.raises(MissingBlocks, match="out_ch=80") as caught:
        table.lookup([SPACE.blocks[0], missing])
    assert caught.value.keys == (missing.key,)
    with pytest.raises(MissingBlocks, match="nas measure"):
        nas.latency(MobileNetV3.digits(), table)


def test_interpolation_is_close_where_blocks_were_left_out_and_says_how_close(tmp_path):
    full = measure(SPACE, FakeDevice(), run_dir=tmp_path)
    rng = np.random.default_rng(0)
    blocks = [b for b in SPACE.blocks if isinstance(b, InvertedResidual)]
    left_out = [blocks[i] for i in rng.choice(len(blocks), 20, replace=False)]
    rows = full.rows[~full.rows["block"].isin([b.key for b in left_out])].reset_index(drop=True)
    ms, error = estimate(dataclasses.replace(full, rows=rows), left_out)
    true_error = np.abs(ms / full.lookup(left_out) - 1)
    assert np.median(true_error) < 0.1
    assert (true_error < 3 * error + 0.05).mean() > 0.9
    known, spread = estimate(full, left_out)
    assert known == pytest.approx(full.lookup(left_out))
    assert (spread < 0.1).all()


def test_interpolation_refuses_what_was_not_measured(tmp_path):
    table = measure(SPACE, FakeDevice(), run_dir=tmp_path)
    block = next(b for b in SPACE.blocks if isinstance(b, InvertedResidual))
    with pytest.raises(BadInput, match="mid 5000 is outside"):
        estimate(table, [dataclasses.replace(block, mid=5000)])
    with pytest.raises(BadInput, match="in all but channels and size"):
        estimate(table, [dataclasses.replace(block, kernel=9)])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: s.with_suffix(".json").unlink(), "does not exist"),
        (lambda s: s.with_suffix(".json").write_text("{"), "json is damaged"),
        (lambda s: s.with_suffix(".csv").write_text("a,b\n1,2\n"), "damaged|columns"),
        (
            lambda s: s.with_suffix(".csv").write_text("\n".join(s.with_suffix(".csv").read_text().splitlines()[:-5])),
            "rows",
        ),
        (lambda s: _edit(s, kind="guessed"), r"'guessed'.*\$.kind"),
        (lambda s: s.with_suffix(".csv").write_text(_first_value(s, "-0.5")), "positive"),
    ],
)
def test_damaged_tables_are_refused_in_one_line(tmp_path, damage, message):
    measure(SPACE, FakeDevice(), run_dir=tmp_path)
    damage(tmp_path / "table_fp32")
    with pytest.raises(BadInput, match=message) as caught:
        LatencyTable.load(tmp_path / "table_fp32")
    assert "\n" not in str(caught.value)


def _edit(stem, **changes):
    path = stem.with_suffix(".json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _first_value(stem, value):
    lines = stem.with_suffix(".csv").read_text().splitlines()
    cells = lines[1].split(",")
    cells[1] = value
    return "\n".join([lines[0], ",".join(cells), *lines[2:]]) + "\n"


def test_the_fit_finds_known_coefficients():
    rng = np.random.default_rng(0)
    networks = SPACE.networks(SPACE.sample(30, rng))
    alone = [np.array([0.05 + b.macs / 1e7 for b in n]) for n in networks]
    true = Calibration(scale=0.8, fixed_ms=0.02, per_block_ms=-0.01, per_element_ms=1e-7)
    measured = np.array([true.apply(n, a).sum() + true.fixed_ms for n, a in zip(networks, alone, strict=True)])
    measured[3] *= 4  # one network was disturbed
    fitted = fit_calibration(networks, alone, measured)
    again = np.array([fitted.apply(n, a).sum() + fitted.fixed_ms for n, a in zip(networks, alone, strict=True)])
    assert np.abs(np.delete(again / measured, 3) - 1).max() < 0.05


def test_a_real_campaign_on_this_cpu(tiny, tmp_path):
    for precision in ("fp32", "int8"):
        runtime = OnnxRuntime(precision=precision)
        table = measure(tiny, runtime, run_dir=tmp_path, calibrate=8, validate=4)
        assert table.device == runtime.device
        assert table.kind == "measured"
        assert table.validation.mape < 0.5  # tiny's networks all cost nearly the same
        assert len(table.rows) == len(tiny.blocks)
        assert (table.rows["p10_ms"] <= table.rows["latency_ms"]).all()
        # a network with everything at its largest takes longer than one with everything at its smallest
        extremes = nas.latency(tiny, table).extremes
        by_macs = nas.macs(tiny).extremes
        small, large = (nas.latency(tiny, table)(a[None])[0] for a in (by_macs.argmin, by_macs.argmax))
        assert extremes.minimum <= small < large <= extremes.maximum
