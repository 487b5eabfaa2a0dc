"""Trials of sweeps. They lie apart from their tests so that the processes that run them need not import torch."""

from __future__ import annotations

import os
import signal
import time

import numpy as np

from nas.engine.loop import search
from nas.objectives import Objective, macs
from nas.searchers.random import RandomSearch
from search_spaces import EfficientNet

SPACE = EfficientNet.digits()


def small_search(settings, run_dir, report):
    """30 networks; ``pause``: seconds per evaluation. Every evaluation leaves a line in ``<sweep folder>/calls``."""

    def score(archs):
        time.sleep(settings.get("pause", 0))
        with open(run_dir.parents[1] / "calls", "a") as file:
            file.write(f"{run_dir.name} {archs.tobytes().hex()}\n")
        return archs.sum(axis=1, dtype=np.float64) * settings["weight"]

    objective = Objective(name="score", fn=score, maximize=True, cheap=False, identity=f"score {settings['weight']}")
    searcher = RandomSearch(SPACE, seed=settings["seed"])
    return search(SPACE, [objective, macs(SPACE)], searcher, budget=30, run_dir=run_dir, resume=True)


def unlucky(settings, run_dir, report):
    (run_dir / f"attempt{len(list(run_dir.glob('attempt*')))}").touch()
    attempt = len(list(run_dir.glob("attempt*")))
    if settings["fate"] == "raises":
        raise ValueError("bad luck")
    if settings["fate"] == "raises once" and attempt == 1:
        raise ValueError("bad luck")
    if settings["fate"] == "dies once" and attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if settings["fate"] == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    return {"attempts": attempt}


def training(settings, run_dir, report):
    """Its accuracy grows to ``lr``."""
    with open(run_dir.parents[1] / "trained", "a") as file:
        file.write(f"{settings['lr']}\n")
    for epoch in range(1, 21):
        report({"accuracy": settings["lr"] * epoch / 20, "epoch": epoch})
    return {"test": settings["lr"]}
