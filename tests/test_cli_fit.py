"""``nas fit``: choose networks, time them anywhere, make a table; against a device whose truth is known."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pandas as pd
import pytest

import nas
from nas.cli.app import main
from nas.device import Device
from nas.tables.table import LatencyTable
from search_spaces import MobileNetV2

SPACE = MobileNetV2.digits()
RUN = ["fit", "--space", "mobilenet_v2.digits"]


def table_of(name, per_block):
    device = Device(name=name, chip=name, runtime="fake", version="1", precision="fp32")
    ms = np.array([per_block(b) for b in SPACE.blocks])
    keys = [b.key for b in SPACE.blocks]
    rows = pd.DataFrame({"block": keys, "latency_ms": ms, "p10_ms": ms, "p90_ms": ms, "runs": 9})
    return LatencyTable(device=device, rows=rows, space={"name": SPACE.name, "fingerprint": SPACE.fingerprint})


KNOWN = [
    table_of("first", lambda b: 0.01 + b.macs / 2e7),
    table_of("second", lambda b: 0.02 + b.params / 1e6 + b.macs / 1e8),
]


def truth(archs):
    return sum(nas.latency(SPACE, t, unvalidated=True)(archs) * share for t, share in zip(KNOWN, (3, 1), strict=True))


@pytest.fixture
def known(tmp_path):
    for table in KNOWN:
        table.save(tmp_path / table.device.name)
    return ["--like", *(str(tmp_path / f"{t.device.name}.json") for t in KNOWN)]


def test_ten_networks_and_two_known_devices_make_a_table(tmp_path, known, capsys):
    folder = tmp_path / "board"
    assert main([*RUN, "--choose", "10", *known, "--output", str(folder)]) == 0
    frame = pd.read_csv(folder / "timings.csv")
    assert len(frame) == len(set(frame["architecture"])) == 10
    for file, blocks in zip(frame["file"], SPACE.networks(SPACE.parse(frame["architecture"])), strict=True):
        shape = onnxruntime.InferenceSession(folder / file).get_inputs()[0].shape
        assert tuple(shape) == (1, *blocks[0].in_shape)
    assert main([*RUN, "--choose", "10", "--output", str(folder)]) == 2
    assert "fill it in" in capsys.readouterr().err
    filled = [*RUN, "--timings", str(folder / "timings.csv"), "--device-name", "The Board", "--run-dir", str(folder)]
    assert main([*filled, *known]) == 2
    assert "10 of 10 networks have no ms yet" in capsys.readouterr().err

    rng = np.random.default_rng(0)
    ms = truth(SPACE.parse(frame["architecture"])) * (1 + 0.01 * rng.standard_normal(10))
    frame.assign(ms=ms).to_csv(folder / "timings.csv", index=False)
    assert main([*filled, *known, "--name", "board"]) == 0
    table = LatencyTable.load(folder / "board")
    assert table.kind == "fitted"
    assert table.device.name == "The Board"
    unseen = SPACE.sample(300, rng)
    error = np.abs(nas.latency(SPACE, table)(unseen) / truth(unseen) - 1).mean()
    assert error < 0.03
    assert error < table.notes["mape_at_most"]  # what it says of itself
    capsys.readouterr()
    assert main([*filled, *known, "--name", "board"]) == 2
    assert "there already" in capsys.readouterr().err
    assert main(filled) == 2
    assert "at least 20 different networks" in capsys.readouterr().err


def test_timings_that_make_no_sense_are_refused(tmp_path, known, capsys):
    rng = np.random.default_rng(1)
    archs = SPACE.sample(12, rng)
    path = tmp_path / "timings.csv"
    run = [*RUN, "--timings", str(path), *known, "--run-dir", str(tmp_path)]

    def refused(frame, message, *more):
        frame.to_csv(path, index=False)
        assert main([*run, *more]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1

    good = pd.DataFrame({"architecture": SPACE.describe(archs), "ms": truth(archs)})
    board = ("--device-name", "board")
    refused(good, "--device-name")
    refused(good.rename(columns={"ms": "latency"}), "columns architecture and ms", *board)
    refused(good.assign(ms=-1.0), "positive", *board)
    refused(good.assign(architecture="depth=9"), "'depth=9' does not belong to space", *board)
    refused(good.assign(ms=rng.permutation(good["ms"]) * rng.lognormal(0, 1, 12)), "do not support a table", *board)
    assert main([*RUN, "--timings", str(tmp_path / "none.csv"), *board]) == 2
    assert "none.csv" in capsys.readouterr().err


def test_a_published_board_is_a_table(tmp_path, capsys):
    assert main([*RUN, "--board", "NUCLEO-L4R5ZI", "--run-dir", str(tmp_path), "--name", "board"]) == 0
    assert "Cortex-M4F" in capsys.readouterr().out
    LatencyTable.load(tmp_path / "board").check_space(SPACE)
    assert main([*RUN, "--board", "Arduino", "--run-dir", str(tmp_path)]) == 2
    assert "there are some of" in capsys.readouterr().err
