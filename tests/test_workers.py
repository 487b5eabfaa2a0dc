"""A training in two processes gives the weights of a training in one."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import some_digits
from torch import distributed, multiprocessing

import nas
from nas.supernet import Supernet
from nas.supernet.strategies import Sandwich
from nas.training.augment import Augment
from nas.training.loop import fit
from nas.training.recipe import Recipe
from nas.training.team import Team

SGD = Recipe(epochs=2, batch_size=16, lr=0.05, mixup=0.2)
IMAGES = 21  # the last batch of an epoch has 5, shared as 3 and 2


def some(data, n):
    return nas.ImageData(
        name="some", classes=data.classes, train=data.train.take(np.arange(n)), val=data.val, test=data.test
    )


def trained(space, recipe, team=None, images=IMAGES, evaluate=None):
    """Supernet and rows after training: in double precision, where a wrong sum cannot hide in rounding."""
    supernet = Supernet(space).double()
    strategy = Sandwich()

    def step(model, x, labels, rng):
        return strategy.step(supernet, x.double(), labels, rng, recipe)

    data = some(some_digits(), images)
    rows = fit(
        supernet, data, recipe, step, size=16, augment=Augment(cutout=0.25), seed=1, team=team, evaluate=evaluate
    )
    return supernet, rows


def of_two(rank, space, recipe, path):
    distributed.init_process_group("gloo", init_method=f"file://{path}.group", rank=rank, world_size=2)
    torch.set_num_threads(1)
    called = []

    def evaluate(epoch):
        called.append(epoch)
        return {"accuracy": 0.5 + rank}

    supernet, rows = trained(space, recipe, Team(), evaluate=evaluate)
    refused = ""
    try:
        trained(space, recipe, Team(), images=17)
    except nas.BadInput as error:
        refused = str(error)
    torch.save((supernet.state_dict(), rows.to_dict("list"), called, refused), f"{path}.{rank}")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def both(tiny, tmp_path_factory):
    """State, rows, evaluated epochs and a refusal, as each of two processes saw them."""
    path = tmp_path_factory.mktemp("two") / "two"
    multiprocessing.spawn(of_two, (tiny, SGD, str(path)), nprocs=2)
    return [torch.load(f"{path}.{rank}", weights_only=True) for rank in (0, 1)]


def test_two_processes_give_the_weights_of_one(tiny, both):
    alone, rows = trained(tiny, SGD)
    start = Supernet(tiny).double().state_dict()
    for state, two_rows, _, _ in both:
        assert two_rows["loss"] == pytest.approx(rows["loss"], rel=1e-6)
        for name, tensor in alone.state_dict().items():
            torch.testing.assert_close(state[name], tensor, rtol=1e-5, atol=1e-9, msg=name)
    moved = [name for name, tensor in alone.state_dict().items() if not torch.equal(tensor, start[name])]
    assert len(moved) > 0.8 * len(start)


def test_processes_stay_equal_and_the_first_one_evaluates(both):
    (first, rows, called, _), (second, other_rows, not_called, _) = both
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (called, not_called) == ([1, 2], [])
    assert rows["accuracy"] == other_rows["accuracy"] == [0.5, 0.5]


def test_a_batch_with_fewer_images_than_workers_is_refused(both):
    assert all("the last batch of an epoch has 1 of 17 images for 2 workers" in refused for *_, refused in both)


def test_train_supernet_in_workers(ray_of_two, tiny, few_digits, tmp_path):
    recipe = Recipe(epochs=2, batch_size=256)  # in single precision every step multiplies what rounding did
    seen = []
    alone = nas.train_supernet(tiny, few_digits, recipe=recipe, run_dir=tmp_path / "one", on_step=seen.append)
    two = nas.train_supernet(
        tiny, few_digits, recipe=recipe, run_dir=tmp_path / "two", workers=2, on_epoch=Note(tmp_path)
    )
    assert len((tmp_path / "noted").read_text().split()) == 2
    assert len(set((tmp_path / "noted").read_text().split()) | {str(os.getpid())}) == 2  # in one other process
    for name, tensor in alone.state_dict().items():
        assert (two.state_dict()[name] - tensor).double().norm() <= 1e-4 * tensor.double().norm() + 1e-5, name
    assert any(not torch.equal(tensor, Supernet(tiny).state_dict()[name]) for name, tensor in two.state_dict().items())
    # finished weights are the same training's, whatever the number of workers
    again = nas.train_supernet(tiny, few_digits, recipe=recipe, run_dir=tmp_path / "two")
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in two.state_dict().items())


class Note:
    """Writes which process it is called in."""

    def __init__(self, folder):
        self.path = folder / "noted"

    def __call__(self, row):
        with self.path.open("a") as file:
            file.write(f"{os.getpid()}\n")


def test_what_cannot_be_shared_out_is_refused(ray_of_two, tiny, few_digits, tmp_path):
    with pytest.raises(nas.BadInput, match="the last batch of an epoch has 1 of 256 images for 2 workers"):
        nas.train_supernet(
            tiny, few_digits, recipe=Recipe(epochs=1, batch_size=85), run_dir=tmp_path, workers=2, progress=False
        )
    with pytest.raises(nas.BadInput, match="accumulate and workers both divide"):
        nas.train_supernet(
            tiny, few_digits, recipe=Recipe(epochs=1, accumulate=2), run_dir=tmp_path, workers=2, progress=False
        )
    with pytest.raises(nas.BadInput, match=r"5 workers need 5 CPUs, the Ray cluster has 2"):
        nas.train_supernet(tiny, few_digits, epochs=1, run_dir=tmp_path, workers=5)


def test_a_training_that_was_killed_twice_ends_as_an_unbroken_one(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "experiments")
    from kill_and_resume import killed, train

    (tmp_path / "unbroken").mkdir()
    unbroken = train(tmp_path / "unbroken", 1, 4, 200)
    rng = np.random.default_rng()  # another moment every time
    for step in (2, 3):  # two steps an epoch: in the second epoch, and in the second of those after it
        assert killed(tmp_path / "broken", step, rng.uniform(0, 0.05), 1, 4, 200)
        assert not (tmp_path / "broken" / "training.csv").exists()
    checkpoint = tmp_path / "broken" / "supernet.checkpoint.pt"
    assert checkpoint.exists()
    (tmp_path / "broken" / "steps").write_bytes(b"")
    assert train(tmp_path / "broken", 1, 4, 200) == unbroken
    assert 0 < (tmp_path / "broken" / "steps").stat().st_size < (tmp_path / "unbroken" / "steps").stat().st_size
