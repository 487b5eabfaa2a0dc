"""The whole job at its smallest: one command, killed in every stage, resumed; and the command line's refusals."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import nas
from nas.cli.app import main
from nas.compression.int8_network import OnnxNetwork
from nas.data.images import load_digits
from nas.objectives.memory import peak_sram
from nas.report.page import write_report
from nas.runs.candidates import load_candidate
from nas.training.evaluate import accuracy
from search_spaces import EfficientNet

ROOT = Path(__file__).parents[1]
FAST = ["--space", "efficientnet.digits", "--epochs", "6", "--budget", "24", "--population", "8", "--candidates", "2"]
FAST += ["--finetune-epochs", "2"]
ARTEFACTS = [
    "table_fp32.json",
    "table_int8.json",
    "supernet.safetensors",
    "evaluations.csv",
    "final.csv",
    "report.html",
]


def nas_command(*arguments: str, **options) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "nas.cli", *arguments],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run that was never interrupted."""
    folder = tmp_path_factory.mktemp("run") / "whole"
    process = nas_command("quickstart", "--run-dir", str(folder), *FAST)
    output, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors
    assert errors == ""  # no library's warning reaches the user
    assert "report:" in output
    return folder


def test_the_quickstart_leaves_everything_that_was_promised(finished):
    assert all((finished / name).exists() for name in [*ARTEFACTS, "pareto.png", "config.json", "training.csv"])
    final = pd.read_csv(finished / "final.csv")
    assert {"c01", "c01p"} <= set(final["id"])
    assert final["on_final_front"].any()
    numbers = final.select_dtypes("number").drop(columns=["predicted_fp32_ms", "predicted_int8_ms"])
    assert np.isfinite(numbers).all().all()
    assert len(list(finished.glob("candidates/*/bundle/model.py"))) == 1
    assert not list(finished.rglob("*.tmp")) + list(finished.rglob("*partial*")) + list(finished.rglob("*checkpoint*"))


def test_recorded_accuracies_are_those_of_the_files(finished):
    data = load_digits()
    for row in pd.read_csv(finished / "final.csv").itertuples():
        folder = finished / "candidates" / row.id
        network = load_candidate(folder)
        assert accuracy(network, data.test, data) == pytest.approx(row.fp32_test_accuracy)
        int8 = OnnxNetwork((folder / "int8.onnx").read_bytes(), network.input_shape)
        assert accuracy(int8, data.test, data) == pytest.approx(row.int8_test_accuracy)
        assert sum(b.macs for b in network.describe()) == row.macs


def test_the_front_is_the_non_dominated_set(finished):
    evaluations = pd.read_csv(finished / "evaluations.csv")
    costs = np.column_stack([-evaluations["accuracy"], evaluations["latency_ms"]])
    assert evaluations["on_front"].tolist() == nas.pareto.non_dominated(costs).tolist()
    assert len(evaluations) == 24
    history = pd.read_csv(finished / "hypervolume.csv")["hypervolume"]
    assert (history.diff().dropna() >= 0).all()


def wait_for(condition, process, seconds=200):
    deadline = time.monotonic() + seconds
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition(), process.communicate()


def rows_in(database: Path) -> int:
    import sqlite3

    if not database.exists():
        return 0
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        return connection.execute("SELECT count(*) FROM evaluations").fetchone()[0]
    except sqlite3.OperationalError:
        return 0
    finally:
        connection.close()


