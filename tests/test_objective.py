"""Objectives and constraints: values against a sum by hand, borders, identities."""

from __future__ import annotations

import dataclasses
import operator
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

import nas
from nas.device import Device
from nas.errors import BadInput, Infeasible
from nas.objectives import Objective, flash, latency, macs, params, peak_memory
from nas.objectives.objective import additive
from nas.tables.table import LatencyTable


class Table:
    """The least that ``latency`` asks of a table."""

    fixed_ms = 0.25
    fingerprint = "abc"
    validation = "somewhere"

    def lookup(self, blocks: Sequence) -> np.ndarray:
        return np.array([1e-6 * b.macs for b in blocks])


def test_additive_objectives_equal_sums_over_the_blocks(family):
    archs = family.sample(40, np.random.default_rng(0))
    networks = family.networks(archs)
    expected = {
        macs(family): [sum(b.macs for b in n) for n in networks],
        params(family): [sum(b.params for b in n) for n in networks],
        flash(family, bytes_per_weight=4): [4 * sum(b.weights for b in n) for n in networks],
        peak_memory(family, bytes_per_element=2): [2 * max(b.live_elements for b in n) for n in networks],
        latency(family, Table()): [0.25 + 1e-6 * sum(b.macs for b in n) for n in networks],
    }
    for objective, values in expected.items():
        assert objective(archs) == pytest.approx(values, rel=1e-12), objective.name


def test_extremes_are_values_that_are_reached(family):
    for objective in (macs(family), peak_memory(family), latency(family, Table())):
        ends = objective.extremes
        assert objective(np.array([ends.argmin, ends.argmax])).tolist() == [ends.minimum, ends.maximum]
        values = objective(family.sample(5000, np.random.default_rng(0)))
        assert ends.minimum <= values.min() < values.max() <= ends.maximum


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (np.zeros((3, 1)), r"returned shape \(3, 1\), expected \(3,\)"),
        (np.zeros(2), r"returned shape \(2,\), expected \(3,\)"),
        (1.0, r"returned shape \(\), expected \(3,\)"),
        (["a", "b", "c"], r"returned list, expected \(3,\)"),
        (object(), r"returned object, expected \(3,\)"),
    ],
)
def test_what_a_function_returns_is_checked(returned, message):
    with pytest.raises(BadInput, match=message):
        Objective(name="x", fn=lambda archs: returned)(np.zeros((3, 2), np.uint8))


def test_constraints_read_well_and_measure_how_far_they_are_missed():
    fast = Objective(name="latency_ms", fn=lambda a: np.zeros(len(a)), unit="ms")
    values = np.array([1.0, 4.0, 5.0, np.nan])
    most, least = fast <= 4.0, fast >= 4.0
    assert (str(most), str(least)) == ("latency_ms <= 4 ms", "latency_ms >= 4 ms")
    assert most.violation(values)[:3].tolist() == [0.0, 0.0, 0.25]
    assert least.violation(values)[:3].tolist() == [0.75, 0.0, 0.0]
    assert np.isnan(most.violation(values)[3])  # not evaluated is neither met nor missed
    assert (fast <= 0.0).violation(values)[:3].tolist() == [1.0, 4.0, 5.0]
    assert (fast <= -2.0).violation(np.array([-1.0, -3.0])).tolist() == [0.5, 0.0]
    assert operator.ge(4.0, fast) == most  # 4.0 >= fast, the mirrored form
    for bound in (np.nan, np.inf):
        with pytest.raises(BadInput, match="finite"):
            _ = fast <= bound


def test_reachable_bounds_pass_and_others_name_the_nearest_value(tiny):
    for objective in (macs(tiny), peak_memory(tiny)):
        low, high = objective.extremes.minimum, objective.extremes.maximum
        for met in (objective <= low, objective >= high, objective <= high, objective >= low):
            met.check_reachable()
            assert met.violation(objective(met.best[None]))[0] == 0
        with pytest.raises(Infeasible, match=f"nearest value that can be met is {low:.6g} "):
            (objective <= low - 1).check_reachable()
        with pytest.raises(Infeasible, match=f"nearest value that can be met is {high:.6g} "):
            (objective >= high + 1).check_reachable()
    unknown = Objective(name="x", fn=lambda a: np.zeros(len(a))) <= -1.0
    unknown.check_reachable()  # nothing is known of it before the search
    assert unknown.best is None


