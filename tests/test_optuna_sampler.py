"""Optuna behind the searcher interface (its laws are in test_searchers.py), and searches as studies."""

import io
import json
import logging
import sys

import numpy as np
import optuna
import pytest

import nas
from nas.engine.loop import search
from nas.engine.optuna_study import to_optuna
from nas.errors import BadInput
from nas.objectives import Objective
from nas.searchers.optuna_tpe import OptunaSearch
from nas.searchers.random import RandomSearch
from nas.searchers.searcher import identity_of
from nas.space import Choice, SearchSpace
from search_spaces import MobileNetV3

SPACE = MobileNetV3.digits()
MACS = nas.macs(SPACE)
SAMPLERS = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, n_startup_trials=5),
    "nsga3": lambda seed: optuna.samplers.NSGAIIISampler(seed=seed, population_size=8),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "qmc": lambda seed: optuna.samplers.QMCSampler(seed=seed),
}


def quality(archs):
    if archs[0].sum() % 6 == 0:
        raise ValueError("does not fit")
    return archs.sum(axis=1) / 10.0


QUALITY = Objective(name="quality", fn=quality, maximize=True, cheap=False)


@pytest.fixture
def log():
    """What reaches the handlers of Optuna's logger, whose own handler writes to the terminal."""
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logger = logging.getLogger("optuna")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield records
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.mark.parametrize("name", SAMPLERS)
def test_any_sampler_drives_a_search_in_silence(name, log, tmp_path):
    result = search(SPACE, [QUALITY, MACS], OptunaSearch(SPACE, SAMPLERS[name], seed=1), budget=30)
    assert len(result) == 30
    assert (result.error != "").any()
    to_optuna(result, tmp_path / "search.db")
    assert log == []
    optuna.create_study()  # the user's own studies are as loud as before
    assert len(log) == 1


class Notes(optuna.samplers.RandomSampler):
    """A sampler that keeps what the study knows of finished trials."""

    def after_trial(self, study, trial, state, values):
        super().after_trial(study, trial, state, values)
        self.seen = getattr(self, "seen", {}) | {trial.number: (state.name, values, trial)}


def watched(space=SPACE):
    samplers = []

    def make(seed):
        samplers.append(Notes(seed=seed))
        return samplers[-1]

    searcher = OptunaSearch(space, make, seed=0)
    return searcher, lambda: list(samplers[-1].seen.values())


def test_trials_have_the_genes_that_have_an_effect_as_indices():
    choices = [Choice("depth", (1, 2, 4)), Choice("act", ("relu", "silu")), Choice("kernel", (3, 5), ("depth", (2, 4)))]
    space = SearchSpace("small", choices, ())
    searcher, finished = watched(space)
    for _ in range(3):
        archs = searcher.ask(3)
        searcher.tell(archs, archs[:, :1].astype(float), np.zeros(len(archs)))
    trials = [trial for _, _, trial in finished()]
    assert {len(t.params) for t in trials} == {2, 3}
    for trial in trials:
        assert ("kernel" in trial.params) == (trial.params["depth"] > 0)
        assert trial.distributions["depth"] == optuna.distributions.IntDistribution(0, 2)
        assert trial.distributions["act"] == optuna.distributions.CategoricalDistribution((0, 1))


def test_what_the_sampler_is_told_of_failures_violations_and_strangers():
    searcher, finished = watched()
    archs = np.unique(SPACE.sample(6, np.random.default_rng(0)), axis=0)
    costs = np.array([[1.0, 5.0], [np.nan, 2.0], [3.0, 4.0], [np.nan, 1.0], [2.0, np.inf], [0.0, 7.0]])
    searcher.tell(archs[::-1], costs[::-1], np.array([0, 0, 0.5, 0.25, 0, np.nan])[::-1])
    searcher.tell(archs, costs + 1, np.ones(6))  # told again: the first result counts
    states = [(state, values, trial.constraints["violation"]) for state, values, trial in finished()][::-1]
    assert states == [
        ("COMPLETE", [1.0, 5.0], 0.0),
        ("FAIL", None, 0.0),
        ("COMPLETE", [3.0, 4.0], 0.5),
        ("COMPLETE", [3.0, 1.0], 0.25),  # ruled out before it was evaluated: the worst cost known stands in
        ("FAIL", None, 0.0),
        ("COMPLETE", [0.0, 7.0], 0.0),
    ]