def test_killed_in_training_search_and_compression_it_ends_with_the_same_front(finished, tmp_path):
    """SIGKILL in three stages. The tables are copied: a second measurement gives other microseconds, rightly."""
    folder = tmp_path / "broken"
    folder.mkdir()
    for name in ("config.json", *(p.name for p in finished.glob("table_*"))):
        shutil.copy(finished / name, folder / name)
    command = ["quickstart", "--run-dir", str(folder), "--resume", *FAST]
    stages = [
        lambda: (folder / "supernet.checkpoint.pt").exists(),
        lambda: rows_in(folder / "evaluations.db") >= 5,
        lambda: (folder / "candidates" / "c01" / "summary.json").exists(),
    ]
    for reached in stages:
        process = nas_command(*command)
        wait_for(reached, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not (folder / "final.csv").exists()
    untouched = (folder / "candidates" / "c01" / "summary.json").stat().st_mtime_ns
    evaluated = rows_in(folder / "evaluations.db")
    process = nas_command(*command)
    _, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors
    assert (folder / "candidates" / "c01" / "summary.json").stat().st_mtime_ns == untouched
    assert rows_in(folder / "evaluations.db") == 24 >= evaluated
    for name in ("pareto.csv", "evaluations.csv"):
        assert (folder / name).read_text() == (finished / name).read_text()
    ours, theirs = (pd.read_csv(f / "final.csv").set_index("id").sort_index() for f in (folder, finished))
    for column in ("supernet_accuracy", "fp32_test_accuracy", "int8_test_accuracy", "macs"):
        assert ours[column].tolist() == theirs[column].tolist()


def test_single_commands_work_on_a_finished_run(finished, tmp_path, capsys):
    for kind, name in (("onnx", "a.onnx"), ("onnx-int8", "b.onnx"), ("onnx-int8-symmetric", "c.onnx"), ("bundle", "d")):
        target = tmp_path / name
        arguments = [
            "export",
            "--run-dir",
            str(finished),
            "--candidate",
            "c01",
            "--format",
            kind,
            "--output",
            str(target),
        ]
        assert main(arguments) == 0
        assert target.exists()
    capsys.readouterr()
    assert main(["tables", str(finished)]) == 0
    shown = capsys.readouterr().out
    assert "onnxruntime" in shown
    assert "Kendall tau" in shown
    assert main(["report", "--run-dir", str(finished)]) == 0


def test_stages_follow_each_other_command_by_command(finished, tmp_path, capsys):
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "candidates")
    for name in ("final.csv", "evaluations.db", "evaluations.csv"):
        (folder / name).unlink()
    run = ["--run-dir", str(folder)]
    assert main(["search", *run, "--budget", "10", "--max-latency-ms", "5"]) == 0
    assert len(pd.read_csv(folder / "evaluations.csv")) == 10
    assert json.loads((folder / "config.json").read_text())["settings"]["max_latency_ms"] == 5
    assert main(["search", *run]) == 2
    assert "already holds a search" in capsys.readouterr().err
    assert main(["search", *run, "--budget", "12", "--resume"]) == 0
    assert len(pd.read_csv(folder / "evaluations.csv")) == 12
    assert main(["compress", *run, "--candidates", "1", "--prune", "0"]) == 0
    assert pd.read_csv(folder / "final.csv")["id"].tolist() == ["c01"]
    capsys.readouterr()
    assert main(["compress", *run]) == 2
    assert "already holds candidates" in capsys.readouterr().err
    assert main(["compress", *run, "--resume", "--finetune-epochs", "3"]) == 2
    assert "made with other finetune_epochs" in capsys.readouterr().err
    assert main(["train", *run, "--data", "elsewhere/", "--resume"]) == 2
    assert "was made with data digits" in capsys.readouterr().err


def folder_with_config(tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "config.json").write_text("{broken")
    return tmp_path / "r"


