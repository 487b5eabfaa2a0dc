"""Which genes matter, and how diverse a front is: found where it was put, refused where nothing can be known."""

import numpy as np
import pandas as pd
import pytest

from nas.engine.loop import search
from nas.objectives import Objective
from nas.report import write_report
from nas.report.explain import diversity, gene_columns, importance
from nas.runs.search import write_search
from nas.searchers.random import RandomSearch
from nas.space import Choice, SearchSpace

SPACE = SearchSpace(
    "explained",
    [
        Choice("depth", (1, 2, 3)),
        Choice("kind", ("plain", "wide", "odd")),
        Choice("extra", (1, 2, 4), ("depth", (2, 3))),
        Choice("idle", (0, 1, 2, 3)),
    ],
    (),
)


def result(quality, budget=120):
    size = Objective(name="size", fn=lambda a: a[:, 0] + 1.0)
    return search(
        SPACE,
        [Objective(name="quality", fn=quality, maximize=True, cheap=False), size],
        RandomSearch(SPACE),
        budget=budget,
    )


def test_the_gene_that_decides_is_found():
    frame = result(lambda a: 10.0 * (a[:, 1] == 2) + a[:, 0]).to_pandas()
    assert gene_columns(frame) == ["depth", "kind", "extra", "idle"]
    found = importance(frame, "quality")
    assert found.believable
    assert found.r2 > 0.9
    assert next(iter(found.share)) == "kind"
    assert found.share["idle"] < 0.05 * found.share["kind"]


def test_noise_is_not_explained():
    rng = np.random.default_rng(0)
    found = importance(result(lambda a: rng.normal(size=len(a))).to_pandas(), "quality")
    assert not found.believable


def test_few_rows_are_refused():
    found = importance(result(lambda a: a.sum(axis=1) * 1.0, budget=20).to_pandas(), "quality")
    assert not found.believable
    assert found.share == {}


def test_diversity_of_a_front_that_agrees_on_a_gene():
    frame = result(lambda a: 10.0 * (a[:, 1] == 2) + 3.0 * a[:, 0]).to_pandas()
    spread = diversity(frame)
    assert spread.values["kind"] == (1, 3)
    assert spread.values["depth"][0] == 3
    genes = (frame[frame["on_front"]])[["depth", "kind", "extra", "idle"]]
    rows = [tuple(map(str, row)) for row in genes.itertuples(index=False)]
    pairs = [(a, b) for i, a in enumerate(rows) for b in rows[i + 1 :]]
    assert spread.distance == pytest.approx(np.mean([[x != y for x, y in zip(a, b, strict=True)] for a, b in pairs]))
    assert diversity(frame[frame["on_front"]].head(1)) is None


def test_the_report_shows_it(tmp_path):
    write_search(tmp_path, result(lambda a: 10.0 * (a[:, 1] == 2) + a[:, 0]))
    page = write_report(tmp_path).read_text()
    assert "What matters" in page
    assert "R² lost when the gene is shuffled" in page
    assert "The front agrees on" in page
    assert '<th tabindex="0" scope="col">quality (R² ' in page
    assert page.index("<td>kind</td>") < page.index("<td>depth</td>")


def test_the_report_says_when_it_cannot_know(tmp_path):
    write_search(tmp_path, result(lambda a: a.sum(axis=1) * 1.0, budget=15))
    assert "too few to tell genes apart" in write_report(tmp_path).read_text()


def test_what_a_forest_learns_by_heart_does_not_matter():
    """Noise that is fitted on the training rows is no importance: it counts on the held-out ones only."""
    rng = np.random.default_rng(1)
    found = importance(result(lambda a: 2.0 * (a[:, 1] == 2) + rng.normal(size=len(a))).to_pandas(), "quality")
    assert next(iter(found.share)) == "kind"
    assert found.share["idle"] < 0.1 * found.share["kind"]


def test_failed_and_violating_networks_teach_nothing():
    frame = result(lambda a: 10.0 * (a[:, 1] == 2) + a[:, 0]).to_pandas()
    broken = frame.copy()
    broken[["quality", "on_front", "idle"]] = [1e6, False, 99]
    failed, violating = broken.assign(error="out of memory"), broken.assign(violation=0.5)
    for more in (failed, violating):
        mixed = pd.concat([frame, more], ignore_index=True)
        assert importance(mixed, "quality").share == importance(frame, "quality").share
        assert diversity(mixed) == diversity(frame)
