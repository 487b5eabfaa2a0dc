"""The exact oracle against brute force over all 96 networks of a tiny space, and chance constraints."""

import dataclasses
from statistics import NormalDist

import numpy as np
import pytest

import nas
from nas.blocks import Stem
from nas.errors import BadInput, Infeasible
from nas.objectives import additive
from nas.pareto import non_dominated
from nas.searchers.exact import _worth_keeping, exact_best, exact_front, largest_within
from nas.space import Choice, SearchSpace, Slot
from nas.tables.table import LatencyTable
from search_spaces import MobileNetV3

TABLE = "latency_tables/amd-epyc_onnxruntime_int8_mobilenet_v3_digits"


def everything(space):
    grid = np.indices(tuple(space.sizes)).reshape(space.genes, -1).T.astype(np.uint8)
    return np.unique(space.canonical(grid), axis=0)


def random_sums(space, k, seed, *, levels=None):
    rng = np.random.default_rng(seed)
    made = []
    for i in range(k):
        values = rng.random(len(space.blocks)) if levels is None else rng.integers(1, levels, len(space.blocks))
        made.append(dataclasses.replace(additive(space, f"sum{i}", values), maximize=i == 1))
    return made


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("levels", [None, 4])  # with few levels there are many ties
@pytest.mark.parametrize("seed", range(4))
def test_the_front_is_that_of_all_networks(tiny, k, levels, seed):
    objectives = random_sums(tiny, k, seed, levels=levels)
    front = exact_front(tiny, objectives)
    sign = np.array([-1.0 if o.maximize else 1.0 for o in objectives])
    all_costs = np.column_stack([o(everything(tiny)) for o in objectives]) * sign
    true = np.unique(all_costs[non_dominated(all_costs)].round(9), axis=0)
    assert np.allclose(np.unique((front.values * sign).round(9), axis=0), true)
    assert np.allclose(front.values, np.column_stack([o(front.archs) for o in objectives]))


@pytest.mark.parametrize("seed", range(4))
def test_the_constrained_optimum_is_that_of_all_networks(tiny, seed):
    first, second = random_sums(tiny, 2, seed)
    first = dataclasses.replace(first, maximize=True)
    second = dataclasses.replace(second, maximize=False)
    values, bounded = first(everything(tiny)), second(everything(tiny))
    limit = float(np.quantile(bounded, 0.3))
    arch, best = exact_best(tiny, first, second <= limit)
    assert best == pytest.approx(values[bounded <= limit].max())
    assert first(arch[None])[0] == pytest.approx(best)
    for constraint, nearest in ((second <= bounded.min() * 0.9, bounded.min()), (first >= 99, values.max())):
        with pytest.raises(Infeasible, match=f"the nearest value that can be met is {nearest:.6g}$"):
            exact_best(tiny, first, constraint)


def test_the_largest_network_within_each_limit_is_that_of_all_networks(tiny):
    size, cost = (dataclasses.replace(o, maximize=False) for o in random_sums(tiny, 2, 3))
    sizes, costs = size(everything(tiny)), cost(everything(tiny))
    limits = np.quantile(costs, (0.9, 0.1, 0.5, 0.5))
    found = largest_within(tiny, size, cost, limits, tolerance=0.0)
    assert size(found) == pytest.approx([sizes[costs <= limit].max() for limit in sorted(set(limits))])
    ends = largest_within(tiny, size, cost, 2)
    assert cost(ends[:1]) == pytest.approx(costs.min())
    assert size(ends[1:]) == pytest.approx(sizes.max())
    with pytest.raises(Infeasible, match=f"the least is {costs.min():.6g}$"):
        largest_within(tiny, size, cost, limits * 0)


def test_a_tolerance_is_kept(tiny):
    objectives = random_sums(tiny, 2, 0)
    exact = exact_front(tiny, objectives)
    rough = exact_front(tiny, objectives, tolerance=0.05)
    span = np.array([o.extremes.maximum - o.extremes.minimum for o in objectives])
    sign = np.array([1.0, -1.0])
    assert len(rough.archs) <= len(exact.archs)
    for point in exact.values * sign:
        assert ((rough.values * sign <= point + 0.05 * span + 1e-9).all(axis=1)).any()


def test_of_what_is_merged_the_best_in_the_last_objective_is_kept():
    points = np.array([[0.1, 0.2, 5.0], [0.2, 0.1, 3.0], [0.3, 0.3, 4.0], [1.5, 0.5, 1.0]])
    assert _worth_keeping(points, np.array([1.0, 1.0, 1.0])).tolist() == [False, True, False, True]
    assert _worth_keeping(points, np.zeros(3)).tolist() == [True, True, False, True]
    apart = np.array([[0.2, 0.6, 3.0], [0.3, 0.1, 4.0]])  # in two cells of the second objective
    assert _worth_keeping(apart, np.array([1.0, 0.5, 1.0])).tolist() == [True, True]


