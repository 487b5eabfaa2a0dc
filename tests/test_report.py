"""Report pages, read back as a browser would: everything in the folder is there, and nothing in it is code."""

import dataclasses
import itertools
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import msgspec
import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau

import nas.report
from nas.blocks import Stem
from nas.device import Device
from nas.errors import BadInput
from nas.objectives.objective import ObjectiveRecord
from nas.pareto import non_dominated
from nas.report import write_report
from nas.report.chart import Area, Chart, Line, Points, ticks
from nas.report.explain import Importance
from nas.report.sweep_page import write_sweep_report
from nas.report.tradeoff import wrapped
from nas.runs.artefacts import Candidate, Config, Failure, MadeFrom, Search, read_run, write_record
from nas.tables.table import LatencyTable, Validation
from nas.units import interval, scale, shown

EVIL = "<script>alert('x')</script> & \"quoted\" </title></style>"
VOID = {"meta", "link", "br", "hr", "img", "input"}


# ---- a page, parsed --------------------------------------------------------------------------------------------


@dataclass
class Node:
    tag: str
    attributes: dict = field(default_factory=dict)
    children: list = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join("".join(c if isinstance(c, str) else c.text for c in self.children).split())

    def all(self, tag: str, css: str = "") -> list["Node"]:
        """Every node below with this tag whose class has all words of ``css``, in order."""
        found = []
        for child in self.children:
            if isinstance(child, Node):
                has = set(css.split()) <= set((child.attributes.get("class") or "").split())
                found += ([child] if child.tag == tag and has else []) + child.all(tag, css)
        return found

    def tips(self, css: str = "") -> list[str]:
        marks = [m for tag in ("circle", "path") for m in self.all(tag, f"dot {css}")]
        return ["".join(t.children) for m in marks for t in m.all("title")]


class Parser(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open = [Node("page")]

    def handle_starttag(self, tag, attrs):
        node = Node(tag, dict(attrs))
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag, attrs):
        self.open[-1].children.append(Node(tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop().tag == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.open[-1].children.append(data)


def parse(path) -> Node:
    parser = Parser()
    parser.feed(path.read_text())
    parser.close()
    assert [n.tag for n in parser.open] == ["page"], "a tag is left open"
    return parser.open[0]


def section(page: Node, title: str) -> Node:
    return next(s for s in page.all("section") if s.all("h2")[0].text == title)


def rows(table: Node) -> list[list[str]]:
    return [[cell.text for cell in row.all("td")] for row in table.all("tbody")[0].all("tr")]


def data_of(figure: Node, pixels: list[tuple[float, float]]) -> np.ndarray:
    """Positions in a chart as the values that its axes say, ``(n, 2)``, to about 0.1% of an axis."""
    texts = [(t.attributes, t.text) for t in figure.all("text")]
    axes = []
    for anchor, place in (("middle", "x"), ("end", "y")):
        marks = [(float(a[place]), float(text)) for a, text in texts if a["text-anchor"] == anchor and _is_number(text)]
        shift = -4 if place == "y" else 0  # of the text below its line
        axes.append(np.polyfit([at + shift for at, _ in marks], [value for _, value in marks], 1))
    return np.column_stack([np.polyval(axis, [p[i] for p in pixels]) for i, axis in enumerate(axes)])


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"-?[\d.]+(e-?\d+)?", text))


def corners(path: Node) -> list[tuple[float, float]]:
    return [tuple(map(float, c.split())) for c in path.attributes["d"].strip("Mz").split("L")]


# ---- folders, written through the schemas ----------------------------------------------------------------------

OBJECTIVES = (
    ObjectiveRecord(name="accuracy", unit="fraction", maximize=True),
    ObjectiveRecord(name="latency_ms", unit="ms"),
)


