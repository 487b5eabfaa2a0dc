"""Dominance and hypervolume against brute force, pymoo and moocore."""

from __future__ import annotations

import itertools
import time

import moocore
import numpy as np
import pytest
from pymoo.indicators.hv import HV

from nas.errors import BadInput
from nas.pareto import crowding_distance, hypervolume, hypervolume_history, non_dominated, rank


def dominates(a, b):
    return (a <= b).all() and (a < b).any()


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_non_dominated_equals_the_definition(k):
    rng = np.random.default_rng(k)
    corners = np.array(list(itertools.product((-np.inf, -1.0, 1.0, np.inf), repeat=k)))
    for costs in [corners, *(rng.integers(0, 4, (30, k)).astype(float) for _ in range(50)), rng.random((200, k))]:
        expected = [not any(dominates(other, row) for other in costs) for row in costs]
        assert non_dominated(costs).tolist() == expected


def test_large_sets_give_what_small_ones_do():
    # more rows than are compared at a time, with ties; moocore is the judge
    costs = np.random.default_rng(0).integers(0, 40, (5000, 3)).astype(float)
    assert np.array_equal(non_dominated(costs), moocore.is_nondominated(costs, keep_weakly=True))


def test_rows_with_nan_are_never_on_the_front():
    assert non_dominated([[np.nan, 0.0], [1.0, 1.0], [0.0, np.nan]]).tolist() == [False, True, False]
    assert rank([[np.nan, 0.0], [1.0, 1.0], [2.0, 2.0]]).tolist() == [3, 0, 1]
    assert not non_dominated(np.empty((0, 2))).any()


@pytest.mark.parametrize("k", [2, 3])
def test_rank_peels_fronts(k):
    costs = np.random.default_rng(0).integers(0, 6, (80, k)).astype(float)
    ranks = rank(costs)
    for i, row in enumerate(costs):
        above = [ranks[j] for j, other in enumerate(costs) if dominates(other, row)]
        assert ranks[i] == (max(above) + 1 if above else 0)


def test_crowding_distance_by_hand():
    costs = np.array([[0.0, 4.0], [1.0, 2.0], [3.0, 1.0], [4.0, 0.0], [1.0, 2.0]])
    distance = crowding_distance(costs)
    assert np.isinf(distance[[0, 3]]).all()
    assert distance[1] + distance[4] == pytest.approx(3 / 4 + 3 / 4)
    assert distance[2] == pytest.approx(3 / 4 + 2 / 4)


@pytest.mark.parametrize("k", [2, 3])
def test_hypervolume_equals_pymoo_and_moocore_on_1000_fronts(k):
    rng = np.random.default_rng(k)
    for i in range(500):
        points = rng.random((rng.integers(1, 25), k)) if i % 2 else rng.integers(0, 7, (rng.integers(1, 25), k)) / 6.0
        reference = np.full(k, rng.choice([0.6, 1.0, 1.1]))
        expected = moocore.hypervolume(points, ref=reference)
        assert hypervolume(points, reference) == pytest.approx(expected, abs=1e-12)
        assert HV(ref_point=reference)(points) == pytest.approx(hypervolume(points, reference), abs=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_history_is_the_hypervolume_of_every_prefix(k):
    points = np.random.default_rng(0).random((60, k))
    points[::7] = np.nan
    history = hypervolume_history(points, np.ones(k))
    assert history == pytest.approx([hypervolume(points[: i + 1], np.ones(k)) for i in range(60)])
    assert (np.diff(history) >= 0).all()


def test_bad_input_is_refused():
    with pytest.raises(BadInput, match="1 to 3 objectives"):
        hypervolume([[0.0] * 4], [1.0] * 4)
    with pytest.raises(BadInput, match="1 to 3 objectives"):
        hypervolume(np.empty((0, 4)), [1.0] * 4)
    for reference in ([1.0], 1.0, [1.0, np.nan]):
        with pytest.raises(BadInput, match="reference of shape"):
            hypervolume([[0.0, 0.0]], reference)
        with pytest.raises(BadInput, match="reference of shape"):
            hypervolume_history([[0.0, 0.0]], reference)
    with pytest.raises(BadInput, match="shape"):
        non_dominated([1.0, 2.0])


@pytest.mark.parametrize("k", [1, 2, 3])
def test_history_with_ties_infinities_and_points_outside_equals_moocore(k):
    rng = np.random.default_rng(k)
    for _ in range(40):
        points = rng.integers(0, 6, (25, k)) / 5.0
        points[rng.random(points.shape) < 0.05] = np.inf
        history = hypervolume_history(points, np.full(k, 0.9))
        assert (np.diff(history) >= 0).all()
        for i in range(len(points)):
            finite = points[: i + 1][np.isfinite(points[: i + 1]).all(axis=1)]
            inside = finite[(finite < 0.9).all(axis=1)]
            # moocore wants at least two objectives
            expected = 0.9 - inside.min(initial=0.9) if k == 1 else moocore.hypervolume(finite, ref=[0.9] * k)
            assert history[i] == pytest.approx(expected, abs=1e-12)


def test_a_history_in_which_every_row_joins_the_front_takes_no_quadratic_time():
    x = np.random.default_rng(0).permutation(20_000) / 20_000
    started = time.perf_counter()
    history = hypervolume_history(np.column_stack([x, 1 - x]), [1.0, 1.0])
    assert time.perf_counter() - started < 5  # 0.05 s; 80 s when each row costs a pass over the front
    assert history[-1] == pytest.approx(hypervolume(np.column_stack([x, 1 - x]), [1.0, 1.0]))
