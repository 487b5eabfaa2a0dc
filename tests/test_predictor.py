"""The predictor, and the acquisition that is built on it, against simulation."""

import numpy as np
import pytest

import nas
from nas.errors import BadInput
from nas.objectives import Objective
from nas.objectives.predictor import Predictor
from nas.pareto import hypervolume, non_dominated
from nas.searchers.acquisition import RESOLUTION, JointPosterior, Models, Scale
from nas.space import Choice, SearchSpace
from search_spaces import MobileNetV3, NasBench201

SPACE = MobileNetV3.digits()
ARCHS = SPACE.sample(400, np.random.default_rng(0))
VALUES = np.log(nas.macs(SPACE)(ARCHS)) + 0.01 * np.random.default_rng(1).normal(size=400)


def test_it_predicts_and_its_intervals_hold():
    mean, std = Predictor(SPACE, ARCHS[:120], VALUES[:120]).predict(ARCHS[120:])
    error = mean - VALUES[120:]
    assert error.std() < 0.1 * VALUES.std()
    assert 0.8 < (np.abs(error) < 1.645 * std).mean() <= 1


def test_inactive_genes_do_not_matter():
    predictor = Predictor(SPACE, ARCHS[:60], VALUES[:60])
    loose = ARCHS[60:160].copy()
    inactive = ~SPACE.active(loose)
    assert inactive.any()
    loose[inactive] = 1
    for a, b in zip(predictor.predict(ARCHS[60:160]), predictor.predict(loose), strict=True):
        assert np.array_equal(a, b)


def test_observing_a_mean_keeps_means_and_shrinks_uncertainty_nearby():
    posterior = Predictor(SPACE, ARCHS[:60], VALUES[:60]).posterior(ARCHS[60:])
    mean, before = posterior.mean.copy(), posterior.std.copy()
    posterior.observe(7)
    assert np.array_equal(posterior.mean, mean)
    assert (posterior.std <= before + 1e-12).all()
    assert posterior.std[7] < before[7]


def test_the_space_s_own_features_are_seen():
    cell = NasBench201.cell()
    blind = SearchSpace("blind", cell.choices, ())
    archs = cell.sample(300, np.random.default_rng(0))
    live = cell.features(archs)[:, -2]  # 3x3 convolutions on a path from input to output
    errors = {
        name: np.abs(Predictor(space, archs[:100], live[:100]).predict(archs[100:])[0] - live[100:]).mean()
        for name, space in (("cell", cell), ("blind", blind))
    }
    assert errors["cell"] < 0.5 * errors["blind"]


@pytest.mark.parametrize("values", [[1.0] * 3, [1.0, 2.0, 3.0, np.nan], [[1.0]] * 4])
def test_too_few_or_bad_values(values):
    with pytest.raises(BadInput, match="one finite value for each of at least 4"):
        Predictor(SPACE, ARCHS[: len(values)], values)


def test_equal_values_are_no_trouble():
    mean, std = Predictor(SPACE, ARCHS[:20], np.ones(20)).predict(ARCHS[20:30])
    assert np.allclose(mean, 1.0, atol=1e-6)
    assert np.isfinite(std).all()


class Independent:
    """A posterior of independent normals."""

    def __init__(self, mean, std):
        self.mean, self.std = mean, std

    def observe(self, row):
        self.std[row] = 1e-9


@pytest.mark.parametrize("known", [False, True])
def test_expected_hypervolume_improvement_is_what_simulation_says(known):
    rng = np.random.default_rng(0)
    front = np.array([[0.0, 1.0], [0.2, 0.5], [0.7, 0.1], [1.0, 0.0]])
    reference = np.array([1.5, 1.4])
    mean, std = np.log(rng.uniform(0.1, 1.1, (6, 2))), rng.uniform(0.1, 0.6, (6, 2))
    exact = np.exp(mean) - RESOLUTION
    modelled = {0: Independent(mean[:, 0], std[:, 0])} | ({} if known else {1: Independent(mean[:, 1], std[:, 1])})
    posterior = JointPosterior(exact=exact, modelled=modelled, likely=np.ones(6))
    gains = posterior.expected_gain(np.arange(6), front, reference, rng)
    base = hypervolume(front, reference)
    for row in range(6):
        draws = np.exp(mean[row] + std[row] * rng.normal(size=(4000, 2))) - RESOLUTION
        if known:
            draws[:, 1] = exact[row, 1]
        simulated = np.mean([hypervolume(np.vstack([front, d]), reference) - base for d in draws])
        assert gains[row] == pytest.approx(simulated, rel=0.08, abs=2e-3)


