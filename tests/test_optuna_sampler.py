"""Optuna behind the searcher interface (its laws are in test_searchers.py), and searches as studies."""

import io
import json
import logging
import sys

import numpy as np
import optuna
import pytest

import nas
from nas.errors import BadInput, MissingPackage
from nas.objectives import Objective
from nas.search import RandomSearch, search
from nas.search.optuna_sampler import OptunaSearch, to_optuna
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


@pytest.mark.parametrize("name", SAMPLERS)
def test_any_sampler_drives_a_search(name, capsys, caplog):
    before = optuna.logging.get_verbosity()
    with caplog.at_level(logging.DEBUG):
        result = search(SPACE, [QUALITY, MACS], OptunaSearch(SPACE, SAMPLERS[name], seed=1), budget=30)
    assert len(result) == 30
    assert (result.error != "").any()
    assert capsys.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == before


def test_single_objective_samplers_work_on_one_objective():
    make = {
        "cma": lambda seed: optuna.samplers.CmaEsSampler(seed=seed),
        "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
    }
    pytest.importorskip("cmaes", reason="CMA-ES needs the package cmaes")
    result = search(SPACE, [MACS], OptunaSearch(SPACE, make["cma"], seed=0), budget=20, batch=5)
    assert len(result) == 20


def test_constraints_reach_the_sampler():
    limit = float(np.median(MACS(SPACE.sample(300, np.random.default_rng(0)))))
    bounded = Objective(name="size", fn=MACS.fn, cheap=False)
    result = search(SPACE, [QUALITY], OptunaSearch(SPACE, seed=0), budget=60, constraints=[bounded <= limit])
    feasible = result.violation <= 0
    assert feasible[30:].mean() >= feasible[:15].mean()


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


def test_without_optuna_one_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingPackage, match=r"pip install 'nas\[optuna\]'"):
        OptunaSearch(SPACE)