def test_a_genetic_sampler_takes_strangers_as_parents():
    def make(seed):
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=8, mutation_prob=0.0)

    searcher = OptunaSearch(SPACE, make, seed=0)
    archs = SPACE.sample(400, np.random.default_rng(0))
    archs = np.unique(archs[archs[:, 0] == 0], axis=0)[:8]
    searcher.tell(archs, np.arange(16.0).reshape(8, 2), np.zeros(8))
    assert (searcher.ask(6)[:, 0] == 0).all()


@pytest.mark.parametrize("name", ["tpe", "nsga3"])
def test_constraints_reach_the_sampler(name):
    """Also where a cheap constraint rules networks out before they are evaluated."""
    limit = np.quantile(MACS(SPACE.sample(1000, np.random.default_rng(0))), 0.05)
    searcher = OptunaSearch(SPACE, SAMPLERS[name], seed=0)
    feasible = []
    for _ in range(20):
        archs = searcher.ask(10)
        violation = np.maximum(MACS(archs) / limit - 1, 0)
        searcher.tell(archs, np.where(violation > 0, np.nan, archs.sum(axis=1))[:, None], violation)
        feasible += (violation == 0).tolist()
    assert np.mean(feasible[100:]) > 0.25  # luck: 0.05


class Stubborn(optuna.samplers.RandomSampler):
    """Proposes the same network for ever."""

    def sample_independent(self, study, trial, name, distribution):
        return distribution.choices[0] if hasattr(distribution, "choices") else distribution.low


def test_a_sampler_that_repeats_itself_does_not_hold_up_a_search():
    searcher = OptunaSearch(SPACE, lambda seed: Stubborn(seed=seed), seed=0)
    searcher.tell(SPACE.sample(1, np.random.default_rng(0)), np.ones((1, 1)), np.zeros(1))
    first, second = searcher.ask(8), searcher.ask(8)
    assert first[0].tolist() == [0] * SPACE.genes
    assert len(np.unique(np.vstack([first, second]), axis=0)) == 16


def test_an_exhausted_space_ends_at_once():
    space = SearchSpace("small", [Choice("a", (1, 2, 3)), Choice("b", (1, 2), ("a", (3,)))], ())
    searcher = OptunaSearch(space, seed=0)
    archs = searcher.ask(10)
    assert len(archs) == space.size == 4
    assert searcher.ask(3).shape == (0, 2)  # all are under way
    searcher.tell(archs, np.ones((4, 1)), np.zeros(4))
    assert searcher.ask(3).shape == (0, 2)


@pytest.mark.parametrize("name", ["gp", "qmc", "nsga3"])
def test_asks_repeat(name):
    make = {**SAMPLERS, "gp": lambda seed: optuna.samplers.GPSampler(seed=seed, n_startup_trials=6)}[name]
    small = SearchSpace("small", [Choice(name, (1, 2, 3, 4)) for name in "abc"], ())

    def play(searcher):
        rows = []
        for n in (4, 4, 2):  # a process is fitted for each of the last two
            archs = searcher.ask(n)
            searcher.tell(archs[::-1], archs[::-1].sum(axis=1, keepdims=True).astype(float), np.zeros(n))
            rows.append(archs)
        return np.vstack(rows)

    searcher = OptunaSearch(small, make, seed=3)
    first = play(searcher)
    searcher.reset(3)
    assert (play(searcher) == first).all()
    assert (play(OptunaSearch(small, make, seed=4)) != first).any()


def test_the_ledger_tells_settings_of_a_sampler_apart():
    described = [
        identity_of(OptunaSearch(SPACE, lambda seed, n=n: optuna.samplers.NSGAIISampler(seed=seed, population_size=n)))
        for n in (8, 16)
    ]
    assert described[0] != described[1]
    assert described[0]["sampler"] == "NSGAIISampler"
    assert json.loads(json.dumps(described)) == described


@pytest.mark.parametrize(
    ("sampler", "says"),
    [
        (optuna.samplers.TPESampler, r"got TPESampler; write lambda seed: TPESampler\(seed=seed\)"),
        (lambda seed: seed, "gives an Optuna sampler, got int"),
    ],
)
def test_samplers_that_are_none(sampler, says):
    with pytest.raises(BadInput, match=says):
        OptunaSearch(SPACE, sampler)