def write_search(folder, objectives=OBJECTIVES, n=36, seed=0, text=""):
    """A search whose values are known: of gene ``kind`` and noise. Returns evaluations.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, n)
    columns = {"evaluation": np.arange(1, n + 1)}
    for i, o in enumerate(objectives):
        base = 0.3 * kind * (1 if o.maximize else -1) + rng.random(n) * 0.3 + 1
        columns[o.name] = base / 3 if o.name == "accuracy" else base * 10.0 ** (i - 2)
    values = np.column_stack([columns[o.name] for o in objectives])
    costs = values * [-1.0 if o.maximize else 1.0 for o in objectives]
    columns |= {"violation": 0.0, "error": "", "on_front": non_dominated(costs)}
    columns["architecture"] = [f"kind={k} s1b1.kernel={i} s1b1.expand=4{text}" for i, k in enumerate(kind)]
    frame = pd.DataFrame({**columns, "kind": kind, "s1b1.kernel": np.arange(n), "s1b1.expand": 4})
    frame.to_csv(folder / "evaluations.csv", index=False)
    search = Search(objectives=tuple(objectives), budget=n, evaluations=n, stopped="done")
    (folder / "search.json").write_bytes(msgspec.json.encode(search))
    history = pd.DataFrame({"evaluations": np.arange(1, n + 1), "hypervolume": np.linspace(0.1, 2.0, n)})
    history.to_csv(folder / "hypervolume.csv", index=False)
    return frame


def write_tables(folder, text=""):
    rows = pd.DataFrame(
        {
            "block": [Stem(in_ch=1, out_ch=8, size=16, kernel=3, stride=2, act="relu").key],
            "latency_ms": [0.01],
            "runs": 9,
        }
    )
    rows = rows.assign(p10_ms=0.009, p90_ms=0.012)
    for precision, error in (("fp32", 0.023), ("int8", 0.041)):
        device = Device(name="cpu", chip=f"chip{text}", runtime="rt", version="1", precision=precision)
        checked = Validation(networks=7, kendall_tau=0.912, mape=error, within_10pct=0.85)
        table = LatencyTable(device=device, rows=rows, validation=checked, space={"name": "s", "fingerprint": "f"})
        table.save(folder / f"table_{precision}")
        predicted = np.linspace(0.02, 0.2, 12)
        networks = {"role": ["calibrate", "validate"] * 6, "architecture": [f"net={i}{text}" for i in range(12)]}
        frame = pd.DataFrame({**networks, "predicted_ms": predicted, "measured_ms": predicted * 1.05})
        frame.to_csv(folder / f"table_{precision}_networks.csv", index=False)


def write_deployed(folder, text=""):
    """Three networks: c02 is the best on validation images, c01 on test images and the fastest."""
    final = pd.DataFrame(
        {
            "id": ["c01", "c02", "c03"],
            "on_final_front": [True, True, False],
            "supernet_accuracy": [0.5, 0.51, 0.52],
            "fp32_val_accuracy": [0.81, 0.84, 0.82],
            "int8_val_accuracy": [0.80, 0.83, 0.81],
            "fp32_test_accuracy": [0.887, 0.853, 0.82],
            "int8_test_accuracy": [0.876, 0.842, 0.81],
            "predicted_int8_ms": [0.0211, 0.0322, 0.05],
            "measured_int8_ms": [0.0213, 0.0324, 0.06],
            "predicted_fp32_ms": [0.031, 0.042, 0.07],
            "measured_fp32_ms": [0.0319, 0.0429, 0.03],
            "speedup_int8": [1.5, 1.32, 0.5],
            "macs": [50_432, 1_234_000, 1_500_000],
            "params": [4746, 36634, 40000],
            "fp32_bytes": [20_000, 150_000, 160_000],
            "int8_bytes": [10_240, 51_200, 61_440],
            "pruned": [0.25, 0.0, 0.0],
            "quantization": ["ptq", "qat", "ptq"],
            "architecture": [f"kind=2 s1b1.kernel={i}{text}" for i in range(3)],
        }
    )
    final.to_csv(folder / "final.csv", index=False)
    for name in final["id"]:
        step = {"precision": "fp32", "macs": 1_234_000, "params": 9, "size_bytes": 2048, "predicted_ms": 0.04}
        steps = [
            {**step, "step": "extract", "accuracy": 0.5, "predicted_error": 0.03, "measured_ms": 0.05},
            {**step, "step": "quantize", "precision": "int8", "accuracy": 0.8, "note": f"ptq{text}"},
        ]
        record = {"id": name, "architecture": "a=1", "input_shape": [1, 8, 8], "pruned": 0.0, "quantization": "ptq"}
        made = {"genes": [0], "finetune_epochs": 1, "qat_epochs": 0, "prune": 0.0, "seed": 0}
        record |= {"fp32_step": "extract", "blocks": ["x"], "steps": steps, "made_from": made}
        place = folder / "candidates" / name
        place.mkdir(parents=True)
        (place / "summary.json").write_bytes(msgspec.json.encode(msgspec.convert(record, Candidate)))
    failure = Failure(id="c04", architecture="a=2", made_from=msgspec.convert(made, MadeFrom), error=f"broken{text}")
    write_record(folder / "candidates" / "c04" / "failure.json", failure)
    return final


def write_config(folder, text=""):
    space = {"name": f"space{text}", "fingerprint": "f0", "size": "38400", "blocks": 12}
    data = {"name": f"digits{text}", "source": f"/home/{text}", "classes": ["cat", f"dog{text}"], "fingerprint": "d0"}
    data |= {"train": 10, "val": 5, "test": 4, "notes": [f"skipped{text}"]}
    machine = {"cpu": f"cpu{text}", "cores": 2, "memory_gb": 8.0, "platform": "p", "python": "3.11", "packages": {}}
    config = {"version": 2, "command": f"nas quickstart{text}", "created": "today", "space": space, "data": data}
    config |= {"settings": {}, "environment": machine}
    (folder / "config.json").write_bytes(msgspec.json.encode(msgspec.convert(config, Config)))
    (folder / "stages.json").write_text('{"train": 12.3}')


def write_training(folder):
    epochs = np.arange(1, 7)
    frame = pd.DataFrame({"epoch": epochs, "loss": 2.0 / epochs, "accuracy_largest": 0.8 + epochs / 100})
    frame["accuracy_smallest"] = np.where(epochs % 2 == 0, 0.5 + epochs / 100, np.nan)
    frame.to_csv(folder / "training.csv", index=False)


def write_run(folder, text=""):
    """A finished run; ``text`` is in every place that a user, a device or an error fills."""
    evaluations = write_search(folder, text=text)
    write_config(folder, text)
    write_training(folder)
    write_tables(folder, text)
    write_deployed(folder, text)
    return evaluations


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_run(folder)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return parse(folder / "report.html")


# ---- the page of a run -----------------------------------------------------------------------------------------


def test_the_page_is_one_file_that_opens_offline(folder, page):
    text = (folder / "report.html").read_text()
    assert text.startswith("<!doctype html>")
    assert not re.search(r"https?://|src=|@import|url\((?!#)", text)
    assert [link.attributes["href"] for link in page.all("link")] == ["data:,"]  # else browsers ask for a favicon
    assert len(page.all("script")) == len(page.all("style")) == 1
    assert "querySelectorAll" in page.all("script")[0].text
    assert page.all("title")[0].text == page.all("h1")[0].text == "space on digits"
    assert len(text) < 200_000
    used = {a for n in _everything(page) for a in re.findall(r"url\(#([^)]+)\)", str(n.attributes))}
    ids = [n.attributes["id"] for n in _everything(page) if "id" in n.attributes]
    assert len(ids) == len(set(ids))
    assert used <= set(ids)
    assert not page.all("p", "missing")


def test_the_same_folder_gives_the_same_page(folder):
    before = (folder / "report.html").read_bytes()
    write_report(folder)
    assert (folder / "report.html").read_bytes() == before
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]


def test_nothing_that_a_folder_holds_becomes_markup(tmp_path):
    write_run(tmp_path, EVIL)
    page = parse(write_report(tmp_path))
    harmless = parse_of(tmp_path.parent / "harmless")
    tags = [[n.tag for n in _everything(p)] for p in (page, harmless)]
    assert tags[0] == tags[1]
    names = [[sorted(n.attributes) for n in _everything(p)] for p in (page, harmless)]
    assert names[0] == names[1]
    assert all(name not in attributes for attributes in names[0] for name in ("onload", "onclick", "onmouseover"))
    # and it is all there, as text
    assert page.all("h1")[0].text == " ".join(f"space{EVIL} on digits{EVIL}".split())
    facts = section(page, "How to repeat this run").text
    for part in (f"nas quickstart{EVIL}", f"/home/{EVIL}", f"dog{EVIL}", f"skipped{EVIL}", f"cpu{EVIL}"):
        assert part in facts
    assert EVIL in section(page, "Latency tables").text
    assert EVIL in section(page, "Compression, step by step").text
    assert EVIL in section(page, "Deployed networks").text
    assert any(f"c04 could not be deployed: broken{EVIL}" in n.text for n in page.all("p", "note"))
    charts = ("The Pareto front", "Predicted and measured latency")
    for title in charts:
        assert all(word in tip for tip in section(page, title).tips("front") for word in EVIL.split())


def parse_of(folder):
    folder.mkdir()
    write_run(folder)
    return parse(write_report(folder))


def _everything(node: Node) -> list[Node]:
    below = [c for c in node.children if isinstance(c, Node)]
    return (
        [node, *(n for child in below for n in _everything(child))]
        if node.tag != "page"
        else [n for child in below for n in _everything(child)]
    )


def test_html_is_written_in_templates_only():
    """A tag in Python is a tag that nobody escapes."""
    sources = list(Path(nas.report.__file__).parent.rglob("*"))
    python = [p for p in sources if p.suffix == ".py"]
    assert len(python) > 5
    for path in python:
        assert not re.search(r"</?[a-z]+[ >]|Markup|autoescape=False", path.read_text()), path
    for path in (p for p in sources if p.suffix == ".html"):
        assert "safe" not in path.read_text(), path


def test_the_summary_names_the_network_that_validation_chose(page):
    text = section(page, "Summary").text
    assert "3 networks, 2 of them on the final front" in text
    assert "c02: 84.2% of the test images in int8, 32.4 µs measured (fp32: 85.3%, 42.9 µs)" in text
    assert "c01: 21.3 µs measured, 87.6%" in text
    assert "faster for 2 of 3, between 0.50 and 1.50 times" in text
    assert "7 networks it has not seen with a mean error of 4.1% (Kendall tau 0.912)" in text


def test_the_final_table_shows_every_column_in_its_unit_and_sorts_by_value(folder, page):
    (table,) = section(page, "Deployed networks").all("table")
    head = [cell.text for cell in table.all("th")]
    shown_rows = [dict(zip(head, row, strict=True)) for row in rows(table)]
    assert [row["network"] for row in shown_rows] == ["c01", "c02", "c03"]
    assert [row["front"] for row in shown_rows] == ["●", "●", ""]
    expected = {"int8 val.": "83.0%", "int8 test": "84.2%", "int8 pred.": "32.2 µs", "int8 meas.": "32.4 µs"}
    expected |= {"fp32 pred.": "42.0 µs", "fp32 meas.": "42.9 µs", "fp32/int8": "1.32x", "MACs": "1.23 MMACs"}
    expected |= {"int8 size": "50 KiB", "quantized": "qat", "architecture": "kind=2 s1b1.kernel=1"}
    assert expected.items() <= shown_rows[1].items()
    final = pd.read_csv(folder / "final.csv")
    for title, column in (("int8 test", "int8_test_accuracy"), ("MACs", "macs"), ("int8 meas.", "measured_int8_ms")):
        cells = [row.all("td")[head.index(title)] for row in table.all("tbody")[0].all("tr")]
        assert [float(cell.attributes["data-v"]) for cell in cells] == list(final[column])


def test_points_of_the_front_chart_stand_where_their_values_are(folder, page):
    evaluations = pd.read_csv(folder / "evaluations.csv")
    figure = section(page, "The Pareto front").all("figure")[0]
    labels = [t.text for t in figure.all("text")]
    assert {"latency (µs)", "validation accuracy (%)"} <= set(labels)
    front = evaluations[evaluations["on_front"]].sort_values("latency_ms")
    marks = [m for m in figure.all("circle", "dot front") if m.all("title")]
    assert len(marks) == len(front)
    at = sorted((float(m.attributes["cx"]), float(m.attributes["cy"])) for m in marks)
    for column, pixels in (("latency_ms", [x for x, _ in at]), ("accuracy", [y for _, y in at])):
        fit = np.polyfit(front[column], pixels, 1)
        assert np.abs(np.polyval(fit, front[column]) - pixels).max() < 0.11  # positions have one digit
        assert (fit[0] > 0) == (column == "latency_ms")  # accuracy upwards
    seen = data_of(figure, at)
    assert seen[:, 0] == pytest.approx(front["latency_ms"].to_numpy() * 1000, rel=0.01)
    assert seen[:, 1] == pytest.approx(front["accuracy"].to_numpy() * 100, rel=0.01)
    best = front.iloc[-1]
    tip = f"#{best['evaluation']}: accuracy {100 * best['accuracy']:.1f}%, latency"
    (found,) = [t for t in figure.tips("front") if t.startswith(tip)]
    assert found.splitlines()[1:] == ["kind=" + str(best["kind"]), f"s1b1: kernel={best['s1b1.kernel']} expand=4"]


def test_the_staircase_goes_through_the_front_in_order(folder, page):
    figure = section(page, "The Pareto front").all("figure")[0]
    (path,) = [p for p in figure.all("path", "line front") if p.attributes["d"][-2:] != "18"]
    steps = corners(path)
    marks = sorted(
        (float(m.attributes["cx"]), float(m.attributes["cy"]))
        for m in figure.all("circle", "dot front")
        if m.all("title")
    )
    assert steps[::2] == marks
    assert all(x0 == x1 or y0 == y1 for (x0, y0), (x1, y1) in itertools.pairwise(steps))
    assert all(a[1] == b[1] for a, b in zip(steps[::2], steps[1::2], strict=False))  # keeps y until the next x


def test_deployed_networks_are_shown_where_they_were_measured(folder, page, tmp_path):
    tips = section(page, "The Pareto front").tips("deployed")
    assert tips[1] == "c02: 83.0% validation, 32.4 µs measured in int8\nkind=2\ns1b1: kernel=1"
    # a search for another device: what was measured here is not on its axis
    for path in folder.iterdir():
        if path.suffix in (".csv", ".json"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    for suffix in (".json", ".csv"):
        (tmp_path / f"table_target{suffix}").write_bytes((folder / f"table_int8{suffix}").read_bytes())
    final = pd.read_csv(folder / "final.csv").assign(predicted_target_ms=[1.5, np.nan, 4.0])
    final.to_csv(tmp_path / "final.csv", index=False)
    other = section(parse(write_report(tmp_path)), "The Pareto front").tips("deployed")
    assert [t.split(" in int8")[0] for t in other] == [
        "c01: 80.0% validation, 1.50 ms predicted",
        "c03: 81.0% validation, 4.00 ms predicted",
    ]


def test_latency_charts_show_calibration_validation_and_deployed(page):
    fp32, int8 = section(page, "Predicted and measured latency").all("figure")
    assert [f.all("figcaption")[0].text for f in (fp32, int8)] == ["fp32", "int8"]
    for figure in (fp32, int8):
        assert {"predicted (µs)", "measured (µs)"} <= {t.text for t in figure.all("text")}
        assert len(figure.tips("evaluated")) == len(figure.tips("front")) == 6
        assert "±10%" in figure.all("div", "legend")[0].text
        assert len(figure.tips("deployed")) == 3
        assert [tip.split("net=")[1] for tip in figure.tips("front")] == [str(i) for i in range(1, 12, 2)]
        band = data_of(figure, corners(figure.all("path", "area front")[0]))
        assert sorted((band[:, 1] / band[:, 0])[[1, 2]]) == pytest.approx([0.9, 1.1], abs=0.01)
    assert figure.tips("evaluated")[0] == "21.0 µs measured, 20.0 µs predicted\nnet=0"
    assert int8.tips("deployed")[1] == "c02: 32.4 µs measured, 32.2 µs predicted"
    assert fp32.tips("deployed")[1] == "c02: 42.9 µs measured, 42.0 µs predicted"


def test_training_progress_and_steps_are_there(page):
    loss, accuracy = section(page, "Supernet training").all("figure")
    assert len(loss.all("path", "line front")[0].attributes["d"].split("L")) == 6
    assert len(accuracy.all("circle", "dot front")) == 6 + 1  # and the legend's
    smallest = accuracy.all("circle", "dot deployed")[1:]  # after the legend's; measured every other epoch
    at = data_of(accuracy, [(float(m.attributes["cx"]), float(m.attributes["cy"])) for m in smallest])
    assert at == pytest.approx(np.array([[2, 52], [4, 54], [6, 56]]), rel=0.01)
    (history,) = section(page, "Search progress").all("figure")
    assert [t.text for t in history.all("text")][-2:] == ["evaluations", "hypervolume (share of the final one)"]
    grown = data_of(history, corners(history.all("path", "line front")[0]))
    assert grown[[0, -1]] == pytest.approx(np.array([[1, 0.05], [36, 1.0]]), abs=0.05)
    steps = rows(section(page, "Compression, step by step").all("table")[0])
    assert len(steps) == 6
    assert steps[0][:8] == ["c01", "extract", "fp32", "50.0%", "1.23 MMACs", "2 KiB", "40.0 µs ±3.0%", "50.0 µs"]
    assert steps[1][7:] == ["-", "ptq"]
    (tables,) = section(page, "Latency tables").all("table")
    assert rows(tables)[1][-4:] == ["7", "0.912", "4.1%", "85.0%"]
    facts = section(page, "How to repeat this run").text
    for part in (
        "nas quickstart",
        "3.84e+04 networks from 12 blocks (f0)",
        "10 training, 5 validation",
        "train 12",
        "epochs 50",
    ):
        assert part in facts


def test_the_picture_is_a_picture(folder):
    picture = matplotlib.image.imread(folder / "pareto.png")
    assert picture.shape[0] > 400
    colours = {tuple(c) for c in (picture[..., :3] * 255).round().astype(int).reshape(-1, 3)}
    assert {(0x2F, 0x6F, 0xB3), (0xD9, 0x69, 0x0F)} <= colours


@pytest.mark.parametrize("n", range(1, 6))
def test_any_number_of_objectives(n, tmp_path):
    more = [ObjectiveRecord(name=f"size{i}", unit="bytes", maximize=i == 4) for i in range(2, 5)]
    objectives = (*OBJECTIVES, *more)[:n]
    evaluations = write_search(tmp_path, objectives)
    page = parse(write_report(tmp_path))
    part = section(page, "The Pareto front")
    assert len(part.all("figure")) == n - 1
    assert (tmp_path / "pareto.png").exists() == (n > 1)
    (table,) = part.all("table")
    assert len(rows(table)) == evaluations["on_front"].sum()
    assert len(rows(table)[0]) == n + 2
    for figure in part.all("figure"):
        assert len(figure.tips("front")) == evaluations["on_front"].sum()
        tip = next(iter(figure.tips("evaluated")))
        assert all(o.name.removesuffix("_ms") in tip for o in objectives)


def test_the_stairs_of_two_objectives_leave_out_what_only_a_third_saves(tmp_path):
    third = ObjectiveRecord(name="energy", unit="mJ", maximize=True)
    evaluations = write_search(tmp_path, (*OBJECTIVES, third))
    figures = section(parse(write_report(tmp_path)), "The Pareto front").all("figure")
    front = evaluations[evaluations["on_front"]]
    for figure, name, sign in ((figures[0], "latency_ms", 1), (figures[1], "energy", -1)):
        costs = np.column_stack([-front["accuracy"], sign * front[name]])
        (line,) = figure.all("path", "line front")
        assert len(line.attributes["d"].split("L")) == 2 * non_dominated(costs).sum() - 1
        assert non_dominated(costs).sum() < len(front)


def test_what_is_minimised_is_shown_first(tmp_path):
    energy = ObjectiveRecord(name="energy", unit="mJ", maximize=True)
    write_search(tmp_path, (energy, OBJECTIVES[0], OBJECTIVES[1]))
    figures = section(parse(write_report(tmp_path)), "The Pareto front").all("figure")
    labels = [[t.text for t in figure.all("text")][-2:] for figure in figures]
    assert labels == [["latency (ms)", "energy (µJ)"], ["validation accuracy (%)", "energy (µJ)"]]


def test_a_long_search_draws_so_many_points_and_every_one_of_the_front(tmp_path, monkeypatch):
    monkeypatch.setattr("nas.report.page.importance", lambda *_: Importance(share={}, r2=0.0, rows=0))  # takes long
    evaluations = write_search(tmp_path, n=5000)
    part = section(parse(write_report(tmp_path)), "The Pareto front")
    assert 1900 < len(part.tips("evaluated")) <= 2000
    assert len(part.tips("front")) == evaluations["on_front"].sum()


def test_what_is_missing_says_what_makes_it(tmp_path):
    write_tables(tmp_path)
    page = parse(write_report(tmp_path))
    missing = {s.all("h2")[0].text: s.all("code")[0].text for s in page.all("section") if s.all("p", "missing")}
    assert missing == {
        "Deployed networks": "nas compress",
        "The Pareto front": "nas search",
        "Search progress": "nas search",
        "What matters": "nas search",
        "Supernet training": "nas train",
        "Compression, step by step": "nas compress",
        "How to repeat this run": "nas quickstart",
    }
    assert not (tmp_path / "pareto.png").exists()


def test_an_unfinished_search_is_summarised(tmp_path):
    evaluations = write_search(tmp_path)
    text = section(parse(write_report(tmp_path)), "Summary").text
    assert f"36 networks were evaluated, {evaluations['on_front'].sum()} are on the front" in text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("training.csv", "nonsense\n1\n"),
        ("training.csv", "epoch,loss\n1,<b>\n"),
        ("evaluations.csv", "a,b\n1,2\n"),
        ("evaluations.csv", "evaluation,accuracy,violation,error,on_front,architecture\n1,2,0,,True,a\n"),
        ("search.json", '{"objectives": 5}'),
        ("search.json", "[" * 5000),
        ("config.json", '{"version": 2}'),
        ("stages.json", '{"train": "long"}'),
        ("final.csv", "id\n1\n"),
        ("table_int8.json", "[]"),
        ("candidates/c01/summary.json", "{}"),
        ("hypervolume.csv", "\0"),
    ],
)
def test_a_damaged_file_is_one_line(name, content, tmp_path):
    write_run(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(BadInput) as refused:
        write_report(tmp_path)
    assert (tmp_path / name).stem in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "report.html").exists()


def test_a_folder_that_is_none_is_one_line(tmp_path):
    for path, words in ((tmp_path / "no", "not a folder"), (tmp_path, "nothing to report")):
        with pytest.raises(BadInput, match=words):
            write_report(path)
    write_tables(tmp_path)
    (tmp_path / "report.html").mkdir()
    with pytest.raises(BadInput, match="cannot write"):
        write_report(tmp_path)


# ---- the page of a sweep ---------------------------------------------------------------------------------------


def write_trial(folder, device, searcher, seed, objectives=OBJECTIVES, failed=""):
    name = f"device={device},searcher={searcher},seed={seed}".translate({ord(c): "-" for c in "<>/ '&\""})
    place = folder / "trials" / name
    frame = write_search(place, objectives, n=40, seed=seed)
    settings = {"device": device, "searcher": searcher, "seed": seed}
    (place / "settings.json").write_bytes(msgspec.json.encode(settings))
    ending = {"failed.json": {"error": failed, "traceback": ""}} if failed else {"done.json": {"evaluations": 40}}
    for file, content in ending.items():
        (place / file).write_bytes(msgspec.json.encode(content))
    return frame


def test_a_sweep_compares_searchers_and_devices(tmp_path):
    frames = {
        (d, s, seed): write_trial(tmp_path, d, s, seed)
        for d in ("pi", "tpu")
        for s in ("one", "two")
        for seed in (0, 1)
    }
    write_trial(tmp_path, "pi", "broken", 0, failed=f"ValueError: {EVIL}")
    page = parse(write_sweep_report(tmp_path))
    trials = section(page, "Trials")
    assert "9 trials, 8 finished." in trials.text
    assert rows(trials.all("table")[0])[0][1] == " ".join(f"ValueError: {EVIL}".split())
    assert len(rows(trials.all("table")[1])) == 9
    fronts = section(page, "Pareto fronts").all("figure")
    assert [f.all("figcaption")[0].text for f in fronts] == ["pi", "tpu", "all devices"]
    both = pd.concat([frames["pi", "one", 0], frames["pi", "one", 1]])
    best = non_dominated(np.column_stack([-both["accuracy"], both["latency_ms"]])).sum()
    assert len(fronts[0].tips("s0")) == best
    expected = both.sort_values("accuracy").iloc[-1]
    assert any(f"one: accuracy {100 * expected['accuracy']:.1f}%" in tip for tip in fronts[0].tips("s0"))
    final = rows(section(page, "Hypervolume at the end").all("table")[0])
    assert [row[0] for row in final] == ["pi", "tpu"]
    one, two = (float(cell.split()[0]) for cell in final[0][1:])
    assert 0 < one <= 1
    assert one == two  # the same searches under two names
    assert float(final[0][1].split("±")[1]) > 0
    assert len(section(page, "Hypervolume over evaluations").all("figure")) == 2


def test_hypervolumes_are_shares_of_what_all_trials_found_together(tmp_path):
    """Against the area counted on a grid; mean, spread, median, worst and best of the repetitions."""
    frames = [write_trial(tmp_path, "pi", name, seed) for seed, name in enumerate(("one", "one", "one", "two"))]
    odd = ObjectiveRecord(name="energy", unit="mJ")
    write_trial(tmp_path, "pi", "one", 9, (OBJECTIVES[0], odd))  # other objectives: not compared
    page = parse(write_sweep_report(tmp_path))
    costs = [np.column_stack([-f["accuracy"], f["latency_ms"]]) for f in frames]
    front = np.vstack(costs)[non_dominated(np.vstack(costs))]
    low, span = front.min(axis=0), np.ptp(front, axis=0)
    axis = (np.arange(500) + 0.5) / 500 * 1.1
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 1, 2)

    def area(points):
        return np.mean(((points - low) / span <= grid).all(axis=2).any(axis=1))

    shares = np.array([area(c[non_dominated(c)]) for c in costs]) / area(front)
    ((_, one, two),) = rows(section(page, "Hypervolume at the end").all("table")[0])
    assert float(two) == pytest.approx(shares[3], abs=0.01)
    assert [float(x) for x in one.split(" ± ")] == pytest.approx([shares[:3].mean(), shares[:3].std(ddof=1)], abs=0.01)
    (figure,) = section(page, "Hypervolume over evaluations").all("figure")
    last = data_of(figure, [corners(figure.all("path", "line s0")[-1])[-1]])[0]
    assert last == pytest.approx([40, np.median(shares[:3])], rel=0.02, abs=0.02)
    ends = data_of(figure, corners(figure.all("path", "area s0")[0]))
    ends = sorted(ends[np.isclose(ends[:, 0], 40, rtol=0.01), 1])
    assert ends == pytest.approx([shares[:3].min(), shares[:3].max()], abs=0.02)


def test_fronts_of_all_devices_are_relative_to_their_own_slowest(tmp_path):
    for device, seed in (("pi", 0), ("tpu", 3)):
        write_trial(tmp_path, device, "one", seed)
    figure = section(parse(write_sweep_report(tmp_path)), "Pareto fronts").all("figure")[-1]
    for css in ("s0", "s1"):
        seen = data_of(figure, corners(figure.all("path", f"line {css}")[-1]))
        assert seen[:, 0].max() == pytest.approx(100, abs=0.5)


def test_too_few_shared_networks_say_nothing_of_correlation(tmp_path):
    for device in ("pi", "tpu"):
        write_trial(tmp_path, device, "one", 0)
    for path in tmp_path.glob("trials/*/evaluations.csv"):
        pd.read_csv(path).head(19).to_csv(path, index=False)
    text = section(parse(write_sweep_report(tmp_path)), "Rank correlation between devices").text
    assert "No two devices share enough" in text


def test_rank_correlation_between_devices(tmp_path):
    first, second = write_trial(tmp_path, "pi", "one", 0), write_trial(tmp_path, "tpu", "one", 0)
    place = next(tmp_path.glob("trials/device=tpu*"))
    rng = np.random.default_rng(5)
    second["latency_ms"] = second["latency_ms"] * (0.5 + rng.random(len(second)))
    second.loc[3, "violation"] = 1.0  # such rows are not compared
    second.loc[3, "latency_ms"] = 1e6
    second.to_csv(place / "evaluations.csv", index=False)
    (table,) = section(parse(write_sweep_report(tmp_path)), "Rank correlation between devices").all("table")
    kept = np.arange(len(first)) != 3
    tau = kendalltau(first["latency_ms"][kept], second["latency_ms"][kept]).statistic
    assert rows(table) == [["pi", "1.00", f"{tau:.2f}"], ["tpu", f"{tau:.2f}", "1.00"]]
    shades = [cell.attributes.get("style") for cell in table.all("td")]
    assert shades.count("--shade:100%") == 2


@pytest.mark.parametrize("n", [1, 3, 4])
def test_a_sweep_of_any_number_of_objectives(n, tmp_path):
    more = [ObjectiveRecord(name=f"size{i}", unit="bytes") for i in range(2)]
    for seed in (0, 1):
        write_trial(tmp_path, "pi", "one", seed, (*OBJECTIVES, *more)[:n])
    page = parse(write_sweep_report(tmp_path))
    titles = [s.all("h2")[0].text for s in page.all("section")]
    if n == 1:
        assert titles == ["Trials"]
    else:
        assert len(section(page, "Pareto fronts").all("figure")) == n - 1


def test_a_sweep_folder_that_is_none_or_damaged_is_one_line(tmp_path):
    with pytest.raises(BadInput, match="holds no sweep"):
        write_sweep_report(tmp_path)
    write_trial(tmp_path, "pi", "one", 0)
    next(tmp_path.glob("trials/*/search.json")).write_text("{}")
    with pytest.raises(BadInput, match=r"search\.json is damaged"):
        write_sweep_report(tmp_path)


# ---- numbers and charts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0123, "ms", "12.3 µs"),
        (1.0, "ms", "1.00 ms"),
        (0.99951, "ms", "999.5 µs"),
        (12_500, "ms", "12.50 s"),
        (0.912, "fraction", "91.2%"),
        (0.0, "fraction", "0.0%"),
        (2048, "bytes", "2 KiB"),
        (12, "bytes", "12 bytes"),
        (3 << 20, "bytes", "3.0 MiB"),
        (1.2e6, "MACs", "1.20 MMACs"),
        (0.5, "watts", "0.5 watts"),
        (0.5, "", "0.5"),
        (None, "ms", "-"),
        (float("nan"), "ms", "-"),
    ],
)
def test_numbers_as_people_read_them(value, unit, text):
    assert shown(value, unit) == text


def test_one_scale_for_values_together():
    assert scale("ms", [0.01, float("nan"), 2.0]).unit == "ms"
    assert scale("ms", []).unit == "µs"
    assert scale("ms", [float("inf"), 0.5]).unit == "µs"


def test_ticks_are_round_and_inside():
    rng = np.random.default_rng(0)
    for _ in range(300):
        span = 10.0 ** rng.uniform(-6, 6)
        low = span * rng.uniform(-100, 100)
        found = ticks(low, low + span)
        assert 2 <= len(found) <= 8
        step = found[1] - found[0]
        assert np.allclose(np.diff(found), step)
        assert low - step / 1e6 <= found[0]
        assert found[-1] <= low + span + step / 1e6
        assert round(step / 10 ** np.floor(np.log10(step * 1.0001)), 3) in (1, 2, 5)


def test_marks_that_cannot_be_drawn_are_left_out_and_counted():
    points = Points(xs=[0, 1, float("nan"), 5, 2], ys=[0, 1, 1, 1, float("inf")], css="front", tips=list("abcde"))
    chart = Chart(x_label="x", y_label="y", layers=[points], x_range=(0, 2), y_range=(0, 1))
    assert [tip for _, _, tip in chart.markers(points)] == ["a", "b"]
    assert chart.left_out == 1
    line = Line(xs=[0, 1, 2], ys=[0, float("nan"), 1], css="front")
    assert len(chart.corners(line)) == 2
    area = Area(xs=[0, 1], lows=[0, 0.2], highs=[1, 0.8], css="front")
    ys = [y for _, y in chart.corners(area)]
    assert len(ys) == 4
    assert ys[0] < ys[3]  # the high side is drawn above the low one
    assert ys[1] < ys[2]


def test_a_chart_of_one_point_or_none_has_axes():
    for xs in ([], [3.0], [0.0]):
        chart = Chart(x_label="x", y_label="y", layers=[Points(xs=xs, ys=xs, css="front")])
        assert len(chart.x_axis.ticks) >= 2
        assert len(list(chart.markers(chart.layers[0]))) == len(xs)


def test_architectures_in_tips_have_a_line_per_block():
    assert (
        wrapped("r=1 s1.act=relu s1b1.kernel=3 w=2.5 s1b1.expand=4")
        == "r=1 w=2.5\ns1: act=relu\ns1b1: kernel=3 expand=4"
    )


def test_a_report_reads_what_a_run_wrote(folder):
    contents = read_run(folder)
    assert dataclasses.is_dataclass(contents.config)
    assert contents.search.objectives == OBJECTIVES


@pytest.mark.parametrize(("right", "of"), [(8, 36), (0, 36), (36, 36), (354, 359)])
def test_intervals_of_test_accuracies_are_wilsons(right, of):
    from scipy.stats import binomtest

    expected = binomtest(right, of).proportion_ci(method="wilson")
    assert interval(right / of, of) == pytest.approx((expected.low, expected.high), abs=1e-4)
