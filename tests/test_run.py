"""The whole job at its smallest: killed in every stage, resumed, changed, refused; its folder on the command line."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import small_run
import torch
from conftest import lively, made_once, some_digits
from safetensors import safe_open

import nas
from nas.blocks import Head, Stem
from nas.cli import app, names as cli_names
from nas.cli.app import main
from nas.compression.int8_network import OnnxNetwork
from nas.data.splits import Split
from nas.deploy.to_onnx import quiet
from nas.objectives.memory import flash_size, peak_sram
from nas.runs import artefacts, candidates, final, folder as run_folder, made_by, names, search, stages, tables
from nas.runs.artefacts import CANDIDATES, CONFIG, FINAL, Call, read_config
from nas.runs.candidates import load_candidate, missing_candidates, spread_over_front
from nas.runs.folder import new_run, reopen
from nas.runs.settings import SETTINGS_OF
from nas.tables.names import table_stem
from nas.training.evaluate import accuracy
from nas.training.weights import save_weights
from search_spaces import EfficientNet

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A run that was never interrupted, and its report. Its tables are measured with few whole networks."""

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tables, "measure", partial(tables.measure, calibrate=12, validate=8))
            small_run.run(folder)
        nas.write_report(folder)

    return made_once(tmp_path_factory, "run", make)


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    """Its copy, to do something to."""
    return shutil.copytree(finished, tmp_path / "copy")


@pytest.fixture(autouse=True)
def bundles_are_fine(finished, monkeypatch) -> None:
    """Each is run in a process of its own, for seconds; that of ``finished`` was, and tests/test_bundle.py is about it."""
    differences = {"largest_relative_difference": 0.0, "source_relative_difference": 0.0}
    monkeypatch.setattr("nas.deploy.bundle._verify", lambda *_: differences)


def without(folder: Path, *stages_: str) -> Path:
    """The folder as it was before these stages."""
    left = {
        "supernet": ["supernet.safetensors", "training.csv"],
        "search": ["evaluations.db", "search.json", "evaluations.csv", "pareto.csv", "hypervolume.csv"],
        "candidates": [CANDIDATES],
        "final": ["final.csv"],
    }
    for stage in stages_:
        for name in left[stage]:
            shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
    return folder