def test_a_constraint_against_the_direction_of_its_objective_is_refused(tiny):
    first, second = random_sums(tiny, 2, 0)  # the second is maximised
    with pytest.raises(BadInput, match="sum1 against its own direction"):
        exact_best(tiny, first, second <= 3.0)
    with pytest.raises(BadInput, match="against its own direction"):
        exact_best(tiny, second, first >= 3.0)
    least = float(np.median(second(everything(tiny))))
    _, best = exact_best(tiny, first, second >= least)
    values, bounded = first(everything(tiny)), second(everything(tiny))
    assert best == pytest.approx(values[bounded >= least].min())
    # on the objective itself both directions are fine
    assert exact_best(tiny, first, first >= values.min())[1] == pytest.approx(values.min())


def test_no_search_beats_it():
    space = MobileNetV3.digits()
    latency = nas.latency(space, LatencyTable.load(TABLE))
    size = dataclasses.replace(nas.params(space), maximize=True)
    front = exact_front(space, [size, latency])
    found = nas.search(space, [size, latency], budget=3000, seed=0)
    costs = np.vstack([front.values * [-1, 1], found.costs])
    best = np.unique(costs[non_dominated(costs)].round(9), axis=0)
    assert len(best) == len(np.unique((front.values * [-1, 1]).round(9), axis=0))


def test_what_is_not_a_sum_is_refused(tiny):
    with pytest.raises(BadInput, match="not a sum over blocks"):
        exact_front(tiny, [nas.macs(tiny), nas.peak_memory(tiny)])
    with pytest.raises(BadInput, match="give a tolerance"):
        exact_front(MobileNetV3.digits(), random_sums(MobileNetV3.digits(), 2, 0), most=3)


def test_as_many_partial_networks_as_allowed_may_be_kept():
    stem = Slot("stem", ("width",), lambda width: Stem(in_ch=1, out_ch=width, size=8))
    space = SearchSpace("three", [Choice("width", (8, 16, 24))], [stem])
    small = nas.params(space)
    objectives = [small, dataclasses.replace(small, name="large", maximize=True)]
    assert len(exact_front(space, objectives, most=3).archs) == 3
    with pytest.raises(BadInput, match="more than 2 partial networks"):
        exact_front(space, objectives, most=2)


def test_a_chance_constraint_is_the_probability_it_says():
    space = MobileNetV3.digits()
    table = LatencyTable.load(TABLE)
    expected, sure = nas.latency(space, table), nas.latency(space, table, confidence=0.95)
    arch = space.sample(1, np.random.default_rng(3))
    limit = sure(arch)[0]
    rng = np.random.default_rng(0)
    blocks = space.networks(arch)[0]
    draws = table.lookup(blocks)[:, None] + table.spread(blocks)[:, None] * rng.normal(size=(len(blocks), 200_000))
    whole = draws.sum(axis=0) + table.fixed_ms + table.relative_error * expected(arch)[0] * rng.normal(size=200_000)
    assert (whole <= limit).mean() == pytest.approx(0.95, abs=0.003)
    assert sure(arch)[0] > expected(arch)[0]
    assert nas.latency(space, table, confidence=0.5)(arch)[0] == pytest.approx(expected(arch)[0])


def test_the_optimum_under_a_chance_constraint():
    space = MobileNetV3.digits()
    table = LatencyTable.load(TABLE)
    expected, sure = nas.latency(space, table), nas.latency(space, table, confidence=0.95)
    size = dataclasses.replace(nas.params(space), maximize=True)
    arch, best = exact_best(space, size, sure <= 0.03)
    assert sure(arch[None])[0] <= 0.03
    sample = space.sample(200_000, np.random.default_rng(0))
    assert best >= size(sample)[sure(sample) <= 0.03].max()
    assert best <= exact_best(space, size, expected <= 0.03)[1]


def test_confidence_and_validation_are_checked():
    space = MobileNetV3.digits()
    table = LatencyTable.load(TABLE)
    with pytest.raises(BadInput, match=r"from 0.5 to below 1 or None, got 95"):
        nas.latency(space, table, confidence=95)
    bare = dataclasses.replace(table, validation=None)
    with pytest.raises(BadInput, match="nothing is known of the error"):
        nas.latency(space, bare)
    assert (nas.latency(space, bare, unvalidated=True)(space.sample(3, np.random.default_rng(0))) > 0).all()
    with pytest.raises(BadInput, match="has no validation"):
        nas.latency(space, bare, confidence=0.9, unvalidated=True)
    assert NormalDist().inv_cdf(0.5) == 0