def test_with_three_costs_the_gain_is_the_expected_fall_of_a_scalarised_cost():
    rng = np.random.default_rng(0)
    front = np.array([[0.2, 0.6, 0.5], [0.6, 0.2, 0.5], [0.5, 0.5, 0.2]])
    mean, std = np.log(rng.uniform(0.05, 0.8, (8, 3)) + RESOLUTION), np.full((8, 3), 0.05)
    mean[0], mean[1] = np.log(0.05 + RESOLUTION), np.log(0.9 + RESOLUTION)  # better and worse than all of the front
    exact = np.exp(mean) - RESOLUTION
    modelled = {i: Independent(mean[:, i], std[:, i]) for i in (0, 2)}  # the second is known
    posterior = JointPosterior(exact=exact, modelled=modelled, likely=np.ones(8))
    gains = posterior.expected_gain(np.arange(8), front, np.full(3, 1.5), np.random.default_rng(3))
    weights = np.random.default_rng(3).dirichlet(np.ones(3))

    def scalar(costs):
        return (weights * costs).max(axis=-1) + 0.05 * (weights * costs).sum(axis=-1)

    draws = np.exp(mean + std * rng.normal(size=(4000, 8, 3))) - RESOLUTION
    draws[:, :, 1] = exact[:, 1]
    simulated = np.maximum(scalar(front).min() - scalar(draws), 0).mean(axis=0)
    assert gains == pytest.approx(simulated, abs=0.01)
    assert gains[0] > 0.1
    assert gains[1] == 0


def test_what_is_unlikely_to_meet_the_constraints_gains_less():
    mean = np.log(np.array([[0.3, 0.3], [0.35, 0.35]]) + RESOLUTION)
    front, reference = np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([1.2, 1.2])

    def first(likely):
        modelled = {i: Independent(mean[:, i], np.full(2, 0.05)) for i in range(2)}
        posterior = JointPosterior(exact=np.zeros((2, 2)), modelled=modelled, likely=np.array(likely))
        return posterior.pick(1, 2, front, reference, np.random.default_rng(0))[0]

    assert [first([1.0, 1.0]), first([0.1, 1.0])] == [0, 1]


def test_a_batch_spreads_out():
    rng = np.random.default_rng(0)
    mean = np.log(np.array([[0.3, 0.3], [0.3, 0.3], [0.05, 0.9]]) + RESOLUTION)
    modelled = {i: Independent(mean[:, i], np.full(3, 0.05)) for i in range(2)}
    posterior = JointPosterior(exact=np.zeros((3, 2)), modelled=modelled, likely=np.ones(3))
    front = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert set(posterior.pick(2, 3, front, np.array([1.2, 1.2]), rng)[:2]) != {0, 1}  # the same point twice adds little


def test_a_known_objective_that_fails_is_no_candidate():
    fails = Objective(name="fails", fn=lambda a: np.where(a[:, 0] == 0, np.nan, 1.0))
    scale = Scale.of(np.array([[0.0, 2.0], [1.0, 1.0]]))
    predictor = Predictor(SPACE, ARCHS[:20], VALUES[:20])
    posterior = Models(scale=scale, predictors={0: predictor}, known={1: fails}).posterior(ARCHS)
    assert (posterior.optimistic(1.0)[ARCHS[:, 0] == 0, 1] > 1e3).all()


def test_the_scale_reaches_beyond_the_front():
    costs = np.array([[0.0, 10.0], [1.0, 5.0], [3.0, 100.0]])
    scale = Scale.of(costs)
    assert non_dominated(costs).tolist() == [True, True, False]
    assert (scale.normalised(costs[:2]) == [[0, 1], [1, 0]]).all()
    assert (scale.reference == [1.5, 1.5]).all()


def test_features_of_choices_with_one_value():
    single = SearchSpace("single", [Choice("a", (1,)), Choice("b", (1, 2, 3)), Choice("c", ("x", "y"))], ())
    archs = single.sample(12, np.random.default_rng(0))
    mean, _ = Predictor(single, archs, archs[:, 1].astype(float)).predict(archs)
    assert np.abs(mean - archs[:, 1]).max() < 0.2