def listing(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ---- what a run leaves -------------------------------------------------------------------------------------------


def test_a_run_leaves_everything_that_was_promised(finished):
    promised = ["table_fp32.json", "table_int8.json", "supernet.safetensors", "training.csv", "evaluations.csv"]
    promised += ["final.csv", "report.html", "pareto.png", "config.json", "search.json"]
    assert all((finished / name).exists() for name in promised)
    table = pd.read_csv(finished / "final.csv")
    assert set(table["id"]) == {"c01", "c01p", "c02", "c02p"}
    assert list(table) == [c.name for c in FINAL if c.name in table]
    numbers = table.select_dtypes("number")
    assert np.isfinite(numbers).all().all()
    assert len(list(finished.glob("candidates/*/bundle/model.py"))) == 1
    leftovers = [p for mark in ("*.tmp*", "*partial*", "*checkpoint*", ".lock") for p in finished.rglob(mark)]
    assert not leftovers
    assert set(artefacts.read_seconds(finished)) == {s.name for s in stages.STAGES}


def test_recorded_accuracies_are_those_of_the_files(finished):
    data = small_run.images()
    for row in pd.read_csv(finished / "final.csv").itertuples():
        folder = finished / "candidates" / row.id
        network = load_candidate(folder)
        assert accuracy(network, data.test, data) == pytest.approx(row.fp32_test_accuracy)
        int8 = OnnxNetwork((folder / "int8.onnx").read_bytes(), network.input_shape)
        assert accuracy(int8, data.test, data) == pytest.approx(row.int8_test_accuracy)
        assert nas.training.evaluate.validation_accuracy(int8, data) == pytest.approx(row.int8_val_accuracy)
        assert sum(b.macs for b in network.describe()) == row.macs
        assert row.int8_bytes == (folder / "int8.onnx").stat().st_size
        assert row.speedup_int8 == pytest.approx(row.measured_fp32_ms / row.measured_int8_ms)


def test_the_front_is_the_non_dominated_set(finished):
    evaluations = pd.read_csv(finished / "evaluations.csv")
    costs = np.column_stack([-evaluations["accuracy"], evaluations["latency_ms"]])
    better = (costs[:, None] <= costs[None]).all(2) & (costs[:, None] < costs[None]).any(2)
    assert evaluations["on_front"].tolist() == (~better.any(0)).tolist()
    assert len(evaluations) == 12
    history = pd.read_csv(finished / "hypervolume.csv")["hypervolume"]
    assert (history.diff().dropna() >= 0).all()


def test_the_final_front_and_the_best_of_it():
    rows = pd.DataFrame(
        {
            "id": ["slow", "best", "equal", "fast", "bad"],
            "int8_val_accuracy": [0.9, 0.9, 0.9, 0.5, 0.4],
            "int8_test_accuracy": [1.0, 0.1, 0.2, 0.9, 1.0],  # chooses nothing
            "measured_int8_ms": [3.0, 2.0, 2.5, 1.0, 1.5],
        }
    )
    table = final.with_front(rows)
    assert table["id"].tolist() == ["fast", "bad", "best", "equal", "slow"]
    assert table.loc[table["on_final_front"], "id"].tolist() == ["fast", "best"]
    assert artefacts.best_of(rows) == "best"


def test_the_bundle_is_of_the_best(finished):
    best = artefacts.best_of(pd.read_csv(finished / "final.csv"))
    assert (finished / "candidates" / best / "bundle" / "model.py").exists()


def test_candidates_are_spread_over_the_whole_front(finished):
    front = np.arange(20).reshape(10, 2)
    assert spread_over_front(front, 3)[:, 0].tolist() == [0, 8, 18]
    assert spread_over_front(front, 50).tolist() == front.tolist()
    run = reopen(finished)
    found = search.front_of(run)
    result = nas.SearchResult.load(finished, run.space)
    assert found.tolist() == result.front.archs.tolist()
    names_ = [c.made_from.genes for c in artefacts.read_candidates(finished) if not c.pruned]
    assert names_ == [tuple(a) for a in spread_over_front(found, 2)]


def test_compression_happens_in_the_order_of_its_steps(finished):
    c01, pruned = (artefacts.read_candidate(finished / "candidates" / name) for name in ("c02", "c02p"))
    assert [s.step for s in c01.steps] == ["extract", "fine-tune", "quantize"]
    assert [s.step for s in pruned.steps] == ["extract", "fine-tune", "prune", "recover", "quantize"]
    assert pruned.steps[:2] == c01.steps[:2]
    assert pruned.steps[-1].macs < 0.7 * c01.steps[-1].macs
    assert [c01.pruned, pruned.pruned] == [0.0, 0.5]
    assert {c01.steps[-1].quantization, pruned.steps[-1].quantization} <= {"ptq", "qat"}
    assert {s.quantization for s in (*c01.steps[:-1], *pruned.steps[:-1])} == {""}


def test_a_variant_starts_from_the_network_that_it_follows(copy, monkeypatch):
    shutil.rmtree(copy / CANDIDATES / "c02p")
    seen = []

    def compress(network, steps, *_, **__):
        seen.append((network, [s.name for s in steps]))
        raise KeyboardInterrupt

    monkeypatch.setattr(candidates, "compress", compress)
    with pytest.raises(KeyboardInterrupt):
        candidates.compress_stage(reopen(copy))
    network, steps = seen[0]
    assert steps == ["prune", "recover", "quantize"]
    tuned = load_candidate(copy / CANDIDATES / "c02").state_dict()
    assert all(torch.equal(tuned[name], weight) for name, weight in network.state_dict().items())


def test_candidates_are_cut_out_and_trained_on_the_device_of_the_run(copy, monkeypatch):
    """``cpu:0`` is a name of the CPU that no default has."""
    shutil.rmtree(copy / CANDIDATES / "c02p")
    run, used, load = reopen(copy), [], search.load_supernet

    def compress(*_, device, **__):
        used.append(device)
        raise KeyboardInterrupt

    monkeypatch.setattr(candidates, "compress", compress)
    monkeypatch.setattr(
        search, "load_supernet", lambda space, path, device: used.append(device) or load(space, path, device)
    )
    with pytest.raises(KeyboardInterrupt):
        candidates.compress_stage(dataclasses.replace(run, settings=dataclasses.replace(run.settings, device="cpu:0")))
    assert used == ["cpu:0", "cpu:0"]


class Sealed(Split):
    """Test images that may not be looked at yet."""

    open = False

    def __getattribute__(self, name):
        if name in ("images", "labels", "take") and not Sealed.open:
            raise AssertionError("the test images were looked at before the end")
        return super().__getattribute__(name)


def test_the_test_images_are_looked_at_in_the_end_only(finished, tmp_path, monkeypatch):
    """By no stage but the last, which does look."""
    plain = small_run.images()
    monkeypatch.setattr(Sealed, "open", True)
    sealed = dataclasses.replace(plain, test=Sealed(images=plain.test.images, labels=plain.test.labels))
    assert sealed.fingerprint == plain.fingerprint
    assert len(sealed.mean) == 1
    monkeypatch.setattr(Sealed, "open", False)
    monkeypatch.setattr(Sealed, "__len__", lambda self: len(plain.test))
    folder = with_tables(finished, tmp_path / "sealed")
    settings = dataclasses.replace(small_run.SETTINGS, epochs=1, budget=6, candidates=1)
    run = new_run(small_run.space(), sealed, run_dir=folder, settings=settings, resume=True)
    for stage in ("supernet", "search", "candidates"):
        stages.run_stage(run, stage)
    with pytest.raises(AssertionError, match="before the end"):
        stages.run_stage(run, "final")


def with_tables(finished: Path, folder: Path) -> Path:
    """A folder that has the tables of a finished run, and nothing else."""
    folder.mkdir()
    for path in finished.glob("table_*"):
        shutil.copy(path, folder / path.name)
    return folder


# ---- killed, resumed, changed ------------------------------------------------------------------------------------


def test_killed_in_training_search_and_compression_it_ends_with_the_same_front(finished, tmp_path):
    """SIGKILL in three stages. The tables are copied: a second measurement gives other microseconds, rightly."""
    folder = with_tables(finished, tmp_path / "broken")
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    kills = ['["on_epoch", 2]', '["on_result", 5]', '["on_candidate", 1]']
    command = [sys.executable, str(ROOT / "tests" / "small_run.py"), str(folder), *kills]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert not (folder / "final.csv").exists()
    assert [p.parent.name for p in folder.glob("candidates/*/summary.json")] == ["c01"]
    untouched = (folder / "candidates" / "c01" / "summary.json").stat().st_mtime_ns
    assert rows_in(folder / "evaluations.db") == 12
    small_run.run(folder)
    assert (folder / "candidates" / "c01" / "summary.json").stat().st_mtime_ns == untouched
    for name in ("pareto.csv", "evaluations.csv"):
        assert (folder / name).read_text() == (finished / name).read_text()
    ours, theirs = (pd.read_csv(f / "final.csv").set_index("id").sort_index() for f in (folder, finished))
    for column in ("supernet_accuracy", "fp32_test_accuracy", "int8_test_accuracy", "macs"):
        assert ours[column].tolist() == theirs[column].tolist()


def rows_in(database: Path) -> int:
    with sqlite3.connect(database) as connection:
        return connection.execute("SELECT count(*) FROM evaluations").fetchone()[0]


def test_a_finished_run_does_nothing_again(copy, monkeypatch):
    for module, name in ((tables, "measure"), (search, "train_supernet"), (search, "search"), (candidates, "compress")):
        monkeypatch.setattr(module, name, lambda *a, name=name, **k: pytest.fail(f"{name} ran again"))
    before = {k: v for k, v in listing(copy).items() if k != "stages.json"}
    table = small_run.run(copy)
    assert {k: v for k, v in listing(copy).items() if k != "stages.json"} == before
    assert len(table) == 4
    with pytest.raises(nas.BadInput, match=r"already holds a run; pass resume \(--resume\)"):
        small_run.run(copy, resume=False)
    with pytest.raises(nas.BadInput, match=r"was started with lr = None, now it is 0.2;"):
        small_run.run(copy, lr=0.2)


def test_what_a_killed_process_had_half_written_goes(copy, monkeypatch):
    """Under the very names of atomic files and bundles, which are caught here before they get their own."""
    before = {p.relative_to(copy) for p in copy.rglob("*")}
    place = copy / CANDIDATES / "c01"
    with monkeypatch.context() as killed:
        killed.setattr(Path, "unlink", lambda *a, **k: None)
        killed.setattr(shutil, "rmtree", lambda *a, **k: None)
        killed.setattr("nas.files.os.replace", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            artefacts.write_record(place / "summary.json", {})
        with pytest.raises(KeyboardInterrupt):
            candidates.bundle_candidate(reopen(copy), "c01")
    left = {p.relative_to(copy) for p in copy.rglob("*")} - before
    assert {str(p.name)[:8] for p in left if p.name.startswith(".")} == {".summary", ".bundle-"}
    with run_folder.opened(reopen(copy, resume=True)):
        pass
    assert {p.relative_to(copy) for p in copy.rglob("*")} == before


def test_hooks_hear_of_every_epoch_network_and_candidate(finished, tmp_path):
    heard = {name: [] for name in ("on_epoch", "on_result", "on_candidate")}
    folder = with_tables(finished, tmp_path / "heard")
    hooks = {name: got.append for name, got in heard.items()}
    small_run.run(folder, resume=True, epochs=2, budget=4, candidates=1, prune=0.0, qat_epochs=0, **hooks)
    assert [row["epoch"] for row in heard["on_epoch"]] == [1, 2]
    assert len(heard["on_result"]) == 4
    assert [c.id for c in heard["on_candidate"]] == ["c01"]
    assert heard["on_candidate"][0].steps[-1].quantization == "ptq"


def test_an_interrupt_says_how_to_go_on(finished, tmp_path, caplog):
    folder = with_tables(finished, tmp_path / "stopped")

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small_run.run(folder, on_epoch=stop)
    assert "the same call goes on" in caplog.text


def test_a_folder_of_another_version_says_so_in_one_line(copy, capsys):
    config = json.loads((copy / "config.json").read_text())
    for version, wrong in ((None, "format 1"), (1, "format 1"), (3, "format 3"), ("2", "is damaged")):
        # other versions have other fields
        other = {k: v for k, v in config.items() if k not in ("version", "environment")}
        (copy / "config.json").write_text(json.dumps(other if version is None else other | {"version": version}))
        for command in (["report"], ["quickstart", "--resume"]):
            assert main([*command, "--run-dir", str(copy)]) == 2
            said = capsys.readouterr().err
            assert wrong in said
            assert said.count("\n") == 1
            assert ("go on with the version that made it, or start anew in another run folder" in said) == (
                version != "2"
            )


def test_reports_and_exports_have_nothing_to_resume(capsys):
    for command in (["report"], ["export", "--candidate", "c01", "--output", "y"]):
        with pytest.raises(SystemExit):
            main([*command, "--run-dir", "x", "--resume"])
        assert "--resume" in capsys.readouterr().err


def test_resume_reads_the_folders_own_settings_and_says_what_may_no_longer_change(copy):
    assert reopen(copy).settings == small_run.SETTINGS
    assert new_run(small_run.space, small_run.images, run_dir=copy, resume=True).settings == small_run.SETTINGS
    assert new_run(small_run.space, small_run.images, run_dir=copy / "new", resume=True).settings == nas.Settings()
    for change, late in (
        ({"epochs": 9, "lr": 0.2}, "started with epochs = 3, now it is 9, and with lr = None, now it is 0.2;"),
        ({"epochs": 2}, "epochs = 3, now it is 2"),
        ({"seed": 1}, "seed = 0, now it is 1"),
        ({"threads": 2}, "threads = 1, now it is 2"),
        ({"max_latency_ms": 9.0}, "max_latency_ms = None, now it is 9.0"),
        ({"searcher": "nsga2"}, "searcher = random, now it is nsga2"),
        ({"budget": 5}, "budget = 12, now it is 5"),
        ({"finetune_epochs": 4}, "finetune_epochs = 1, now it is 4"),
    ):
        before = listing(copy)
        with pytest.raises(nas.BadInput, match=late.replace("(", r"\(")):
            stages.run_all(reopen(copy, change, resume=True))
        assert listing(copy) == before
    for change in ({"budget": 20}, {"candidates": 3}, {"device": "cpu"}):
        run_folder.check_run(reopen(copy, change))


def test_limits_may_be_given_and_taken_back_before_the_search(copy):
    folder = without(copy, "search", "candidates", "final")
    limited = reopen(folder, {"max_latency_ms": 100.0, "budget": 4})
    with run_folder.opened(limited):
        pass
    assert read_config(folder).settings.max_latency_ms == 100.0
    run = reopen(folder, {"max_latency_ms": None, "searcher": "nsga2", "population": 4})
    result = stages.run_stage(run, "search")
    assert len(result) == 4
    assert read_config(folder).settings.max_latency_ms is None
    with pytest.raises(nas.BadInput, match=r"max_latency_ms = None, now it is 1\.0"):
        stages.run_stage(reopen(folder, {"max_latency_ms": 1.0}, resume=True), "search")


def test_more_epochs_train_anew_and_keep_the_old_weights(copy):
    folder = without(copy, "search", "candidates", "final")
    old = (folder / "supernet.safetensors").read_bytes()
    stages.run_stage(reopen(folder, {"epochs": 4}, resume=True), "supernet")
    assert (folder / "supernet_3_epochs.safetensors").read_bytes() == old
    assert len(pd.read_csv(folder / "training.csv")) == 4
    assert read_config(folder).settings.epochs == 4


def test_a_larger_budget_goes_on_and_networks_keep_their_ids(copy):
    grown = reopen(copy, {"budget": 16}, resume=True)
    assert not search.search_is_done(grown)
    with pytest.raises(nas.BadInput, match="has no finished search yet"):
        stages.run_stage(grown, "candidates")
    assert len(stages.run_stage(grown, "search")) == 16
    more = reopen(copy, {"candidates": 50})
    before = {c.made_from.genes: c.id for c in artefacts.read_candidates(copy) if not c.pruned}
    todo = missing_candidates(more)
    assert {t.name for t in todo}.isdisjoint(before.values())
    assert {tuple(t.arch) for t in todo}.isdisjoint(before)
    assert [t.ending for t in todo[:2]] == ["", "p"]
    shutil.rmtree(copy / CANDIDATES / "c02p")
    again = missing_candidates(reopen(copy, {"budget": 16}))
    assert ("c02", "p") in [(t.name, t.ending) for t in again] or "c02" not in {t.name for t in again}


def test_what_a_candidate_was_made_from_is_its_identity(finished, copy):
    path = copy / CANDIDATES / "c01" / "summary.json"
    summary = json.loads(path.read_text())
    summary["made_from"]["finetune_epochs"] = 7
    path.write_text(json.dumps(summary))
    assert not missing_candidates(reopen(finished))
    assert [t.ending for t in missing_candidates(reopen(copy))] == ["", "p"]


def test_results_of_something_else_do_not_stay(copy, monkeypatch):
    """A final table of other candidates, a front without its ledger."""
    (copy / "evaluations.db").unlink()
    assert not search.search_is_done(reopen(copy))
    shutil.rmtree(copy / CANDIDATES / "c02p")
    monkeypatch.setattr(search, "search_is_done", lambda run: True)
    monkeypatch.setattr(candidates, "_deploy", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        candidates.compress_stage(reopen(copy))
    assert not (copy / "final.csv").exists()


# ---- candidates that fail ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failing:
    """A compression step that cannot deal with one network, known by its blocks."""

    blocks: tuple[str, ...]
    error: BaseException
    name: str = "failing"

    def apply(self, network, context):
        if tuple(b.key for b in network.describe()) == self.blocks:
            raise self.error
        return network


def fail(monkeypatch, folder: Path, which: str, ending: str, error: BaseException) -> None:
    """From now on, variant ``ending`` of network ``which`` of a finished run fails."""
    step = Failing(blocks=artefacts.read_candidate(folder / CANDIDATES / which).blocks, error=error)
    plain = candidates.variants

    def variants(settings):
        return {
            k: dataclasses.replace(v, steps=(step, *v.steps) if k == ending else v.steps)
            for k, v in plain(settings).items()
        }

    monkeypatch.setattr(candidates, "variants", variants)


BROKEN = "quantization failed: int8 outputs and torch's have cosine 0.873, at least 0.9 is needed"


@pytest.mark.parametrize(
    ("error", "written"),
    [(nas.NasError(BROKEN), BROKEN), (RuntimeError("no converter\nfor this"), "RuntimeError: no converter")],
)
def test_a_network_that_cannot_be_deployed_costs_no_other(copy, monkeypatch, caplog, error, written):
    """Recorded, named wherever the others are, not tried again; what starts from it is left out."""
    fail(monkeypatch, copy, "c01", "", error)
    kept = (copy / CANDIDATES / "c02" / "summary.json").stat().st_mtime_ns
    shutil.rmtree(copy / CANDIDATES / "c01p")
    (copy / CANDIDATES / "c01" / "summary.json").unlink()  # its other files are of no use alone
    heard = []
    table = small_run.run(copy, resume=True, on_candidate=heard.append)
    assert set(table["id"]) == {"c02", "c02p"}
    assert table["on_final_front"].any()
    assert not heard
    assert (copy / CANDIDATES / "c02" / "summary.json").stat().st_mtime_ns == kept
    assert list(listing(copy / CANDIDATES / "c01")) == ["failure.json"]
    assert not (copy / CANDIDATES / "c01p").exists()
    (failure,) = artefacts.read_failures(copy)
    assert (failure.id, failure.error) == ("c01", written)
    assert f"c01 failed and is left out: {written} (delete {copy / CANDIDATES / 'c01'} to try it again)" in caplog.text
    assert ("Traceback" in caplog.text) == isinstance(error, RuntimeError)  # ours say all in their line
    assert f"c01 could not be deployed: {written}".encode() in html_of(copy)
    with pytest.raises(nas.BadInput, match=f"not a finished candidate .*{written[:20]}.*; there are c02, c02p"):
        candidates.candidate_folder(copy, "c01")


def html_of(folder: Path) -> bytes:
    return nas.write_report(folder).read_bytes().replace(b"&#39;", b"'")


def test_a_failed_network_is_tried_again_when_its_folder_is_deleted_only(copy, monkeypatch):
    fail(monkeypatch, copy, "c02", "", nas.NasError(BROKEN))
    for name in ("c02", "c02p"):
        shutil.rmtree(copy / CANDIDATES / name)
    small_run.run(copy, resume=True)
    with monkeypatch.context() as patch:
        patch.setattr(candidates, "compress", lambda *a, **k: pytest.fail("tried again"))
        assert set(small_run.run(copy, resume=True)["id"]) == {"c01", "c01p"}
        assert not missing_candidates(reopen(copy))
    shutil.rmtree(copy / CANDIDATES / "c02")
    assert [f"{t.name}{t.ending}" for t in missing_candidates(reopen(copy))] == ["c02", "c02p"]
    monkeypatch.undo()
    assert set(small_run.run(copy, resume=True)["id"]) == {"c01", "c01p", "c02", "c02p"}


def test_a_variant_that_fails_costs_no_other_variant(copy, monkeypatch, capsys):
    """On the command line, which names it below the table."""
    fail(monkeypatch, copy, "c01", "p", nas.NasError(BROKEN))
    shutil.rmtree(copy / CANDIDATES / "c01p")
    assert main(["compress", "--run-dir", str(copy), "--resume"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == f"c01p failed: {BROKEN}"
    assert set(pd.read_csv(copy / "final.csv")["id"]) == {"c01", "c02", "c02p"}
    assert "Traceback" not in said.out + said.err


def test_when_all_networks_fail_one_line_says_so(copy, monkeypatch, capsys):
    shutil.rmtree(copy / CANDIDATES)
    calls = []

    def compress(*_, **__):
        calls.append(1)
        raise nas.NasError(BROKEN)

    monkeypatch.setattr(candidates, "compress", compress)
    for command in ("compress", "quickstart"):
        assert main([command, "--run-dir", str(copy), "--resume"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"none of 2 networks could be deployed, c01 for one: {BROKEN}; delete {copy / CANDIDATES}" in error
    assert len(calls) == 2  # each once
    assert not (copy / "final.csv").exists()
    assert b"c02 could not be deployed" in html_of(copy)


@pytest.mark.parametrize(
    "error",
    [
        nas.errors.Unwritable("no room"),
        OSError(28, "No space left"),
        MemoryError(),
        nas.errors.MissingPackage("onnx", "x"),
    ],
)
def test_what_is_not_a_networks_fault_stops_the_run_and_is_not_held_against_it(copy, monkeypatch, error):
    fail(monkeypatch, copy, "c01", "", error)
    shutil.rmtree(copy / CANDIDATES / "c01")
    with pytest.raises(type(error)):
        candidates.compress_stage(reopen(copy))
    assert not artefacts.read_failures(copy)
    assert [f"{t.name}{t.ending}" for t in missing_candidates(reopen(copy))] == ["c01", "c01p"]
    assert (copy / CANDIDATES / "c01p" / "summary.json").exists()  # until there is a c01 again


def test_a_full_disk_is_unwritable(copy, monkeypatch):
    """By the one function that writes records, so that it is never taken for a network's failure."""
    monkeypatch.setattr("nas.files.os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(nas.errors.Unwritable, match="No space left"):
        artefacts.write_record(copy / "x.json", {})


def test_a_network_that_cannot_be_timed_or_bundled_costs_no_other_either(copy, monkeypatch, caplog, capsys):
    without(copy, "final")
    shutil.rmtree(next(copy.glob("candidates/*/bundle")))
    plain = nas.runtimes.OnnxRuntime.prepare

    def prepare(self, network, input_shape):
        if network.parent.name == "c02" and network.name == "int8.onnx":
            raise nas.BadInput("an operator is missing")
        return plain(self, network, input_shape)

    monkeypatch.setattr(nas.runtimes.OnnxRuntime, "prepare", prepare)
    monkeypatch.setattr(final, "bundle_candidate", lambda *a: (_ for _ in ()).throw(nas.NasError("unknown operation")))
    table = stages.run_all(reopen(copy, resume=True)).set_index("id")
    assert table["measured_int8_ms"].isna().to_dict() == {"c01": False, "c01p": False, "c02p": False, "c02": True}
    assert not table.loc["c02", "on_final_front"]
    assert table["measured_fp32_ms"].notna().all()
    assert "c02 is not timed: onnxruntime refuses it: an operator is missing" in caplog.text
    assert ": unknown operation" in caplog.text
    assert main(["quickstart", "--run-dir", str(copy), "--resume"]) == 0
    assert "nan" not in capsys.readouterr().out


def test_a_network_whose_timing_breaks_is_a_recorded_failure(copy, monkeypatch, caplog):
    """After the runtime has taken it, in the last stage."""
    without(copy, "final")
    prepare, time = nas.runtimes.OnnxRuntime.prepare, nas.runtimes.OnnxRuntime.time
    broken = []

    def prepared(self, network, input_shape):
        loaded = prepare(self, network, input_shape)
        broken.extend([loaded] if (network.parent.name, network.name) == ("c02", "int8.onnx") else [])
        return loaded

    def timed(self, loaded, repeats):
        if any(loaded is one for one in broken):
            raise RuntimeError("the accelerator hangs")
        return time(self, loaded, repeats)

    monkeypatch.setattr(nas.runtimes.OnnxRuntime, "prepare", prepared)
    monkeypatch.setattr(nas.runtimes.OnnxRuntime, "time", timed)
    table = small_run.run(copy)
    assert set(table["id"]) == {"c01", "c01p", "c02p"}
    assert table["measured_int8_ms"].notna().all()
    (failure,) = artefacts.read_failures(copy)
    assert (failure.id, failure.error) == ("c02", "RuntimeError: the accelerator hangs")
    assert failure.made_from == artefacts.read_candidate(copy / CANDIDATES / "c02p").made_from
    assert list(listing(copy / CANDIDATES / "c02")) == ["failure.json"]
    assert "c02 failed and is left out: RuntimeError: the accelerator hangs" in caplog.text
    assert len(small_run.run(copy)) == 3  # finished: nothing is done again
    without(copy, "final")
    monkeypatch.setattr(
        nas.runtimes.OnnxRuntime, "time", lambda *a: (_ for _ in ()).throw(OSError("the board is unplugged"))
    )
    with pytest.raises(OSError, match="unplugged"):  # no network is to blame for it
        small_run.run(copy)
    assert len(artefacts.read_failures(copy)) == 1


# ---- settings that decide ----------------------------------------------------------------------------------------


def test_every_setting_belongs_to_one_stage():
    known = sorted(name for names_ in SETTINGS_OF.values() for name in names_)
    assert known == sorted(f.name for f in dataclasses.fields(nas.Settings))


@pytest.mark.parametrize("name", ["guided", "nsga2", "random", "evolution"])
def test_the_searcher_of_the_settings_is_what_searches(name):
    space = small_run.space()
    settings = nas.Settings(searcher=name, population=16, seed=3)
    made = names.searcher_of(settings, space, [nas.macs(space), nas.params(space)])
    assert type(made) is nas.searchers.named(name)
    same = names.searcher_of(settings, space, [nas.macs(space), nas.params(space)])
    other = names.searcher_of(dataclasses.replace(settings, seed=4), space, [nas.macs(space), nas.params(space)])
    first = made.ask(8).tolist()
    assert first == same.ask(8).tolist()
    if name != "guided":  # which begins with networks that do not depend on its seed
        assert first != other.ask(8).tolist()


def test_the_runtime_of_the_settings_is_what_measures_and_times(finished, tmp_path, monkeypatch):
    assert {p: r.name for p, r in names.runtimes_of(nas.Settings(runtime="torch")).items()} == {"fp32": "torch"}
    threaded = names.runtimes_of(nas.Settings(runtime="openvino", threads=2))
    assert {p: (r.name, r.precision, r.threads) for p, r in threaded.items()} == {
        p: ("openvino", p, 2) for p in ("fp32", "int8")
    }
    measured = []

    def measure(space, runtime, *, name, **options):
        measured.append((runtime.name, name))
        return nas.LatencyTable.load(finished / "table_fp32")

    monkeypatch.setattr(tables, "measure", measure)
    run = new_run(
        small_run.space, small_run.images, run_dir=tmp_path, settings=nas.Settings(runtime="torch", precision="fp32")
    )
    tables.tables_stage(run)
    assert measured == [("torch", "table_fp32")]
    shutil.copytree(finished, tmp_path / "other")
    torch_run = dataclasses.replace(run, folder=tmp_path / "other")
    assert tables.local_tables(torch_run) == []
    with pytest.raises(nas.BadInput, match=r"a table of onnxruntime, fp32, 1 thread.*timed on torch"):
        tables.search_table(torch_run)
    shown = final.final_stage(dataclasses.replace(torch_run, settings=nas.Settings(runtime="torch")))
    assert np.isfinite(shown["measured_fp32_ms"]).all()
    assert shown["measured_int8_ms"].isna().all()


def test_predictions_come_from_tables_of_what_is_timed(copy):
    """Not from those of another device that happens to have the same runtime."""
    run = reopen(copy)
    own = {t.device.precision: t.fingerprint for t in tables.local_tables(run)}
    here = nas.LatencyTable.load(copy / "table_int8")
    assert set(own) == {"fp32", "int8"}
    assert own["int8"] == here.fingerprint
    for path in copy.glob("table_*"):
        path.unlink()
    for chip, found in ((here.device.chip, ["int8"]), ("another", [])):
        dataclasses.replace(here, device=dataclasses.replace(here.device, chip=chip)).save(copy / "table_target")
        assert [t.device.precision for t in tables.local_tables(run)] == found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"searcher": "magic"}, "no searcher 'magic'; there are evolution, guided"),
        ({"runtime": "abacus"}, "no runtime 'abacus'; there are cortex-m, cuda"),
        ({"searcher": "evolution", "population": 8}, "sample"),
        ({"table": "nowhere"}, "nowhere"),
        ({"table": ""}, "table"),
        ({"device": "foo"}, "foo"),
        ({"max_sram": 10, "max_flash": 20}, r"no architecture meets peak_sram <= 10 bytes;.*flash_size <= 20 bytes"),
    ],
)
def test_what_cannot_go_well_is_refused_before_anything_is_made(tmp_path, change, said):
    with pytest.raises(nas.NasError, match=said) as refused:
        small_run.run(tmp_path / "a" / "run", **change)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "a").exists()


def test_a_latency_limit_is_checked_as_soon_as_the_table_is_known(finished, tmp_path, monkeypatch):
    stem = str(table_stem(finished, "int8"))
    limits = dataclasses.replace(small_run.SETTINGS, table=stem, max_latency_ms=1e-5, max_flash=5)
    with pytest.raises(nas.Infeasible, match=r"latency_ms <= 1e-05 ms; the nearest value.*flash_size <= 5 bytes"):
        nas.run(small_run.space, small_run.images, run_dir=tmp_path / "run", settings=limits)
    assert not (tmp_path / "run").exists()
    measured = []

    def measure(space, runtime, *, run_dir, name, **options):
        measured.append(name)
        for path in finished.glob(f"{name}*"):
            shutil.copy(path, run_dir / path.name)
        return nas.LatencyTable.load(run_dir / name)

    monkeypatch.setattr(tables, "measure", measure)
    monkeypatch.setattr(search, "train_supernet", lambda *a, **k: pytest.fail("trained in vain"))
    for resume in (False, True):
        with pytest.raises(nas.Infeasible, match="latency_ms <= 1e-05 ms"):
            small_run.run(tmp_path / "run", resume=resume, max_latency_ms=1e-5)
    assert measured == ["table_fp32", "table_int8"]


def test_a_search_for_another_device_within_its_memory(finished, copy, tmp_path, monkeypatch, capsys):
    folder = without(copy, "search", "candidates", "final")
    for path in folder.glob("table_*"):
        path.unlink()
    monkeypatch.setattr(tables, "measure", lambda *a, **k: pytest.fail("measured a table that nobody needs"))
    here = nas.LatencyTable.load(finished / "table_int8")
    board = dataclasses.replace(here.device, name="board", chip="board", runtime="other")
    rows = here.rows.assign(**{c: 50 * here.rows[c] for c in ("latency_ms", "p10_ms", "p90_ms")})
    target = dataclasses.replace(here, device=board, rows=rows)
    target.save(tmp_path / "board")
    space = small_run.space()
    in_c = peak_sram(space, "c"), flash_size(space, "c")
    sram, flash = (int(o.extremes.minimum * 1.6) for o in in_c)
    assert sram < peak_sram(space).extremes.minimum  # of what TensorFlow Lite Micro needs
    run = ["--run-dir", str(folder)]
    limits = ["--max-sram", str(sram), "--max-flash", str(flash), "--mcu-runtime", "c"]
    assert main(["quickstart", *run, "--resume", "--budget", "12", "--table", str(tmp_path / "board"), *limits]) == 0
    seen = pd.read_csv(folder / "evaluations.csv")
    archs = space.parse(seen["architecture"])
    assert seen["latency_ms"].to_numpy() == pytest.approx(nas.latency(space, target)(archs), rel=1e-5)
    assert (in_c[0](archs[seen["on_front"]]) <= sram).all()
    table = pd.read_csv(folder / "final.csv")
    whole = table[table["pruned"] == 0].iloc[0]
    row = seen[seen["architecture"] == whole["architecture"]].iloc[0]
    assert whole["predicted_target_ms"] == pytest.approx(row["latency_ms"], rel=1e-5)
    assert table["predicted_int8_ms"].isna().all()  # nothing was measured that could predict for here
    assert (table.loc[table["pruned"] == 0, "peak_sram"] <= sram).all()
    assert (table.loc[table["pruned"] == 0, "flash_size"] <= flash).all()
    assert "target pred." in (folder / "report.html").read_text()
    capsys.readouterr()
    here.save(tmp_path / "another")
    assert main(["search", *run, "--resume", "--table", str(tmp_path / "another")]) == 2
    assert f"was started with table = {tmp_path / 'board'}" in capsys.readouterr().err


def test_tables_of_another_space_are_refused_before_anything_is_measured(finished, tmp_path, capsys):
    given = ["--space", "mobilenet_v2.digits", "--table", str(finished / "table_int8")]
    assert main(["quickstart", "--run-dir", str(tmp_path / "run"), *given]) == 2
    assert "was made for small and lacks" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# ---- one process, one folder -------------------------------------------------------------------------------------


def test_a_second_process_in_the_folder_is_refused_and_a_crash_releases_it(copy):
    code = (
        "import sys, time; from pathlib import Path; from nas.files import locked\n"
        f"with locked(Path({str(copy)!r})): print('mine', flush=True); time.sleep(600)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(nas.BadInput, match=rf"another process \(pid {other.pid}\) is at work in"):
            small_run.run(copy, resume=True)
    finally:
        other.kill()
        other.communicate()
    assert len(small_run.run(copy, resume=True)) == 4


# ---- spaces and data of one's own ---------------------------------------------------------------------------------


def sized(*, width: int = 16) -> nas.SearchSpace:
    return small_run.space()


def unannotated():
    return pytest.fail("a function that does not say what it makes was called")


def test_how_a_space_is_made_again(tmp_path):
    assert made_by.made(small_run.space, nas.SearchSpace, "space")[1] == Call(function="small_run:space")
    _, call = made_by.made(partial(sized, width=8), nas.SearchSpace, "space")
    assert call == Call(function=f"{__name__}:sized", arguments={"width": 8})
    assert made_by.make(call, nas.SearchSpace, "space", tmp_path).fingerprint == small_run.space().fingerprint
    assert made_by.made(EfficientNet.digits, nas.SearchSpace, "space")[1].function.endswith("EfficientNet.digits")
    for unknown in (lambda: small_run.space(), small_run.space()):
        assert made_by.made(unknown, nas.SearchSpace, "space")[1] is None
    with pytest.raises(nas.BadInput, match="space is a SearchSpace or a function that makes one, got int"):
        made_by.made(3, nas.SearchSpace, "space")
    with pytest.raises(nas.BadInput, match="makes a SearchSpace, got ImageData"):
        made_by.made(small_run.images, nas.SearchSpace, "space")


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("os:abort", {}),
        (f"{__name__}:unannotated", {}),
        ("small_run:images", {}),
        ("nowhere:at_all", {}),
        ("", {}),
        ("small_run", {}),
        ("small_run:space", {"depth": 3}),
    ],
)
def test_a_config_makes_the_run_call_nothing_but_what_makes_a_space(copy, function, arguments, capsys):
    config = json.loads((copy / CONFIG).read_text())
    config["space"]["made_by"] = {"function": function, "arguments": arguments}
    (copy / CONFIG).write_text(json.dumps(config))
    assert main(["search", "--run-dir", str(copy), "--resume"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "space" in error


def test_a_run_of_ones_own_space_goes_on_on_the_command_line(copy, tmp_path, capsys):
    folder = without(copy, "candidates", "final")
    run = ["--run-dir", str(folder)]
    assert main(["compress", *run, "--candidates", "1", "--prune", "0"]) == 0
    assert pd.read_csv(folder / "final.csv")["id"].tolist() == ["c01"]
    without(folder, "search", "candidates", "final")
    assert main(["search", *run, "--budget", "10", "--max-latency-ms", "5"]) == 0
    assert len(pd.read_csv(folder / "evaluations.csv")) == 10
    assert json.loads((folder / "config.json").read_text())["settings"]["max_latency_ms"] == 5
    assert main(["search", *run]) == 2
    assert "already holds a search" in capsys.readouterr().err
    assert main(["search", *run, "--budget", "12", "--resume"]) == 0
    assert len(pd.read_csv(folder / "evaluations.csv")) == 12
    assert main(["compress", *run, "--candidates", "1", "--prune", "0"]) == 0
    capsys.readouterr()
    assert main(["compress", *run]) == 2
    assert "already holds candidates" in capsys.readouterr().err
    assert main(["compress", *run, "--resume", "--finetune-epochs", "3"]) == 2
    assert "finetune_epochs = 1, now it is 3" in capsys.readouterr().err


def test_a_run_of_objects_says_what_python_call_goes_on(finished, tmp_path, capsys):
    folder = with_tables(finished, tmp_path / "objects")
    run = new_run(small_run.space(), small_run.images(), run_dir=folder, settings=small_run.SETTINGS, resume=True)
    with run_folder.opened(run):
        pass
    assert main(["search", "--run-dir", str(folder)]) == 2
    error = capsys.readouterr().err
    assert f"call nas.run(space, data, run_dir='{folder}', resume=True)" in error
    assert error.count("\n") == 1


def test_export_makes_again_only_what_the_format_needs(copy, tmp_path, capsys):
    def export(kind, *by_python):
        config = json.loads((copy / CONFIG).read_text())
        for part in by_python:
            config[part]["made_by"] = None
        (copy / CONFIG).write_text(json.dumps(config))
        target = str(tmp_path / f"{kind}{len(by_python)}.out")
        return main(["export", "--run-dir", str(copy), "--candidate", "c01", "--format", kind, "--output", target])

    assert export("bundle", "space") == 0
    assert export("onnx", "space", "data") == 0
    assert (tmp_path / "onnx2.out").exists()
    assert export("bundle", "space", "data") == 2
    assert "a data that only Python can make again" in capsys.readouterr().err


def test_another_space_or_other_data_are_refused(copy, digits):
    before = listing(copy)
    with pytest.raises(nas.BadInput, match=r"holds a run on space small .* this is efficientnet_digits"):
        nas.run(EfficientNet.digits, small_run.images, run_dir=copy, settings=small_run.SETTINGS, resume=True)
    with pytest.raises(nas.BadInput, match=r"holds a run on data digits \(\w+\), this is digits \(\w+\)"):
        nas.run(small_run.space, lambda: digits, run_dir=copy, settings=small_run.SETTINGS, resume=True)
    assert listing(copy) == before


# ---- files that are damaged or foreign -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        (CONFIG, {"version": 1}, "version"),
        (CONFIG, {"settings": {"epochs": "many"}}, "settings.epochs"),
        (CONFIG, {"settings": {"prune": 1.0}}, "settings.prune"),
        (CONFIG, {"data": None}, "data"),
        ("search.json", {"budget": -1}, "budget"),
        ("search.json", {"objectives": {"a": 1}}, "objectives"),
        ("stages.json", {"tables": "long"}, "tables|damaged"),
        (f"{CANDIDATES}/c01/summary.json", {"id": "../c01"}, "id of a candidate"),
        (f"{CANDIDATES}/c01/summary.json", {"id": "c02"}, "it is of c02"),
        (f"{CANDIDATES}/c01/summary.json", {"steps": []}, "steps"),
        (f"{CANDIDATES}/c01/summary.json", {"fp32_step": "none"}, "no step 'none'"),
        (f"{CANDIDATES}/c01/summary.json", {"input_shape": [1, 2]}, "input_shape"),
    ],
)
def test_a_damaged_file_is_one_line(copy, file, change, said):
    content = json.loads((copy / file).read_text())
    for key, value in change.items():
        content[key] = {**content[key], **value} if key == "settings" else value
    (copy / file).write_text(json.dumps(content))
    with pytest.raises(nas.BadInput, match=f"damaged.*({said})") as refused:
        artefacts.read_run(copy)
    assert "\n" not in str(refused.value)


def test_a_damaged_table_of_numbers_is_one_line(copy):
    final_table = (copy / "final.csv").read_text()
    for wrong, said in (
        (final_table.replace("measured_int8_ms", "measured"), "no column measured_int8_ms"),
        (final_table.replace("0.", "x."), "holds more than numbers"),
        ("", "damaged"),
    ):
        (copy / "final.csv").write_text(wrong)
        with pytest.raises(nas.BadInput, match=said):
            artefacts.read_final(copy)


# ---- the command line ----------------------------------------------------------------------------------------------


def test_the_quickstart_of_a_named_space(tmp_path, capsys, monkeypatch):
    """With a table made up here, so that nothing is measured but the deployed networks, and with few of the digits."""
    monkeypatch.setattr("nas.data.images.load_digits", some_digits)
    space = EfficientNet.digits()
    rows = pd.DataFrame({"block": [b.key for b in space.blocks], "runs": 1})
    rows["latency_ms"] = rows["p10_ms"] = rows["p90_ms"] = 1e-3 + 1e-9 * space.per_block(lambda b: b.macs)
    device = nas.Device(name="d", chip="c", runtime="r", version="1", precision="int8", batch=1, threads=1)
    made_for = {"name": space.name, "fingerprint": space.fingerprint}
    nas.LatencyTable(device=device, rows=rows, space=made_for).save(tmp_path / "made_up")
    folder = tmp_path / "run"
    run = ["quickstart", "--run-dir", str(folder), "--space", "efficientnet.digits"]
    short = ["--epochs", "1", "--budget", "3", "--searcher", "random", "--candidates", "1", "--finetune-epochs", "1"]
    short += ["--prune", "0", "--qat-epochs", "0", "--table", str(tmp_path / "made_up")]
    assert main([*run, *short]) == 2
    assert "--unvalidated-table" in capsys.readouterr().err
    assert not folder.exists()
    assert main([*run, *short, "--unvalidated-table"]) == 0
    assert "report:" in capsys.readouterr().out
    assert (folder / "report.html").exists()
    assert main(["quickstart", "--run-dir", str(folder), "--resume"]) == 0  # all the rest is in the folder
    assert main(["train", "--run-dir", str(folder), "--data", "elsewhere/", "--resume"]) == 2
    assert "was made with data digits" in capsys.readouterr().err
    assert main(["quickstart", "--run-dir", str(folder), "--resume", "--space", "mobilenet_v3.digits"]) == 2
    assert "efficientnet.digits, not mobilenet_v3.digits" in capsys.readouterr().err


def test_single_commands_work_on_a_finished_run(finished, tmp_path, capsys):
    for kind, name in (("onnx", "a.onnx"), ("onnx-int8", "b.onnx"), ("onnx-int8-symmetric", "c.onnx"), ("bundle", "d")):
        target = tmp_path / name
        arguments = ["--run-dir", str(finished), "--candidate", "c01", "--format", kind, "--output", str(target)]
        assert main(["export", *arguments]) == 0
        assert target.exists()
    capsys.readouterr()
    assert main(["tables", str(finished)]) == 0
    shown = capsys.readouterr().out
    assert "onnxruntime" in shown
    assert "Kendall tau" in shown
    assert main(["report", "--run-dir", str(finished)]) == 0


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
        (lambda p, f: ["quickstart", "--space", "resnot.digits", "--run-dir", str(p / "r")], "no search space 'resnot.digits'"),
        (lambda p, f: ["quickstart", "--run-dir", str(f)], "already holds a run"),
        (lambda p, f: ["quickstart", "--run-dir", str(f), "--resume", "--epochs", "9"], "started with epochs = 3, now it is 9"),
        (lambda p, f: ["quickstart", "--run-dir", "/proc/nowhere"], "cannot write /proc/nowhere"),
        (lambda p, f: ["search", "--run-dir", str(folder_with_config(p))], "config.json is damaged"),
        (lambda p, f: ["search", "--run-dir", str(p)], "is not a run folder"),
        (lambda p, f: ["export", "--run-dir", str(f), "--candidate", "c99", "--output", str(p / "x")], "there are c01, c01p"),
        (lambda p, f: ["export", "--run-dir", str(f), "--candidate", "../c01", "--output", str(p / "x")], "id of a candidate"),
        (lambda p, f: ["report", "--run-dir", str(p)], "holds nothing to report"),
        (lambda p, f: ["tables", str(p)], "no latency tables"),
        (lambda p, f: ["quickstart", "--epoch", "3"], "--epoch"),
        (lambda p, f: ["quickstart", "--epochs", "many"], "got 'many'"),
        (lambda p, f: ["fly"], "invalid choice: 'fly'"),
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
    assert not list(tmp_path.rglob("*.tmp*"))


def test_a_limit_nothing_meets_and_tables_of_another_space_are_refused(copy, capsys):
    folder = without(copy, "search", "candidates", "final")
    assert main(["search", "--run-dir", str(folder), "--max-latency-ms", "0.0001"]) == 2
    assert "nearest value that can be met is" in capsys.readouterr().err
    assert not (folder / "evaluations.db").exists()
    assert read_config(folder).settings.max_latency_ms is None
    table = nas.LatencyTable.load(folder / "table_int8")
    dataclasses.replace(table, rows=table.rows.head(10)).save(folder / "table_int8")
    assert main(["search", "--run-dir", str(folder)]) == 2
    assert "lacks" in capsys.readouterr().err


def test_what_is_logged_is_printed_once(caplog, capsys):
    """Whatever handlers libraries have installed; pytest's own is one."""
    logger = logging.getLogger("nas")
    with app._logged(app.COMMANDS["report"]):
        logger.info("measured")
    assert capsys.readouterr().out == "measured\n"
    assert not caplog.text
    assert logger.propagate


def test_the_exporters_install_no_logging(monkeypatch):
    """As logging.warning() of a library does where nothing is configured."""
    monkeypatch.setattr(logging.root, "handlers", [])
    with quiet():
        logging.warning("deprecated")
    assert not logging.root.handlers


def test_help_shows_examples(capsys):
    for command in ("quickstart", "measure", "train", "search", "compress", "export", "report", "tables"):
        with pytest.raises(SystemExit) as exit_:
            main([command, "--help"])
        assert exit_.value.code == 0
        assert f"nas {command}" in capsys.readouterr().out.split("examples:")[1]


def test_importing_nas_imports_no_torch():
    code = "import sys, nas, search_spaces, nas.engine.loop, nas.runs.artefacts; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    for name in nas.__all__:
        assert getattr(nas, name) is not None


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


# ---- from a network that is there already ---------------------------------------------------------------------------


def taught(*, size: int = 8, classes: int = 10) -> nas.Network:
    """A network of odd widths, as pruned ones are, that sees pixels in its own way."""
    stem = Stem(in_ch=1, out_ch=37, size=size)
    network = nas.Network([stem, Head(in_ch=37, hidden=24, out_ch=classes, size=stem.out_size)])
    lively(network)
    network.normalise = ((0.25,), (0.5,))
    return network


def test_a_run_goes_on_around_a_candidate_of_another(tmp_path, capsys):
    """Its images are normalised as that candidate's were, and another process makes all of it again."""
    network, source = taught(), tmp_path / "c01p"
    step = artefacts.StepRecord(step="recover", precision="fp32", accuracy=0.5, macs=1, params=1, size_bytes=1)
    made_from = artefacts.MadeFrom(genes=(0,), finetune_epochs=1, qat_epochs=1, prune=0.5, seed=0)
    candidate = artefacts.Candidate(
        id="c01p", architecture="", made_from=made_from, input_shape=network.input_shape, pruned=0.5,
        fp32_step="recover", blocks=tuple(b.key for b in network.describe()), steps=(step,),
        normalise=network.normalise,
    )  # fmt: skip
    artefacts.write_record(source / artefacts.SUMMARY, candidate)
    save_weights(source / artefacts.WEIGHTS, network, {})
    folder = tmp_path / "next"
    assert main(["train", "--run-dir", str(folder), "--around", str(source), "--epochs", "1"]) == 0
    run = reopen(folder)
    assert run.data.mean.tolist() == [0.25]
    assert run.space.fingerprint == nas.around(network, name="around_c01p").fingerprint
    largest = nas.Supernet(run.space).eval()
    x = torch.randn(3, *network.input_shape)
    with torch.no_grad():
        torch.testing.assert_close(largest(x), network.eval()(x), atol=1e-4, rtol=1e-4)
    capsys.readouterr()
    assert main(["train", "--run-dir", str(folder), "--around", f"{source}2", "--resume"]) == 2
    assert f"was made with around {source}, not {source}2" in capsys.readouterr().err
    assert cli_names.space(around=str(source), classes=3).classes == 3


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (
            ["--space", "resnet.cifar", "--around", "x"],
            "--space and --around both say what is searched; give one of them",
        ),
        (
            ["--pretrained", "x", "--around", "x"],
            "--pretrained and --around both say what is searched; give one of them",
        ),
        (["--around", "nowhere"], "nowhere"),
        (["--pretrained", "nowhere"], "no pretrained network and no file 'nowhere'; networks: efficientnet_lite0"),
    ],
)
def test_a_start_that_is_not_there_is_one_line(tmp_path, capsys, flags, told):
    folder = tmp_path / "run"
    assert main(["train", "--run-dir", str(folder), *flags]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not folder.exists()


def test_a_run_around_a_pretrained_network_has_its_pixels_and_its_normalisation(tmp_path, monkeypatch):
    """With a made-up network instead of a published one."""

    def pretrained(source, *, classes=None, size=None):
        return taught(classes=classes or 1000, size=size or 24)

    monkeypatch.setattr("nas.layouts.pretrained", pretrained)
    assert main(["train", "--run-dir", str(tmp_path), "--pretrained", "made_up", "--epochs", "1"]) == 0
    run = reopen(tmp_path)
    assert (run.space.name, run.space.classes) == ("around_made_up", 10)
    assert max(run.space.choices[0].values) == run.data.size == 8
    assert run.data.std.tolist() == [0.5]
    with safe_open(tmp_path / "supernet.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["identity"])["lr"] == 0.04  # from scratch it is more
