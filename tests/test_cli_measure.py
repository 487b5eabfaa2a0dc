"""``nas measure`` from the command line: which runtime, which meter, which way; and its refusals."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path

import pandas as pd
import pytest
from test_campaign import Breaks

from nas.cli import measure as cli_measure, names
from nas.cli.app import main
from nas.errors import BadInput
from nas.measuring.campaign import measure
from nas.runtimes import EthosU, OnnxRuntime, OpenVINO, TorchCompiled, TorchCPU
from nas.tables.table import LatencyTable

RUN = ["measure", "--space", "mobilenet_v2.digits"]


@pytest.fixture
def fake(monkeypatch, tiny):
    monkeypatch.setattr("nas.cli.names.space", functools.wraps(names.space)(lambda **given: tiny))
    monkeypatch.setattr(cli_measure, "_runtime", lambda args, what, precision: Breaks())


def test_a_table_its_windows_and_the_log_of_a_meter(fake, tmp_path, capsys):
    run = [*RUN, "--run-dir", str(tmp_path), "--precision", "fp32", "--calibrate", "12", "--validate", "6"]
    assert main([*run, "--energy", "later"]) == 0
    shown = capsys.readouterr()
    assert "Kendall tau" in shown.out
    assert " networks: about " in shown.err
    assert main(run) == 2
    assert "already holds" in capsys.readouterr().err
    assert main([*run, "--resume"]) == 0
    windows = pd.read_csv(tmp_path / "table_fp32_windows.csv")
    log = pd.DataFrame({"time": [windows["begin"].min() - 1, *windows["begin"], *windows["end"]], "watts": 2.0})
    log.to_csv(tmp_path / "meter.csv", index=False)
    assert main([*run, "--energy-log", str(tmp_path / "none.csv")]) == 2
    log = pd.concat([log, log.assign(time=log["time"] + 1e-9)])
    log.to_csv(tmp_path / "meter.csv", index=False)
    assert main([*run, "--energy-log", str(tmp_path / "meter.csv")]) == 0
    table = LatencyTable.load(tmp_path / "table_fp32")
    assert table.rows["energy_mj"].to_numpy() == pytest.approx(2 * table.effective_ms, rel=1e-5)


@pytest.mark.parametrize(
    ("flags", "made"),
    [
        ("--precision int8 --threads 2 --batch 4", OnnxRuntime(precision="int8", threads=2, batch=4)),
        ("--runtime openvino --precision fp32 --threads 2 --batch 4", OpenVINO(precision="fp32", threads=2, batch=4)),
        ("--runtime torch-compiled --threads 2", TorchCompiled(threads=2)),
        ("--runtime torch --batch 3", TorchCPU(batch=3)),
        ("--runtime ethos-u --accelerator ethos-u65-256", EthosU("ethos-u65-256")),
    ],
)
def test_names_become_runtimes(flags, made, monkeypatch, tmp_path):
    called = []

    def measured(space, runtime, **settings):
        called.append((runtime, settings))
        raise BadInput("enough")

    monkeypatch.setattr("nas.measuring.campaign.measure", functools.wraps(measure)(measured))
    flags = f"{flags} --run-dir {tmp_path} --calibrate 7 --seed 3"
    assert main([*RUN, *flags.split()]) == 2
    ((runtime, settings),) = called
    assert runtime == made
    assert settings["calibrate"] == 7
    assert settings["seed"] == 3
    assert "validate" not in settings  # the one default is measure's own
    assert settings["isolate"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--kit", "a", "--remote", "b@c"], "--kit and --remote are different ways to measure"),
        (["--kit", "a"], "a kit is for one precision"),
        (["--kit", "a", "--runtime", "torch"], "pass --tool, not --runtime torch"),
        (["--runtime", "torch", "--precision", "int8"], "torch measures fp32, not int8"),
        (["--runtime", "ethos-u", "--precision", "fp32"], "ethos-u measures int8, not fp32"),
        (["--energy", "sunlight"], "there is no meter 'sunlight'; there are rapl, nvml, jetson, later"),
        (["--name", "x"], "--name names one table"),
        (["--import-kit", "nowhere"], "nowhere"),
        (["--energy-log", "x.csv"], "with a meter"),
        (["--ssh-option", "Port=22"], "--ssh-option goes with --remote"),
        (["--accelerator", "ethos-u55-32"], "onnxruntime has no setting 'accelerator'"),
        (["--threads", "0"], "threads"),
        (["--space", "mobilenet_v9.digits"], "mobilenet_v9"),
    ],
)
def test_refusals_are_one_line(flags, message, tmp_path, capsys):
    with contextlib.suppress(SystemExit):  # of a value that its flag refuses
        assert main([*RUN, "--run-dir", str(tmp_path), *flags]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not list(Path(tmp_path).iterdir())
