"""Campaigns when things go wrong, energy, conditions, and the runtimes that run on any CPU."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch

import nas
from nas.blocks import InvertedResidual, Stem
from nas.device import Device
from nas.errors import BadInput, NasError
from nas.measuring import campaign as campaign_module
from nas.measuring.campaign import add_energy, measure
from nas.measuring.energy import Later, Nvml, Rapl, SysfsPower, jetson_power, with_energy
from nas.measuring.plan import plan
from nas.measuring.timing import Isolated, time_networks
from nas.modules import Network, build, describe
from nas.on_device import results
from nas.on_device.device import warnings
from nas.runtimes import OnnxRuntime, OpenVINO, TorchCPU, TorchCUDA
from nas.tables.fit.calibration import Calibration
from nas.tables.table import LatencyTable
from nas.tables.validation import repeatability

FAKE = Device(name="fake", chip="fake", runtime="fake", version="1", precision="fp32")


@dataclass(frozen=True)
class Breaks:
    """A runtime that computes its times, and on blocks whose key holds one of these words raises, dies or hangs."""

    raises: str = "?"
    dies: str = "?"
    hangs: str = "?"
    device: Device = FAKE

    def prepare(self, network, input_shape):
        blocks = network.describe() if isinstance(network, Network) else [describe(network)]
        for block in blocks:
            if self.raises in block.key:
                raise RuntimeError(f"no kernel for\n{block.key}")
            if self.dies in block.key:
                os.kill(os.getpid(), 9)
            if self.hangs in block.key:
                time.sleep(60)
        return sum(0.01 + b.macs / 1e7 for b in blocks)

    def time(self, prepared, repeats):
        return prepared * np.linspace(0.99, 1.01, repeats)


def test_a_block_that_kills_the_runtime_is_recorded_and_the_rest_is_measured(tiny, tmp_path, caplog):
    caplog.set_level("INFO", logger="nas")
    bad = next(b.key for b in tiny.blocks if isinstance(b, InvertedResidual) and b.kernel == 5 and b.act == "hswish")
    table = measure(tiny, Breaks(dies=bad), run_dir=tmp_path, isolate=True)
    assert bad not in set(table.rows["block"])
    assert len(table.rows) == len(tiny.blocks) - 1
    assert table.notes["failed"] == {bad: "the runtime crashed (signal SIGKILL)"}
    assert any(bad in line for line in caplog.messages)
    networks = pd.read_csv(tmp_path / "table_fp32_networks.csv")
    # the runtime was never asked for a network with that block
    holds = [any(b.key == bad for b in blocks) for blocks in tiny.networks(plan(tiny).archs)]
    assert networks["measured_ms"].isna().tolist() == holds
    assert table.validation.mape < 0.01


def test_a_refused_block_is_recorded_with_its_text(tiny, tmp_path):
    bad = next(b.key for b in tiny.blocks if isinstance(b, InvertedResidual))
    table = measure(tiny, Breaks(raises=bad), run_dir=tmp_path)
    assert table.notes["failed"] == {bad: f"RuntimeError: no kernel for {bad}"}


def test_a_failed_block_is_not_tried_again_on_resume(tiny, tmp_path):
    bad = tiny.blocks[3].key
    with pytest.raises(KeyboardInterrupt):
        measure(tiny, Interrupts(raises=bad), run_dir=tmp_path)
    # were it tried again it would now succeed
    table = measure(tiny, Breaks(), run_dir=tmp_path, resume=True)
    assert list(table.notes["failed"]) == [bad]


class Interrupts(Breaks):
    """Ctrl-C while the first whole network is loaded."""

    def prepare(self, network, input_shape):
        if isinstance(network, Network):
            raise KeyboardInterrupt
        return super().prepare(network, input_shape)


def test_a_runtime_that_runs_nothing_ends_at_once(tiny, tmp_path):
    with pytest.raises(BadInput, match="cannot run even the reference block"):
        measure(tiny, Breaks(raises="size"), run_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_hang_is_named_and_the_others_are_timed(tiny):
    blocks = [(b,) for b in tiny.blocks[:4]]
    with Isolated(Breaks(hangs=tiny.blocks[2].key), timeout_s=4) as timer:
        timed = timer(blocks)
    assert ["ms" in t for t in timed] == [True, True, False, True]
    assert timed[2] == {"failed": "the runtime hung for 4 s"}


def test_isolated_and_direct_timing_agree_and_user_errors_pass_through(tiny):
    blocks = [(b,) for b in tiny.blocks[:3]]
    with Isolated(Breaks()) as timer:
        apart = timer(blocks)
    for a, b in zip(apart, time_networks(Breaks(), blocks), strict=True):
        assert a == b
    with Isolated(_Refuses()) as timer, pytest.raises(BadInput, match="PyTorch on the moon"):
        timer(blocks)


class _Refuses:
    device = FAKE

    def prepare(self, network, input_shape):
        raise BadInput("there is no PyTorch on the moon")


def test_a_full_disk_is_one_line_and_keeps_what_was_measured(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(campaign_module._Here.sizes, "block", 4)
    real, calls = os.fsync, []

    def full(fd):
        calls.append(fd)
        if len(calls) == 4:  # header, conditions, the first group, and then
            raise OSError(errno.ENOSPC, "No space left on device")
        real(fd)

    with monkeypatch.context() as patched:
        patched.setattr(results.os, "fsync", full)
        calls = [0, 0, 0]  # at once
        with pytest.raises(BadInput, match="No space left on device"):
            measure(tiny, Breaks(), run_dir=tmp_path)
        assert not list(tmp_path.iterdir())
        calls = []
        with pytest.raises(BadInput, match=r"No space left on device; what is finished is kept, go on with --resume"):
            measure(tiny, Breaks(), run_dir=tmp_path)
    kept = (tmp_path / "table_fp32.partial.jsonl").read_text().count('"file"')
    assert kept >= 8
    assert len(measure(tiny, Breaks(), run_dir=tmp_path, resume=True).rows) == len(tiny.blocks)


def test_the_campaign_records_drift_conditions_and_repeatability(tiny, tmp_path):
    notes = measure(tiny, Breaks(), run_dir=tmp_path).notes
    assert notes["reference_drift"] == 0
    assert notes["repeatability"]["median"] == 0
    assert {"time", "cpus", "load"} <= set(notes["conditions"]["before"])
    assert notes["warnings"] == [] or all("load" in d or "clock" in d for d in notes["warnings"])


class Slows(Breaks):
    """Twice as slow from the n-th sample on."""

    count = 0

    def time(self, prepared, repeats):
        Slows.count += 1
        return Breaks.time(self, prepared, repeats) * (1 if Slows.count < 100 else 2)


def test_a_device_that_slows_down_is_noticed(tiny, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", logger="nas")
    monkeypatch.setitem(campaign_module._Here.sizes, "block", 4)
    Slows.count = 0
    table = measure(tiny, Slows(), run_dir=tmp_path)
    assert table.notes["reference_drift"] == pytest.approx(1, abs=0.05)
    assert any("the reference block was more than 10% slower" in line for line in caplog.messages)


def test_repeatability_of_two_tables(tiny, tmp_path):
    table = measure(tiny, Breaks(), run_dir=tmp_path)
    slower = LatencyTable(device=FAKE, rows=table.rows.assign(latency_ms=table.rows["latency_ms"] * 1.03))
    assert repeatability(table, slower) == {"blocks": len(tiny.blocks), "median": 0.03, "p90": 0.03}
    with pytest.raises(BadInput, match="no block in common"):
        repeatability(
            table, LatencyTable(device=FAKE, rows=table.rows.assign(block=[f"x {i}" for i in table.rows.index]))
        )


# --- the border


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"name": "../x"}, "the name of a table becomes a file name"),
        ({"name": ""}, "the name of a table becomes a file name"),
        ({"name": "x" * 300}, "the name of a table becomes a file name"),
        ({"run_dir": ""}, "run_dir is a text or a path that is not empty"),
        ({"run_dir": "/dev/null"}, "is a file; name a folder"),
        ({"run_dir": "/proc/nowhere"}, "cannot write"),
        ({"calibrate": 7}, "calibrate at least 8 networks"),
        ({"calibrate": 0}, "calibrate is a whole number from 1"),
        ({"validate": float("nan")}, "validate is a whole number"),
        ({"seed": -1}, "seed is a whole number from 0"),
        ({"resume": "yes"}, "resume is True or False"),
        ({"progress": print}, "progress is True or False or None"),
    ],
)
def test_wrong_arguments_are_one_line_and_leave_nothing(tiny, tmp_path, wrong, text):
    with pytest.raises(BadInput) as error:
        measure(tiny, Breaks(), **{"run_dir": tmp_path / "run", **wrong})
    assert text in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_the_precision_of_a_runtime_names_no_file_elsewhere(tiny, tmp_path):
    with pytest.raises(BadInput, match="precision becomes a file name"):
        measure(tiny, Breaks(device=dataclasses.replace(FAKE, precision="../../x")), run_dir=tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_second_campaign_in_a_folder_is_refused_with_the_number_of_the_first(tiny, tmp_path):
    with open(tmp_path / ".lock", "w") as other:  # as another process holds it
        other.write("4242")
        other.flush()
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(BadInput, match=r"another process \(pid 4242\) is at work"):
            measure(tiny, Breaks(), run_dir=tmp_path)
    assert measure(tiny, Breaks(), run_dir=tmp_path).kind == "measured"


@pytest.mark.parametrize(
    "damage", ["[" * 99_999 + "\n", '{"file": 3}\n', '{"reference": 1e999, "among": "block"}\n', "\x00\n"]
)
def test_a_damaged_log_is_one_line(tiny, tmp_path, damage):
    with pytest.raises(KeyboardInterrupt):
        measure(tiny, Interrupts(), run_dir=tmp_path)
    with (tmp_path / "table_fp32.partial.jsonl").open("a") as file:
        file.write(damage)
    with pytest.raises(
        BadInput, match=r"line \d+ of table_fp32\.partial\.jsonl is not one that a campaign wrote"
    ) as error:
        measure(tiny, Breaks(), run_dir=tmp_path, resume=True)
    assert "\n" not in str(error.value)


def test_the_bar_is_shown_as_asked_and_closes_when_interrupted(tiny, tmp_path, capfd):
    measure(tiny, Breaks(), run_dir=tmp_path / "a")
    assert capfd.readouterr().err == ""  # stderr is no terminal
    with pytest.raises(KeyboardInterrupt):
        measure(tiny, Interrupts(), run_dir=tmp_path / "b", progress=True)
    shown = capfd.readouterr().err
    assert f" {len(tiny.blocks)}/" in shown
    assert shown.endswith("\n")  # closed: what is printed next has its own line


def test_plans_never_judge_by_what_they_were_fitted_on(tiny):
    for seed in range(20):
        drawn = plan(tiny, calibrate=40, validate=20, seed=seed)  # of 96: by chance they would meet
        assert not {r.tobytes() for r in drawn.calibrate} & {r.tobytes() for r in drawn.validate}
        assert len(np.unique(drawn.archs, axis=0)) == len(drawn.archs)


class FailsWhileItRuns(Breaks):
    def time(self, prepared, repeats):
        if prepared == min(self.seen):
            raise RuntimeError("lost the device")
        return super().time(prepared, repeats)

    seen: ClassVar[list[float]] = []

    def prepare(self, network, input_shape):
        self.seen.append(super().prepare(network, input_shape))
        return self.seen[-1]


def test_a_network_that_fails_while_it_runs_is_recorded(tiny):
    FailsWhileItRuns.seen.clear()
    lines = time_networks(FailsWhileItRuns(), [(b,) for b in tiny.blocks[:5]])
    failed = [line for line in lines if "failed" in line]
    assert failed
    assert failed[0] == {"failed": "RuntimeError: lost the device"}
    assert len(failed) < 5


class Unsendable(Breaks):
    def __reduce__(self):
        raise TypeError("holds a socket")


def _not_there(*_):
    raise ImportError("no such driver")


class Unloadable(Breaks):
    def __reduce__(self):
        return _not_there, ()


def test_what_a_process_of_its_own_cannot_do_is_one_line(tiny, capfd):
    for runtime, text in (
        (Unsendable(), "holds a socket"),
        (Unloadable(), "cannot load this runtime: .*no such driver"),
    ):
        with Isolated(runtime) as timer, pytest.raises(BadInput, match=text):
            timer([(tiny.blocks[0],)])
    assert capfd.readouterr() == ("", "")  # no traceback of the other process


NO_GUARD = """
from test_campaign import Breaks
from nas.errors import BadInput
from nas.measuring.campaign import measure
from search_spaces import MobileNetV2
try:
    measure(MobileNetV2.digits(), Breaks(), run_dir={folder!r}, isolate=True)