def test_a_sampler_that_cannot_do_it_says_so_in_one_line():
    grid = OptunaSearch(SPACE, lambda seed: optuna.samplers.GridSampler({"width": [0, 1]}, seed=seed))
    with pytest.raises(
        BadInput, match=r"cannot run this search: The parameter name, .* is not found in the given grid"
    ):
        search(SPACE, [MACS], grid, budget=200)


def test_the_number_of_objectives_stays():
    searcher = OptunaSearch(SPACE)
    searcher.tell(searcher.ask(1), np.ones((1, 2)), np.zeros(1))
    with pytest.raises(BadInput, match="has 2 objectives, got 3 costs"):
        searcher.tell(searcher.ask(1), np.ones((1, 3)), np.zeros(1))


def test_a_finished_search_is_a_study(tmp_path):
    result = search(SPACE, [QUALITY, MACS], RandomSearch(SPACE, seed=0), budget=40)
    path = to_optuna(result, tmp_path / "search.db")
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{path}")
    assert len(study.trials) == 40
    assert study.metric_names == ["quality", "macs"]
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    failed = [t for t in study.trials if t.state.name == "FAIL"]
    assert len(failed) == (result.error != "").sum() > 0
    assert "does not fit" in failed[0].user_attrs["error"]
    ours = {tuple(v) for v in result.front.values}
    assert {tuple(t.values) for t in study.best_trials} == ours
    for trial, config in zip(study.trials, SPACE.decode(result.archs), strict=True):
        assert trial.params == config
    study._storage.remove_session()


def test_optuna_dashboard_opens_it(tmp_path):
    dashboard = pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed")
    result = search(SPACE, [QUALITY, MACS], RandomSearch(SPACE, seed=0), budget=10)
    storage = optuna.storages.RDBStorage(f"sqlite:///{to_optuna(result, tmp_path / 'search.db')}")
    answer = {}
    environment = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/api/studies",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.url_scheme": "http",
    }
    body = dashboard.wsgi(storage)(environment, lambda status, headers, trouble=None: answer.update(status=status))
    studies = json.loads(b"".join(body))["study_summaries"]
    assert answer["status"].startswith("200")
    assert [s["study_name"] for s in studies] == ["search"]
    storage.remove_session()


def test_a_study_is_not_overwritten(tmp_path):
    result = search(SPACE, [QUALITY, MACS], RandomSearch(SPACE, seed=0), budget=5)
    to_optuna(result, tmp_path / "search.db")
    with pytest.raises(BadInput, match="already has a study called 'search'"):
        to_optuna(result, tmp_path / "search.db")
    to_optuna(result, tmp_path / "search.db", name="second")


def test_violations_and_single_objectives_in_a_study(tmp_path):
    bounded = Objective(name="size", fn=MACS.fn, cheap=False)
    limit = float(np.median(MACS(SPACE.sample(300, np.random.default_rng(0)))))
    result = search(SPACE, [QUALITY], RandomSearch(SPACE, seed=0), budget=30, constraints=[bounded <= limit])
    path = to_optuna(result, tmp_path / "new" / "folder" / "search.db", name="bounded")
    study = optuna.load_study(study_name="bounded", storage=f"sqlite:///{path}")
    kept = result.error == ""
    told = np.array([t.constraints["violation"] for t in study.trials])
    assert told[kept] == pytest.approx(result.violation[kept])
    assert (told > 0).any()
    assert study.best_trial.params in SPACE.decode(result.front.archs)
    study._storage.remove_session()


def test_a_file_that_cannot_hold_a_study_is_left_alone(tmp_path):
    result = search(SPACE, [QUALITY, MACS], RandomSearch(SPACE, seed=0), budget=5)
    text = tmp_path / "notes.txt"
    text.write_text("not a database " * 100)
    for path in (text, tmp_path, text / "search.db"):
        with pytest.raises(BadInput, match="cannot write ") as caught:
            to_optuna(result, path)
        assert "\n" not in str(caught.value)
    assert text.read_text() == "not a database " * 100
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