def one_class(tmp_path):
    from PIL import Image

    (tmp_path / "x" / "only").mkdir(parents=True)
    Image.new("L", (8, 8)).save(tmp_path / "x" / "only" / "a.png")
    return tmp_path / "x"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda p, f: ["quickstart", "--data", str(p / "none"), "--run-dir", str(p / "r")], "does not exist"),
        (lambda p, f: ["quickstart", "--data", str(one_class(p)), "--run-dir", str(p / "r")], "1 class folder"),
        (lambda p, f: ["quickstart", "--space", "resnet.digits", "--run-dir", str(p / "r")], "no search space 'resnet.digits'"),
        (lambda p, f: ["quickstart", "--run-dir", str(f), *FAST], "already holds a run"),
        (lambda p, f: ["quickstart", "--run-dir", str(f), "--resume", *FAST, "--epochs", "9"], "started with epochs = 6, now it is 9"),
        (lambda p, f: ["quickstart", "--run-dir", str(f), "--resume"], "holds a run on space efficientnet_digits"),
        (lambda p, f: ["quickstart", "--run-dir", "/proc/nowhere"], "cannot write /proc/nowhere"),
        (lambda p, f: ["search", "--run-dir", str(folder_with_config(p))], "config.json is damaged"),
        (lambda p, f: ["search", "--run-dir", str(p)], "is not a run folder"),
        (lambda p, f: ["export", "--run-dir", str(f), "--candidate", "c99", "--output", str(p / "x")], "there are c01, c01p"),
        (lambda p, f: ["report", "--run-dir", str(p)], "holds nothing to report"),
        (lambda p, f: ["tables", str(p)], "no latency tables"),
        (lambda p, f: ["quickstart", "--epoch", "3"], "--epoch"),
        (lambda p, f: ["quickstart", "--epochs", "many"], "invalid int value: 'many'"),
        (lambda p, f: ["fly"], "invalid choice: 'fly'"),
        (lambda p, f: [], "required: COMMAND"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_2(finished, tmp_path, capsys, arguments, message):
    try:
        status = main(arguments(tmp_path, finished))
    except SystemExit as exit_:
        status = exit_.code
    captured = capsys.readouterr()
    assert status == 2
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert not (tmp_path / "r" / "report.html").exists()
    half_written = [p for p in tmp_path.rglob("*.tmp")]
    assert not half_written


def test_a_limit_nothing_meets_and_tables_of_another_space_are_refused(finished, tmp_path, capsys):
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    for name in ("evaluations.db", "evaluations.csv", "pareto.csv"):
        (folder / name).unlink()
    assert main(["search", "--run-dir", str(folder), "--max-latency-ms", "0.0001"]) == 2
    assert "nearest value that can be met is" in capsys.readouterr().err
    assert not (folder / "evaluations.db").exists()
    table = json.loads((folder / "table_int8.json").read_text())
    rows = (folder / "table_int8.csv").read_text().splitlines()
    table["rows"] = 10
    (folder / "table_int8.json").write_text(json.dumps(table))
    (folder / "table_int8.csv").write_text("\n".join(rows[:11]) + "\n")
    assert main(["search", "--run-dir", str(folder)]) == 2
    assert "lacks" in capsys.readouterr().err


def test_help_shows_examples(capsys):
    for command in ("quickstart", "measure", "train", "search", "compress", "export", "report", "tables"):
        with pytest.raises(SystemExit) as exit_:
            main([command, "--help"])
        assert exit_.value.code == 0
        assert f"nas {command}" in capsys.readouterr().out.split("examples:")[1]


def test_importing_nas_imports_no_torch():
    code = "import sys, nas, search_spaces, nas.search, nas.objectives; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    for name in nas.__all__:
        assert getattr(nas, name) is not None


def test_the_report_is_self_contained_and_complete(finished, tmp_path):
    import re
    import xml.etree.ElementTree as ET

    text = (finished / "report.html").read_text()
    assert not re.search(r"https?://|src=|href=|@import|url\((?!#)", text)
    final = pd.read_csv(finished / "final.csv")
    for row in final.itertuples():
        assert row.architecture in text
        assert f"{1000 * row.measured_int8_ms:.1f} µs" in text
        assert f"{100 * row.int8_test_accuracy:.1f}%" in text
    figures = re.findall(r"<svg viewBox=.*?</svg>", text, re.S)
    assert len(figures) >= 6
    for figure in figures:
        ET.fromstring(figure)
    before = text
    write_report(finished)
    assert (finished / "report.html").read_text() == before
    assert len(text) < 1_000_000


def test_reports_of_unfinished_and_damaged_runs(finished, tmp_path):
    for name in ("table_int8.json", "table_int8_networks.csv"):
        shutil.copy(finished / name, tmp_path / name)
    text = write_report(tmp_path).read_text()
    assert "Not in this run folder: training.csv" in text
    assert text.count("class='missing'") == 7
    assert "<code>nas train</code> makes it" in text
    assert not (tmp_path / "pareto.png").exists()
    (tmp_path / "training.csv").write_text("nonsense\n1\n")
    with pytest.raises(nas.BadInput, match=r"training\.csv is damaged"):
        write_report(tmp_path)


def test_user_text_is_escaped(finished, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    config = json.loads((folder / "config.json").read_text())
    config["data"]["name"] = "<script>alert(1)</script>"
    (folder / "config.json").write_text(json.dumps(config))
    assert "<script>alert(1)" not in write_report(folder).read_text()


def test_a_search_for_another_device_within_its_memory(finished, tmp_path, capsys):
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "candidates")
    for name in ("final.csv", "evaluations.db", "evaluations.csv"):
        (folder / name).unlink()
    here = nas.LatencyTable.load(folder / "table_int8")
    board = dataclasses.replace(here.device, name="board", chip="board", runtime="other")
    rows = here.rows.assign(**{c: 50 * here.rows[c] for c in ("latency_ms", "p10_ms", "p90_ms")})
    target = dataclasses.replace(here, device=board, rows=rows)
    target.save(tmp_path / "board")
    limits = ["--max-sram", "24KB", "--max-flash", "0.1MB"]
    run = ["--run-dir", str(folder)]
    assert main(["search", *run, "--budget", "10", "--table", str(tmp_path / "board"), *limits]) == 0
    space = EfficientNet.digits()
    seen = pd.read_csv(folder / "evaluations.csv")
    archs = space.parse(seen["architecture"])
    assert seen["latency_ms"].to_numpy() == pytest.approx(nas.latency(space, target)(archs), rel=1e-5)
    assert (peak_sram(space)(archs[seen["on_front"]]) <= 24 * 1024).all()
    assert main(["compress", *run, "--candidates", "1", "--prune", "0"]) == 0
    final = pd.read_csv(folder / "final.csv").iloc[0]
    row = seen[seen["architecture"] == final["architecture"]].iloc[0]
    assert final["predicted_target_ms"] == pytest.approx(row["latency_ms"], rel=1e-5)
    assert final["peak_sram"] <= 24 * 1024
    assert final["flash_size"] <= 0.1 * 1024**2
    assert main(["report", *run]) == 0
    assert "target pred." in (folder / "report.html").read_text()
    capsys.readouterr()
    here.save(tmp_path / "another")
    assert main(["search", *run, "--resume", "--table", str(tmp_path / "another"), *limits]) == 2
    assert "was searched for" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["search", *run, "--resume", "--max-sram", "many"])
    assert "such as 256KB" in capsys.readouterr().err


def test_litert_export(finished, tmp_path):
    pytest.importorskip("ai_edge_litert")
    pytest.importorskip("ai_edge_quantizer")
    from ai_edge_litert.interpreter import Interpreter

    network = load_candidate(finished / "candidates" / "c01")
    for kind, dtype in (("litert", np.float32), ("litert-int8", np.int8)):
        target = tmp_path / f"{kind}.tflite"
        arguments = ["export", "--run-dir", str(finished), "--candidate", "c01", "--format", kind]
        assert main([*arguments, "--output", str(target)]) == 0
        interpreter = Interpreter(model_path=str(target))
        (given,) = interpreter.get_input_details()
        c, h, w = network.input_shape
        assert given["shape"].tolist() == [1, h, w, c]
        assert given["dtype"] == dtype


def test_the_table_of_another_space_is_refused_before_anything_is_measured(finished, tmp_path, capsys):
    given = ["--space", "mobilenet_v2.digits", "--table", str(finished / "table_int8")]
    assert main(["quickstart", "--run-dir", str(tmp_path / "run"), *given]) == 2
    assert "was made for efficientnet_digits and lacks" in capsys.readouterr().err
    assert not (tmp_path / "run" / "table_fp32.csv").exists()
