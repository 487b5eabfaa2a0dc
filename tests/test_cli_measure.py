"""``nas measure`` from the command line: which runtime, which meter, which way; and its refusals."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from test_campaign import Breaks

from nas.cli import measure as cli_measure
from nas.cli.app import main
from nas.runtimes import OnnxRuntime, OpenVINO, TorchCPU
from nas.tables.table import LatencyTable

RUN = ["measure", "--space", "mobilenet_v2.digits"]


@pytest.fixture
def fake(monkeypatch, tiny):
    monkeypatch.setattr("nas.cli.app._space", lambda name, classes, channels: tiny)
    monkeypatch.setattr(cli_measure, "runtimes", lambda: {"onnxruntime": lambda args, precision: Breaks()})


def test_a_table_its_windows_and_the_log_of_a_meter(fake, tmp_path, capsys):
    run = [*RUN, "--run-dir", str(tmp_path), "--precision", "fp32"]
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


def test_names_become_runtimes():
    class Args:
        threads, batch, accelerator = 2, 4, "ethos-u55-128"

    known = cli_measure.runtimes()
    assert known["onnxruntime"](Args, "int8") == OnnxRuntime(precision="int8", threads=2, batch=4)
    assert known["openvino"](Args, "fp32") == OpenVINO(precision="fp32", threads=2, batch=4)
    assert known["torch-compiled"](Args, "fp32") == TorchCPU(compiled=True, threads=2, batch=4)


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
        (["--threads", "0"], "threads"),
        (["--space", "mobilenet_v9.digits"], "mobilenet_v9"),
    ],
)
def test_refusals_are_one_line(flags, message, tmp_path, capsys):
    assert main([*RUN, "--run-dir", str(tmp_path), *flags]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not list(Path(tmp_path).iterdir())