except BadInput as error:
    print(error)
"""


def test_a_script_without_a_main_guard_is_told(tmp_path):
    (tmp_path / "script.py").write_text(NO_GUARD.format(folder=str(tmp_path / "run")))
    env = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parents[1]}"}
    done = subprocess.run([sys.executable, tmp_path / "script.py"], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    assert "if __name__ == '__main__':" in done.stdout


# --- energy


def test_rapl_adds_packages_and_survives_the_counters_wrap(tmp_path):
    for i, (now, most) in enumerate([(1_000_000, 9_000_000), (8_500_000, 9_000_000)]):
        zone = tmp_path / f"intel-rapl:{i}"
        (zone / f"intel-rapl:{i}:0").mkdir(parents=True)
        (zone / "energy_uj").write_text(str(now))
        (zone / "max_energy_range_uj").write_text(str(most))
        (zone / f"intel-rapl:{i}:0" / "energy_uj").write_text("5")
    meter = Rapl(tmp_path)
    before = meter.joules()
    (tmp_path / "intel-rapl:0/energy_uj").write_text("3000000")
    (tmp_path / "intel-rapl:1/energy_uj").write_text("500000")
    assert meter.joules() - before == pytest.approx(2 + 1)
    with pytest.raises(BadInput, match="no energy counter"):
        Rapl(tmp_path / "none")


def test_a_power_file_is_summed(tmp_path):
    file = tmp_path / "power1_input"
    file.write_text("2000000")
    meter = SysfsPower(file)
    assert meter.joules() >= 0
    file.write_text("much")
    deadline = time.monotonic() + 60
    while not np.isnan(meter.joules()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert np.isnan(meter.joules())  # a sensor that stops answering is not 0 W
    with pytest.raises(BadInput, match="does not hold a power"):
        SysfsPower(file)
    with pytest.raises(BadInput, match="no INA power sensor"):
        jetson_power(tmp_path)
    rail = tmp_path / "bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
    rail.mkdir(parents=True)
    for name, text in (("in1_label", "VDD_IN"), ("in1_input", "5000"), ("curr1_input", "400")):
        (rail / name).write_text(text)
    assert jetson_power(tmp_path)._opened().watts() == pytest.approx(2.0)  # 5 V x 0.4 A


class Meter:
    """10 W, by this machine's clock."""

    def joules(self):
        return 10 * time.time()