def test_identities_tell_quantities_apart(tiny, family):
    ones = np.ones(len(tiny.blocks))
    objectives = [
        macs(tiny),
        macs(family),
        params(tiny),
        flash(tiny),
        flash(tiny, bytes_per_weight=4),
        peak_memory(tiny),
        peak_memory(tiny, bytes_per_element=4),
        latency(tiny, Table()),
        additive(tiny, "x", ones),
        additive(tiny, "x", 2 * ones),
        additive(tiny, "x", ones, fixed=1.0),
        additive(tiny, "x", ones, combine=np.maximum),
    ]
    assert len({o.identity for o in objectives}) == len(objectives)
    assert macs(tiny).identity == macs(tiny).identity


def test_values_that_do_not_fit_the_space_are_refused(tiny):
    n = len(tiny.blocks)
    with pytest.raises(BadInput, match=f"has {n} blocks, got values of shape"):
        additive(tiny, "x", np.ones(n + 1))
    with pytest.raises(BadInput, match="x needs a finite value for every block, stem "):
        additive(tiny, "x", np.where(np.arange(n) == 0, np.nan, 1.0))


def test_bounds_read_the_same_with_numpy_scalars_on_either_side():
    fast = Objective(name="latency_ms", fn=lambda a: np.zeros(len(a)))
    assert str(np.float64(4.0) >= fast) == str(fast <= np.float64(4.0)) == "latency_ms <= 4"


def test_a_chained_bound_is_refused_because_python_would_drop_half_of_it():
    fast = Objective(name="latency_ms", fn=lambda a: np.zeros(len(a)))
    with pytest.raises(BadInput, match="two constraints"):
        _ = 1.0 <= fast <= 4.0


@pytest.mark.parametrize("module", ["nas.objectives", "nas.engine.loop", "nas.searchers", "nas.searchers.exact"])
def test_objectives_and_searchers_do_not_import_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_weighted_adds_up_in_the_direction_of_each(tiny):
    size, cost = nas.params(tiny), nas.macs(tiny)
    size = dataclasses.replace(size, maximize=True)
    archs = tiny.sample(20, np.random.default_rng(0))
    both = nas.weighted({"params": 2.0, "macs": 0.5}, [size, cost], name="score")
    assert both.name == "score"
    assert both.maximize
    assert both.cheap
    assert np.allclose(both(archs), 2.0 * size(archs) - 0.5 * cost(archs))
    with pytest.raises(BadInput, match="a positive weight for each of params, macs"):
        nas.weighted({"params": 2.0}, [size, cost])


def test_penalized_is_worse_by_the_violation_only(tiny):
    size, cost = dataclasses.replace(nas.params(tiny), maximize=True), nas.macs(tiny)
    archs = tiny.sample(50, np.random.default_rng(0))
    limit = float(np.median(cost(archs)))
    one = nas.penalized(size, cost <= limit, weight=1000.0)
    missed = np.maximum(cost(archs) - limit, 0) / limit
    assert np.allclose(one(archs), size(archs) - 1000.0 * missed)
    with pytest.raises(BadInput, match="at least one constraint"):
        nas.penalized(size)


def test_energy_comes_from_the_table(tiny):
    device = Device(name="board", chip="c", runtime="r", version="1", precision="int8")
    rows = pd.DataFrame(
        {"block": [b.key for b in tiny.blocks], "latency_ms": 1.0, "p10_ms": 0.9, "p90_ms": 1.1, "runs": 5}
    )
    with pytest.raises(BadInput, match="no energy of its blocks"):
        nas.energy(tiny, LatencyTable(device=device, rows=rows))
    rows["energy_mj"] = np.arange(1.0, len(rows) + 1)
    energy = nas.energy(tiny, LatencyTable(device=device, rows=rows), name="board_mj")
    archs = tiny.sample(10, np.random.default_rng(0))
    expected = [sum(tiny.blocks.index(b) + 1 for b in blocks) for blocks in tiny.networks(archs)]
    assert np.allclose(energy(archs), expected)
    assert (energy.name, energy.unit) == ("board_mj", "mJ")


def test_predicted_learns_from_a_search(tiny):
    quality = Objective(name="quality", fn=lambda a: nas.params(tiny)(a) / 1000, maximize=True, cheap=False)
    result = nas.search(tiny, [quality, nas.macs(tiny)], nas.RandomSearch(tiny), budget=60)
    guess = nas.predicted(result, quality)
    assert guess.cheap
    assert guess.maximize
    archs = tiny.sample(200, np.random.default_rng(5))
    assert np.corrcoef(guess(archs), quality(archs))[0, 1] > 0.95
    last = nas.predicted(result, quality, most=25)(archs)
    assert np.array_equal(last, nas.predicted(result[-25:], quality)(archs))
    assert not np.array_equal(last, guess(archs))
    with pytest.raises(BadInput, match="at least 20 evaluated"):
        nas.predicted(result[:10], quality)
