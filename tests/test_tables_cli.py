"""``nas tables``: list, show, compare, validate and heat map, on the tables that ship."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import nas
from nas.cli.app import main
from nas.cli.table_files import space_of
from nas.tables.compare import compare
from nas.tables.table import LatencyTable
from nas.tables.validation import distinct_archs
from search_spaces import FBNet

TABLES = Path(__file__).parents[1] / "latency_tables"
FIRST, SECOND = TABLES / "gold-6240_fbnet_b1", TABLES / "raspi4_fbnet_b1"


def status(arguments):
    try:
        return main(arguments)
    except SystemExit as ended:  # flags that cannot be read
        return ended.code


def copied(stem, folder):
    folder.mkdir(exist_ok=True)
    for ending in (".csv", ".json"):
        shutil.copy(stem.with_name(stem.name + ending), folder)
    return folder / stem.name


@pytest.mark.parametrize("command", [["tables"], ["tables", "list"]])
def test_every_table_is_one_line(command, capsys):
    assert main([*command, str(TABLES)]) == 0
    lines = capsys.readouterr().out.splitlines()
    stems = {p.with_suffix("").name for p in TABLES.glob("*.csv")}
    for stem in stems:
        (line,) = [x for x in lines if x.split() and x.split()[0].endswith(stem)]
        table = LatencyTable.load(TABLES / stem)
        assert table.kind in line
        assert table.device.precision in line
        if table.validation:
            assert f"{table.validation.kendall_tau:.3f}" in line
    assert any("nasbench201" in x and "21 devices" in x for x in lines)


def test_show_says_what_is_known_and_what_is_not(capsys):
    assert main(["tables", "show", str(FIRST), str(SECOND), "--rows", "3"]) == 0
    shown = capsys.readouterr().out
    table = LatencyTable.load(FIRST)
    slowest = table.blocks[int(np.argmax(table.effective_ms))].key
    assert shown.index("slowest 3 of 104 blocks") < shown.index(slowest)
    assert f"{table.validation.mape:.1%}" in shown
    assert "nothing is known of its error on whole networks" in shown
    assert table.licence in shown


def test_compare_agrees_with_scipy(capsys):
    from scipy.stats import kendalltau, spearmanr

    space = FBNet.cifar100()
    first, second = LatencyTable.load(FIRST), LatencyTable.load(SECOND)
    result = compare(first, second, space, networks=200)
    archs = distinct_archs(space, 200, seed=0)
    a, b = (nas.latency(space, t, unvalidated=True)(archs) for t in (first, second))
    assert result.networks.kendall_tau == pytest.approx(kendalltau(a, b).statistic)
    assert result.networks.spearman == pytest.approx(spearmanr(a, b).statistic)
    timed = (first.effective_ms > 0) & (second.effective_ms > 0)  # 'skip' is the zero of the published differences
    expected = kendalltau(first.effective_ms[timed], second.effective_ms[timed]).statistic
    assert result.blocks.kendall_tau == pytest.approx(expected)
    assert main(["tables", "compare", str(FIRST), str(SECOND), "--networks", "200"]) == 0
    shown = capsys.readouterr().out
    assert f"{result.networks.kendall_tau:.3f}" in shown
    assert f"{result.blocks.kendall_tau:.3f}" in shown
    assert re.search(r"apart +raspi4 ms +gold-6240 ms +block", shown)  # which number is whose


def test_validate_fails_on_an_edited_table_only(tmp_path, capsys):
    good = copied(FIRST, tmp_path / "good")
    assert main(["tables", "validate", str(good)]) == 0
    bad = copied(TABLES / "gold-6240_fbnet_b1", tmp_path / "bad")
    rows = pd.read_csv(bad.with_name(bad.name + ".csv"))
    rows.loc[5, "latency_ms"] *= 3
    rows.to_csv(bad.with_name(bad.name + ".csv"), index=False)
    capsys.readouterr()
    assert main(["tables", "validate", str(bad)]) == 1
    assert "edited" in capsys.readouterr().out
    rows.loc[5, "latency_ms"] = -1
    rows.to_csv(bad.with_name(bad.name + ".csv"), index=False)
    assert main(["tables", "validate", str(bad)]) == 1


def test_strict_fails_on_warnings(tmp_path):
    stem = copied(TABLES / "note10_ofa_b1", tmp_path / "t")
    assert main(["tables", "validate", str(stem)]) == 0
    assert main(["tables", "validate", "--strict", str(stem)]) == 1


def test_shipped_tables_hold_no_error():
    assert main(["tables", "validate", str(TABLES)]) == 0


def test_every_shipped_table_has_its_space():
    """Phones, GPUs, boards: what a table covers can be named. One is of blocks only, without stem and head."""
    without, made = [], {}
    for path in sorted(TABLES.glob("*.csv")):
        table = LatencyTable.load(path)
        recorded = tuple(sorted(table.space.items()))  # with the fingerprint: many tables are of one space
        space, why = made[recorded] = made.get(recorded) or space_of(table)
        if space is None:
            without.append((path.stem, why))
        else:
            table.check_space(space)
            assert table.space["fingerprint"] == space.fingerprint
    assert [name for name, _ in without] == ["xeon-gold-6130_tfnas_b1"]
    assert "without stem or head" in without[0][1]


def test_names_of_shipped_tables_are_paths_enough(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["tables", "show", "note10_ofa_b1", "--rows", "1"]) == 0
    assert "Samsung Note10" in capsys.readouterr().out
    assert main(["tables"]) == 0  # all that ship
    shown = capsys.readouterr().out
    assert "raspi4_fbnet_b1 " in shown
    assert "21 devices" in shown


def test_a_damaged_table_in_a_folder_is_named_and_left_out(tmp_path, capsys):
    copied(FIRST, tmp_path / "t")
    bad = copied(SECOND, tmp_path / "t")
    bad.with_name(bad.name + ".csv").write_text("block\n")
    whole = tmp_path / "t" / "nasbench201"
    for ending in (".csv.gz", ".json"):
        shutil.copy(TABLES / f"nasbench201{ending}", tmp_path / "t")
    assert main(["tables", str(tmp_path / "t")]) == 0
    said = capsys.readouterr()
    assert "left out" in said.err
    assert bad.name in said.err
    assert said.err.count("\n") == 1
    whole.with_name("nasbench201.csv.gz").write_bytes(b"no gzip")
    assert main(["tables", str(tmp_path / "t")]) == 2
    assert "is damaged" in capsys.readouterr().err


def test_the_heat_map_is_a_picture_of_several_devices(tmp_path, capsys):
    target = tmp_path / "heat.png"
    for path in [*TABLES.glob("[gprs]*_fbnet_b1.json"), TABLES / "note10_ofa_b1.json"]:
        copied(path.with_suffix(""), tmp_path / "tables")
    assert main(["tables", "heatmap", str(tmp_path / "tables"), "--networks", "50", "--output", str(target)]) == 0
    assert "fbnet_cifar100" in capsys.readouterr().out
    with Image.open(target) as picture:
        assert min(picture.size) > 400
        assert len(picture.convert("RGB").getcolors(10**6) or range(99)) > 50


def test_a_space_that_nobody_knows_is_left_out_aloud(tmp_path, capsys):
    for i, stem in enumerate((FIRST, SECOND)):
        copy = copied(stem, tmp_path / "t")
        meta = copy.with_name(copy.name + ".json")
        header = json.loads(meta.read_text())
        header["space"] = {"name": "mine", "fingerprint": "0"}
        meta.write_text(json.dumps(header))
        assert i in (0, 1)
    assert main(["tables", "compare", str(tmp_path / "t")]) == 0
    assert "there is no search space 'mine'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "nowhere"], "nowhere"),
        (["compare", str(FIRST)], "at least two tables"),
        (["compare", str(FIRST), str(SECOND), "--networks", "1"], "networks"),
        (["heatmap", str(FIRST)], "two tables of the same space"),
        (["heatmap", str(TABLES), "--networks", "20", "--output", "heat.doc"], "heat.doc"),
        (["list", "nowhere"], "nowhere"),
        (["heatmap", str(TABLES), "--output", "/"], "is a folder"),
        (["show", str(FIRST), "--rows", "-1"], "rows is a whole number from 0"),
        (["validate", ""], "a path is not empty"),
        (["show", "x" * 300], "too long"),
    ],
)
def test_refusals_are_one_line(arguments, message, capsys):
    assert status(["tables", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