class Sleeps(Breaks):
    def time(self, prepared, repeats):
        time.sleep(0.0002)
        return super().time(prepared, repeats)


def test_energy_is_power_times_the_latency_inside_a_network(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("nas.on_device.power.WINDOW_S", 0.01)
    table = measure(tiny, Sleeps(), run_dir=tmp_path, meter=Meter())
    # W * ms = mJ
    assert table.rows["energy_mj"].to_numpy() == pytest.approx(10 * table.effective_ms, rel=0.05)
    archs = tiny.sample(8, np.random.default_rng(0))
    joined = nas.energy(tiny, table)(archs)
    per_block = dict(zip(table.rows["block"], table.rows["energy_mj"], strict=True))
    assert joined == pytest.approx([sum(per_block[b.key] for b in blocks) for blocks in tiny.networks(archs)])


def test_energy_from_the_users_own_meter(tiny, tmp_path):
    table = measure(tiny, Breaks(), run_dir=tmp_path)
    rows = table.rows
    begin = 1000.0 + np.arange(len(rows))
    windows = pd.DataFrame({"block": rows["block"], "begin": begin, "end": begin + 0.5, "watts": np.nan})
    windows.to_csv(tmp_path / "table_fp32_windows.csv", index=False)
    at = np.arange(999.0, 1000 + len(rows) + 1, 0.1)
    power = np.where(at % 1 < 0.55, 4.0 + np.floor(at - 1000), 1.0)  # idle between the windows
    pd.DataFrame({"time": at, "watts": power}).to_csv(tmp_path / "log.csv", index=False)
    measured = add_energy(tmp_path / "table_fp32", tmp_path / "log.csv")
    assert measured.rows["energy_mj"].to_numpy() / table.effective_ms == pytest.approx(4.0 + np.arange(len(rows)))
    assert LatencyTable.load(tmp_path / "table_fp32.csv").rows["energy_mj"].notna().all()
    pd.DataFrame({"time": at + 3600, "watts": power}).to_csv(tmp_path / "log.csv", index=False)
    with pytest.raises(BadInput, match=r"fewer than 2 samples .* both clocks agree"):
        add_energy(tmp_path / "table_fp32", tmp_path / "log.csv")
    (tmp_path / "log.csv").write_text("when,power\n1,2\n")
    with pytest.raises(BadInput, match=r"columns time .* and watts"):
        add_energy(tmp_path / "table_fp32", tmp_path / "log.csv")
    with pytest.raises(BadInput, match="with a meter"):
        add_energy(tmp_path / "other", tmp_path / "log.csv")
    with pytest.raises(BadInput, match="no power is known"):
        with_energy(table, windows)


def test_energy_is_of_the_block_inside_a_network(tiny):
    rows = pd.DataFrame(
        {"block": [b.key for b in tiny.blocks], "latency_ms": 1.0, "p10_ms": 1.0, "p90_ms": 1.0, "runs": 9}
    )
    table = LatencyTable(device=FAKE, rows=rows, calibration=Calibration(scale=0.5))
    windows = pd.DataFrame({"block": rows["block"], "begin": 0.0, "end": 1.0, "watts": 4.0})
    assert with_energy(table, windows).rows["energy_mj"].tolist() == [2.0] * len(rows)  # 4 W for half a ms


def test_a_meter_read_later_leaves_its_windows(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("nas.on_device.power.WINDOW_S", 0.005)
    begun = time.time()
    table = measure(tiny, Sleeps(), run_dir=tmp_path, meter=Later())
    assert "energy_mj" not in table.rows
    windows = pd.read_csv(tmp_path / "table_fp32_windows.csv")
    assert set(windows["block"]) == set(table.rows["block"])
    assert ((windows["begin"] >= begun) & (windows["end"] > windows["begin"])).all()


# --- conditions


def test_doubtful_conditions_are_said():
    calm = {"load": 0.1, "cpus": 2, "mhz": 3000, "throttled": 0, "governor": "performance"}
    assert warnings(calm, calm) == []
    before = calm | {"load": 1.9, "governor": "powersave"}
    said = " ".join(warnings(before, calm | {"mhz": 1500, "throttled": 2}))
    for part in ("busy", "slowed for heat 2 times", "follows the load", "from 3000 to 1500 MHz"):
        assert part in said


# --- runtimes


@pytest.mark.parametrize(
    "runtime",
    [OpenVINO(precision="fp32"), OpenVINO(precision="int8"), TorchCPU()],
    ids=lambda r: r.device.key,
)
def test_a_real_campaign_in_each_runtime(tiny, tmp_path, runtime):
    """Of ONNX Runtime: tests/test_latency.py."""
    if isinstance(runtime, OpenVINO):
        pytest.importorskip("openvino")
    table = measure(tiny, runtime, run_dir=tmp_path, calibrate=8, validate=4)
    assert table.device == runtime.device
    assert table.kind == "measured"
    assert (table.rows["latency_ms"] > 0).all()
    # tiny's networks all cost nearly the same: only a gross error shows here, the benchmark table_validation tells more
    assert table.validation.mape < 0.5


@pytest.mark.parametrize("runtime", [OpenVINO(), TorchCPU()], ids=["openvino", "torch"])
def test_more_work_takes_longer(runtime):
    small, large = (Stem(in_ch=16, out_ch=32, size=s) for s in (8, 64))
    fast, slow = (np.median(runtime.time(runtime.prepare(build(b), b.in_shape), 5)) for b in (small, large))
    assert slow > 2 * fast  # 64 times the work


def test_torch_times_the_network_it_was_given(tiny):
    """The randomised copy computes the same operations, and the given network keeps its weights and mode."""
    network = Network(tiny.networks(tiny.sample(1, np.random.default_rng(0)))[0]).train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    TorchCPU().prepare(network, network.describe()[0].in_shape)
    assert network.training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_compiled_torch_runs(tiny):
    runtime = TorchCPU(compiled=True)
    block = tiny.blocks[1]
    assert runtime.device.runtime == "torch-compiled"
    assert (runtime.time(runtime.prepare(build(block), block.in_shape), 3) > 0).all()


@pytest.mark.parametrize("runtime", [OpenVINO, OnnxRuntime])
def test_settings_are_checked(runtime):
    with pytest.raises(BadInput, match=r"fp32.*int8"):
        runtime(precision="int4")
    with pytest.raises(BadInput, match="threads"):
        runtime(threads=0)
    with pytest.raises(BadInput, match="batch"):
        runtime(batch=-1)


def test_torch_refuses_files(tmp_path):
    with pytest.raises(BadInput, match="modules, not files"):
        TorchCPU().prepare(tmp_path / "x.onnx", (1, 8, 8))


def test_without_a_gpu_one_line_says_so():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(BadInput, match="no NVIDIA GPU that this build of torch can use"):
        _ = TorchCUDA().device
    with pytest.raises(NasError, match=r"GPU 0 gives no energy|'nas\[cuda\]'"):
        Nvml().joules()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU that torch can use")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_campaign_on_a_gpu(tiny, tmp_path, precision):
    table = measure(tiny, TorchCUDA(precision=precision, batch=8), run_dir=tmp_path, calibrate=10, validate=6)
    assert (table.rows["latency_ms"] > 0).all()
    assert table.device.batch == 8
