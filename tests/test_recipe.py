"""What a recipe asks of a training, each part against its definition: alone, together, and after an interruption."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import math

import numpy as np
import pytest
import torch
from conftest import lively
from PIL import Image, ImageEnhance, ImageOps
from torch import nn
from torch.nn import functional as F

import nas
from nas.errors import BadInput, MissingPackage
from nas.modules import Network
from nas.training import recipe as recipes
from nas.training.augment import Augment, changed, drawn_changes
from nas.training.batches import Batches
from nas.training.evaluate import accuracy
from nas.training.loop import fit, supervised
from nas.training.mixing import drawn_mix, mixed
from nas.training.policy import OPERATIONS, by_policy, drawn_policy
from nas.training.recipe import Recipe, function_name, precision_of, stated


def weights(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def close(a, b, tolerance=1e-5):
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=tolerance, atol=tolerance, msg=name)


@pytest.fixture(scope="module")
def network(tiny) -> Network:
    supernet = nas.Supernet(tiny)
    return lively(supernet.extract(supernet.largest))


def tuned(network, data, recipe, **settings):
    """A copy after ``fit`` and its rows."""
    model = copy.deepcopy(network)
    rows = fit(model, data, recipe, supervised(recipe), size=16, **settings)
    return model, rows


ONE = Recipe(epochs=1, batch_size=256, lr=0.01, momentum=0.0, weight_decay=0.0, warmup=0.0, clip_norm=1e6)
"""One step of plain gradient descent: what has moved is the rate times the gradient."""


def moved(network, data, recipe):
    model, _ = tuned(network, data, recipe)
    return {name: p.detach() - dict(network.named_parameters())[name] for name, p in model.named_parameters()}


def test_what_comes_before_the_classifier_learns_at_its_own_rate(network, few_digits):
    full, slow = moved(network, few_digits, ONE), moved(network, few_digits, dataclasses.replace(ONE, body_lr=0.1))
    head = len(network) - 1
    for name in full:
        factor = 1.0 if name.startswith(f"{head}.classify") else 0.1
        torch.testing.assert_close(slow[name], factor * full[name], rtol=1e-2, atol=1e-6, msg=name)
    assert all(full[name].abs().max() > 1e-6 for name in ("0.conv.weight", f"{head}.classify.weight"))


def test_frozen_blocks_stay_as_they_are_and_can_learn_again_afterwards(network, few_digits):
    recipe = Recipe(epochs=1, batch_size=64, freeze=2)
    model, _ = tuned(network, few_digits, recipe)
    before, after = weights(network), weights(model)
    for name in before:
        assert torch.equal(before[name], after[name]) == name.startswith(("0.", "1.")), name
    assert all(p.requires_grad for p in model.parameters())
    assert len(network) == 4
    with pytest.raises(BadInput, match="freeze is 4, but of 4 blocks at most 3"):
        tuned(network, few_digits, dataclasses.replace(recipe, freeze=4))
    with pytest.raises(BadInput, match="of 0 blocks at most 0"):
        fit(nn.Linear(3, 3), few_digits, recipe, supervised(recipe), size=16)


def test_frozen_norms_keep_their_statistics_and_normalise_by_them(network, few_digits):
    seen = []

    def step(model, images, labels, rng):
        seen.append(([m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d)], model.training))
        return supervised(recipe)(model, images, labels, rng)

    recipe, model = Recipe(epochs=1, batch_size=128, freeze="norms"), copy.deepcopy(network)
    fit(model, few_digits, recipe, step, size=16)
    assert all(not any(norms) and whole for norms, whole in seen)
    before, after = weights(network), weights(model)
    for name in before:
        kept = "running" in name or "num_batches" in name
        assert torch.equal(before[name], after[name]) == kept, name


def test_a_supernet_has_no_statistics_to_freeze_but_blocks(tiny, few_digits, tmp_path):
    with pytest.raises(BadInput, match="freeze is 'norms', but the subnets of a supernet"):
        nas.train_supernet(tiny, few_digits, recipe=Recipe(epochs=1, freeze="norms"), run_dir=tmp_path / "a")
    assert not (tmp_path / "a").exists()
    supernet = nas.train_supernet(tiny, few_digits, recipe=Recipe(epochs=1, freeze=1), run_dir=tmp_path / "b")
    fresh, trained = weights(nas.Supernet(tiny)), weights(supernet)
    first = {name for name in fresh if name.startswith("slots.0.")}
    assert first
    assert all(torch.equal(fresh[name], trained[name]) for name in first)
    assert not torch.equal(fresh["slots.1.expand.weight"], trained["slots.1.expand.weight"])


def test_averaged_weights_are_evaluated_and_kept(network, few_digits):
    """Against the definition, from the weights after every step."""
    recipe, path, model, evaluated = Recipe(epochs=3, batch_size=100, ema=0.6), [], copy.deepcopy(network), []
    fit(
        model, few_digits, recipe, supervised(recipe), size=16,
        on_step=lambda _: path.append(weights(model)),
        evaluate=lambda _: evaluated.append(weights(model)) or {},
    )  # fmt: skip
    average, expected = weights(network), []
    for i, now in enumerate(path):
        decay = min(0.6, (1 + i) / (10 + i))
        average = {k: decay * average[k] + (1 - decay) * v if v.is_floating_point() else v for k, v in now.items()}
        expected.append(average)
    for seen, wanted in zip((*evaluated, weights(model)), (*expected[2::3], average), strict=True):
        close(seen, wanted)
    plain, _ = tuned(network, few_digits, dataclasses.replace(recipe, ema=0.0))
    close(path[-1], weights(plain))  # the training itself goes on with its own


def test_early_stopping_keeps_the_best_epoch_and_says_so(network, few_digits, caplog):
    caplog.set_level("INFO", "nas")
    recipe, model, after, told = Recipe(epochs=9, batch_size=256, patience=2), copy.deepcopy(network), [], []
    score = iter((0.5, 0.7, 0.6, float("nan"), 0.7, 0.9))

    def evaluate(epoch):
        after.append(weights(model))
        return dict.fromkeys(("accuracy_a", "accuracy_b"), next(score))

    rows = fit(model, few_digits, recipe, supervised(recipe), size=16, evaluate=evaluate, on_epoch=told.append)
    assert rows["stopped_early"].tolist() == [0, 0, 0, 0, 1]  # not in epoch 4, which was not evaluated
    assert [row["stopped_early"] for row in told] == [0, 0, 0, 0, 1]
    assert same(weights(model), after[1])  # the first of equals
    assert "stopped after epoch 5 of 9: validation accuracy was best in epoch 2" in caplog.messages[-1]


def test_early_stopping_goes_by_validation_accuracy_when_nothing_else_is_said(network, few_digits):
    recipe = Recipe(epochs=4, batch_size=64, lr=1e-9, patience=1, freeze="norms")
    model, rows = tuned(network, few_digits, recipe)
    assert rows["stopped_early"].tolist() == [0, 1]
    assert rows["accuracy"][0] == pytest.approx(nas_accuracy(model, few_digits))


def nas_accuracy(model, data):
    from nas.training.evaluate import validation_accuracy

    return validation_accuracy(model, data)


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_a_batch_in_parts_gives_the_gradient_of_the_whole(network, few_digits, parts):
    recipe = Recipe(epochs=2, batch_size=100, freeze="norms", mixup=0.5)
    whole, rows = tuned(network, few_digits, recipe)
    divided, others = tuned(network, few_digits, dataclasses.replace(recipe, accumulate=parts))
    close(weights(whole), weights(divided), 1e-4)
    assert rows["loss"].tolist() == pytest.approx(others["loss"].tolist(), rel=1e-4)


def test_the_parts_of_a_batch_train_the_same_subnets(tiny, few_digits):
    asked = []

    def step(model, images, labels, rng):
        asked.append((len(images), rng.integers(10**9)))
        loss = model(images).sum()
        loss.backward()
        return loss.detach()

    network = Network(tiny.networks(nas.Supernet(tiny).largest[None])[0])
    fit(network, few_digits, Recipe(epochs=1, batch_size=100, accumulate=2), step, size=16)
    whole, drawn = asked[:], [number for _, number in asked]
    assert [n for n, _ in whole] == [50, 50, 50, 50, 28, 28]
    assert drawn[0::2] == drawn[1::2]
    assert len(set(drawn)) == 3
    asked.clear()
    fit(network, few_digits, Recipe(epochs=1, batch_size=100), step, size=16)
    assert [number for _, number in asked] == drawn[0::2]


def test_recomputing_saves_memory_and_changes_nothing(network, few_digits):
    recipe, kept = Recipe(epochs=2, batch_size=64), {}

    def measured(recompute):
        total = 0

        def pack(tensor):
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model, _ = tuned(network, few_digits, dataclasses.replace(recipe, recompute=recompute))
        kept[recompute] = total
        return model

    close(weights(measured(False)), weights(measured(True)))
    assert kept[True] < 0.7 * kept[False]
    model = measured(True)
    assert all("forward" not in vars(block) for block in model)


def test_recomputing_a_supernet_changes_nothing(tiny, few_digits, tmp_path):
    recipe = Recipe(epochs=1, batch_size=64)
    plain = nas.train_supernet(tiny, few_digits, recipe=recipe, run_dir=tmp_path / "a")
    again = nas.train_supernet(
        tiny, few_digits, recipe=dataclasses.replace(recipe, recompute=True), run_dir=tmp_path / "b"
    )
    close(weights(plain), weights(again), 1e-4)


# ---- mixed images ------------------------------------------------------------------------------------------------


def flat_images(n=64, size=20):
    """Image i is i everywhere."""
    return torch.arange(n, dtype=torch.float32).view(-1, 1, 1, 1).expand(n, 1, size, size)


def test_mixup_blends_images_and_labels_by_the_same_share():
    images, labels = flat_images(), torch.arange(64) % 10
    mix = drawn_mix(Recipe(epochs=1, mixup=1.0), 64, np.random.default_rng(0))
    partner = torch.from_numpy(mix.partner)
    blended, shares = mixed(images, images[partner], labels, labels[partner], 10, mix)
    own = (blended[:, 0, 0, 0] - partner) / (torch.arange(64) - partner)
    known = partner != torch.arange(64)
    torch.testing.assert_close(own[known], torch.from_numpy(mix.share).float()[known], rtol=1e-3, atol=1e-3)
    part = torch.from_numpy(mix.share).float()[:, None]
    torch.testing.assert_close(shares, F.one_hot(labels, 10) * part + F.one_hot(labels[partner], 10) * (1 - part))
    assert torch.equal(blended.amax((1, 2, 3)), blended.amin((1, 2, 3)))
    assert 0.2 < mix.share.std() < 0.4  # uniform, as the beta distribution of 1 and 1 is


def test_cutmix_pastes_a_square_and_shares_the_label_by_its_area():
    images, labels = flat_images(), torch.arange(64) % 10
    mix = drawn_mix(Recipe(epochs=1, cutmix=1.0), 64, np.random.default_rng(0))
    partner = torch.from_numpy(mix.partner)
    pasted, shares = mixed(images, images[partner], labels, labels[partner], 10, mix)
    assert (pasted != images).float().mean() > 0.25  # half, but for what is cut off at the edges
    for i, other in enumerate(mix.partner):
        patch = pasted[i, 0] == other
        assert torch.equal(pasted[i, 0][~patch], images[i, 0][~patch])
        rows, columns = patch.any(1).nonzero(), patch.any(0).nonzero()
        if len(rows) and other != i:
            assert patch.sum() == len(rows) * len(columns)  # one rectangle
            assert rows.max() - rows.min() == len(rows) - 1
            area = float(patch.float().mean())
            assert area <= 1 - mix.share[i] + 0.11
            expected = 1 - area if labels[i] != labels[other] else 1.0
            assert float(shares[i, labels[i]]) == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(shares.sum(1), torch.ones(64))


def test_a_batch_is_mixed_in_one_way_and_either_comes():
    rng, kinds = np.random.default_rng(0), []
    for _ in range(40):
        kinds.append(drawn_mix(Recipe(epochs=1, mixup=0.2, cutmix=1.0), 8, rng).middle is None)
    assert 8 < sum(kinds) < 32
    assert drawn_mix(Recipe(epochs=1), 8, rng) is None


@pytest.mark.parametrize("mixing", [{}, {"mixup": 0.4}, {"cutmix": 1.0}])
@pytest.mark.parametrize(
    "change", [None, Augment(flip=True, cutout=0.25), lambda x, generator: x + torch.rand(x.shape, generator=generator)]
)
def test_the_shares_of_workers_are_the_batch(few_digits, mixing, change):
    recipe = Recipe(epochs=1, batch_size=100, **mixing)
    settings = {"size": 12, "seed": 3, "device": torch.device("cpu")}

    def made(worker, workers):
        return list(Batches(few_digits, recipe, change, worker=worker, workers=workers, **settings).epoch(1))

    whole, shares = made(0, 1), [made(worker, 3) for worker in range(3)]
    assert [len(b.images) for b in whole] == [100, 100, 56]
    for i, batch in enumerate(whole):
        torch.testing.assert_close(torch.cat([s[i].images for s in shares]), batch.images)
        torch.testing.assert_close(torch.cat([s[i].labels for s in shares]), batch.labels)
        assert [s[i].of for s in shares] == [len(batch.images)] * 3
    assert batch.labels.shape == ((56, 10) if mixing else (56,))


# ---- functions of one's own ----------------------------------------------------------------------------------------


def half(progress):
    return 0.5


def focal(logits, labels):
    chosen = logits.softmax(1).gather(1, labels[:, None])[:, 0]
    return -((1 - chosen) ** 2 * chosen.log()).mean()


class Brighter:
    def __init__(self, by):
        self.by = by

    def __call__(self, images, generator):
        return images + self.by

    def __repr__(self):
        return f"Brighter({self.by})"


def test_an_optimizer_and_a_schedule_of_ones_own(network, few_digits):
    asked = []

    def optimizer(groups):
        asked.extend(dict(group) for group in groups)
        return torch.optim.AdamW(groups, betas=(0.5, 0.9))

    recipe = dataclasses.replace(ONE, optimizer=optimizer, schedule=half, body_lr=0.1, weight_decay=0.2)
    seen = moved(network, few_digits, recipe)
    assert {(g["lr"], g["weight_decay"]) for g in asked} == {(0.01, 0.2), (0.01, 0.0), (0.001, 0.2), (0.001, 0.0)}
    # the first step of AdamW is the rate for every weight, whatever its gradient
    bias = seen[f"{len(network) - 1}.classify.bias"]
    torch.testing.assert_close(bias.abs(), torch.full_like(bias, 0.005), rtol=1e-2, atol=0)
    _, rows = tuned(network, few_digits, recipe)
    assert rows["learning_rate"].tolist() == [0.005]


def test_a_loss_of_ones_own(network, few_digits, tiny):
    recipe = dataclasses.replace(ONE, loss=focal, freeze="norms")
    _, rows = tuned(network, few_digits, recipe)
    images = next(iter(Batches(few_digits, recipe, None, size=16, seed=0, device=torch.device("cpu")).epoch(0)))
    expected = focal(network.eval()(images.images), images.labels)
    assert rows["loss"][0] == pytest.approx(expected.item(), rel=1e-4)
    strategy, supernet = nas.Sandwich(randoms=0), nas.Supernet(tiny)
    seen = strategy.step(supernet, images.images, images.labels, np.random.default_rng(0), recipe)
    supernet.activate(supernet.largest)
    assert float(seen) == pytest.approx(focal(supernet(images.images), images.labels).item(), rel=1e-4)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"optimizer": lambda groups: None}, r"optimizer\(groups\) is a torch.optim.Optimizer, got None"),
        ({"schedule": lambda progress: float("nan")}, "a schedule gives factors of the learning rate, at least 0, got nan"),
        ({"schedule": lambda progress: "fast"}, "got 'fast' at 0"),
        ({"loss": lambda logits, labels: logits}, r"a loss is one number, .* got a tensor of shape \(256, 10\)"),
        ({"loss": lambda logits, labels: 3.0}, r"a loss is one number, .* got 3.0"),
    ],
)  # fmt: skip
def test_what_ones_own_functions_give_is_checked_in_one_line(network, few_digits, own, message):
    with pytest.raises(BadInput, match=message) as refused:
        tuned(network, few_digits, dataclasses.replace(ONE, **own))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("wrong", [lambda x, g: x[:3], lambda x, g: x[0], lambda x, g: None, lambda x, g: x[..., 1:]])
def test_what_ones_own_augmentation_gives_is_checked_in_one_line(network, few_digits, wrong):
    with pytest.raises(BadInput, match=r"augment\(images, generator\) gives \(256, 1, size, size\) floats, got"):
        tuned(network, few_digits, ONE, augment=wrong)


def test_what_ones_own_functions_raise_is_raised_as_it_is(network, few_digits):
    def broken(*_):
        raise KeyError("mine")

    for own in ("optimizer", "schedule", "loss"):
        with pytest.raises(KeyError, match="mine"):
            tuned(network, few_digits, dataclasses.replace(ONE, **{own: broken}))
    with pytest.raises(KeyError, match="mine"):
        tuned(network, few_digits, ONE, augment=broken)


def test_a_training_belongs_to_the_functions_that_made_it(tiny, few_digits, tmp_path):
    partial = functools.partial(torch.optim.AdamW, betas=(0.5, 0.9))
    recipe = Recipe(epochs=1, batch_size=256, optimizer=partial, schedule=half)
    settings = {"run_dir": tmp_path, "augment": Brighter(0.1)}
    made = nas.train_supernet(tiny, few_digits, recipe=recipe, **settings)
    assert same(weights(made), weights(nas.train_supernet(tiny, few_digits, recipe=recipe, **settings)))
    for other, message in (
        ({"optimizer": torch.optim.AdamW}, r"optimizer: there torch.*AdamW\(betas=\(0.5, 0.9\)\), here torch.*AdamW"),
        ({"schedule": None}, r"schedule: there test_recipe.half, here None"),
        ({"ema": 0.9}, r"ema: there None, here 0.9"),
    ):
        with pytest.raises(BadInput, match=message):
            nas.train_supernet(tiny, few_digits, recipe=dataclasses.replace(recipe, **other), **settings)
    with pytest.raises(BadInput, match=r"augment: there Brighter\(0.1\), here Brighter\(0.2\)"):
        nas.train_supernet(tiny, few_digits, recipe=recipe, run_dir=tmp_path, augment=Brighter(0.2))


def test_functions_have_the_same_name_in_every_process():
    assert (
        function_name(functools.partial(half, focal, x=object()))
        == "test_recipe.half(test_recipe.focal, x=<object object>)"
    )
    assert "0x" not in function_name(type("Own", (), {"__call__": half})())
    assert stated(Recipe(epochs=1)) == {
        "epochs": 1, "batch_size": 128, "lr": 0.1, "momentum": 0.9, "weight_decay": 3e-5, "label_smoothing": 0.1,
        "warmup": 0.05, "clip_norm": 5.0,
    }  # fmt: skip # what trainings of earlier versions were told by
    json.dumps(stated(Recipe(epochs=1, loss=focal, freeze="norms")))


# ---- precision -----------------------------------------------------------------------------------------------------


def test_bf16_is_computed_where_it_is_there_and_refused_elsewhere(network, few_digits, monkeypatch):
    cpu, seen, recipe = torch.device("cpu"), [], dataclasses.replace(ONE, precision="bf16")

    def step(model, images, labels, rng):
        logits = model(images)
        seen.append(logits.dtype)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        return loss.detach()

    monkeypatch.setattr(recipes, "has_bf16", lambda device: False)
    with pytest.raises(BadInput, match="precision is bf16, which this machine's cpu has no instructions for"):
        fit(copy.deepcopy(network), few_digits, recipe, step, size=16)
    monkeypatch.setattr(recipes, "has_bf16", lambda device: True)
    fit(copy.deepcopy(network), few_digits, recipe, step, size=16)
    fit(copy.deepcopy(network), few_digits, dataclasses.replace(recipe, precision="auto"), step, size=16)
    assert seen == [torch.bfloat16, torch.float32]
    cuda = torch.device("cuda")
    assert [precision_of(d, p) for d in (cpu, cuda) for p in ("auto", "fp32", "bf16")] == [
        "fp32",
        "fp32",
        "bf16",
        "bf16",
        "fp32",
        "bf16",
    ]
    monkeypatch.setattr(recipes, "has_bf16", lambda device: False)
    assert precision_of(cuda) == "fp32"  # an older GPU


# ---- one network ---------------------------------------------------------------------------------------------------


def test_a_network_is_trained_alone(tiny, few_digits, tmp_path):
    network = Network(tiny.networks(nas.Supernet(tiny).largest[None])[0])
    before, rows = weights(network), []
    trained = nas.train_network(network, few_digits, Recipe(epochs=20, batch_size=32), on_epoch=rows.append)
    assert type(trained) is Network
    assert not trained.training
    assert same(weights(network), before)
    assert accuracy(trained, few_digits.test, few_digits) > 0.6 > 0.4 > accuracy(network, few_digits.test, few_digits)
    assert rows[-1]["accuracy"] == pytest.approx(nas_accuracy(trained, few_digits))


class Plain(nn.Module):
    input_shape = (1, 8, 8)

    def __init__(self, classes=10):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, classes))

    def forward(self, x):
        return self.layers(x)


EVERYTHING = {
    "body_lr": 0.5, "ema": 0.9, "mixup": 0.2, "cutmix": 1.0, "patience": 9, "accumulate": 2, "recompute": True, "freeze": 1,
    "optimizer": torch.optim.AdamW, "schedule": half,
}  # fmt: skip


@pytest.mark.parametrize("made", ["blocks", "plain"])
def test_an_interrupted_training_of_everything_resumes_to_the_same_bits(network, few_digits, tmp_path, made):
    start = network if made == "blocks" else Plain()
    recipe = Recipe(epochs=4, batch_size=100, lr=0.003, **EVERYTHING)

    class Stop(Exception):
        pass

    def stop(row):
        if row["epoch"] == 2:
            raise Stop

    curve, again = [], []
    whole = nas.train_network(start, few_digits, recipe, teacher=network, run_dir=tmp_path / "a", on_epoch=curve.append)
    with pytest.raises(Stop):
        nas.train_network(start, few_digits, recipe, teacher=network, run_dir=tmp_path / "b", on_epoch=stop)
    resumed = nas.train_network(
        start, few_digits, recipe, teacher=network, run_dir=tmp_path / "b", on_epoch=again.append
    )
    assert same(weights(whole), weights(resumed))
    assert [row["loss"] for row in again] == [row["loss"] for row in curve[2:]]
    assert same(
        weights(whole), weights(nas.train_network(start, few_digits, recipe, teacher=network, run_dir=tmp_path / "b"))
    )
    assert {p.name for p in (tmp_path / "b").iterdir()} == {"network.safetensors", "network_training.csv"}
    with pytest.raises(BadInput, match=r"teacher: there .*, here None"):
        nas.train_network(start, few_digits, recipe, run_dir=tmp_path / "b")
    with pytest.raises(BadInput, match="network: there"):
        nas.train_network(Plain(), few_digits, recipe, teacher=network, run_dir=tmp_path / "b")
    with pytest.raises(BadInput, match="already holds a training"):
        nas.train_network(start, few_digits, recipe, teacher=network, run_dir=tmp_path / "b", resume=False)


@pytest.mark.parametrize(
    ("network", "settings", "message"),
    [
        (Plain(), {}, "say how long"),
        (Plain(), {"epochs": 2, "recipe": Recipe(epochs=3)}, "epochs is 2 but recipe.epochs is 3; give one of them"),
        (Plain(7), {"epochs": 1}, r"outputs have shape \(1, 7\), digits has 10 classes"),
        (nn.Linear(3, 3), {"epochs": 1}, "a network is a nas.Network, or a torch module with an input_shape"),
        (Plain(), {"epochs": 1, "teacher": Plain(7)}, r"outputs have shape \(1, 7\)"),
        (Plain(), {"epochs": 1, "device": "meta"}, "device is"),
        (3, {"epochs": 1}, "a network is a nas.Network"),
    ],
)  # fmt: skip
def test_trainings_of_a_network_that_cannot_be_are_refused(few_digits, tmp_path, network, settings, message):
    with pytest.raises(BadInput, match=message) as refused:
        nas.train_network(network, few_digits, run_dir=tmp_path / "run", **settings)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


# ---- crops and operations ------------------------------------------------------------------------------------------


def where_from(augment, n=400, size=24, stored=48):
    """The pixels of the stored image that the first and last output pixels are taken from, ``(n, 2, 2)``: corner, (x, y)."""
    line = torch.arange(stored, dtype=torch.float32)
    changes = drawn_changes(augment, n, size, torch.Generator().manual_seed(0))
    x = changed((line.expand(n, 1, stored, stored) * 5).to(torch.uint8), changes, size)[:, 0] * 51
    y = changed((line[:, None].expand(n, 1, stored, stored) * 5).to(torch.uint8), changes, size)[:, 0] * 51
    return torch.stack([torch.stack([v[:, 1, 1], v[:, -2, -2]], 1) for v in (x, y)], 2), size, stored


def test_crops_are_rectangles_of_the_image_of_the_asked_areas_and_aspects():
    corners, size, stored = where_from(Augment(degrees=0, scale=0, shift=0, crop=0.25))
    sides = (corners[:, 1] - corners[:, 0]) / (size - 3) * size / stored  # as fractions of the image
    areas, aspects = sides.prod(1), sides[:, 0] / sides[:, 1]
    assert 0.22 < areas.min() < 0.3
    assert 0.9 < areas.max() < 1.03
    assert 0.55 < areas.mean() < 0.68
    assert 0.72 < aspects.min() < 0.78 < 1.28 < aspects.max() < 1.38
    middles = corners.mean(1) / (stored - 1)
    assert 0.2 < middles.min() < 0.35 < 0.65 < middles.max() < 0.8
    assert corners.min() >= 0
    assert corners.max() <= stored - 1


def test_a_crop_is_the_resized_part_of_the_image():
    """Against slicing and resizing, for a crop whose edges are pixels'."""
    images = torch.randint(0, 256, (1, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    augment = Augment(degrees=0, scale=0, shift=0, crop=0.2)
    changes = drawn_changes(augment, 1, 20, torch.Generator())
    theta = torch.tensor([[[0.5, 0.0, 10 / 20 - 0.5 + 0.1], [0.0, 0.5, -0.3]]])  # x from 12 to 32, y from 4 to 24
    seen = changed(images, dataclasses.replace(changes, theta=theta), 20)
    torch.testing.assert_close(seen, images[:, :, 4:24, 12:32].float() / 255, atol=1e-4, rtol=0)


def test_photographs_are_cropped_and_small_images_are_not(few_digits, digits):
    def of(size):
        splits = {
            name: nas.Split(images=np.random.default_rng(i).integers(0, 256, (4, 3, size, size), dtype=np.uint8), labels=np.arange(4) % 2)
            for i, name in enumerate(("train", "val", "test"))
        }  # fmt: skip
        return nas.ImageData(name="x", classes=("a", "b"), **splits)

    assert Augment.suited_to(of(64)) == Augment(degrees=0, scale=0, shift=0, flip=True, crop=0.35)
    assert Augment.suited_to(of(63)) == Augment(flip=True, cutout=0.25)
    assert Augment.suited_to(few_digits) == Augment()
    assert stated(Augment()) == {"degrees": 10.0, "scale": 0.1, "shift": 0.1, "flip": False, "cutout": 0.0}


def pillow(image, operation, s):
    """The same by Pillow, on ``image (3, h, w)`` of whole 256ths."""
    picture = Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())
    done = {
        "nothing": lambda p: p,
        "brightness": ImageEnhance.Brightness(picture).enhance(1 + 0.9 * s),
        "contrast": ImageEnhance.Contrast(picture).enhance(1 + 0.9 * s),
        "colour": ImageEnhance.Color(picture).enhance(1 + 0.9 * s),
        "posterize": ImageOps.posterize(picture, 8 - round(4 * abs(s))),
        "solarize": ImageOps.solarize(picture, math.ceil(255 * (1 - abs(s)) - 1e-4)),
        "autocontrast": ImageOps.autocontrast(picture),
    }[operation]
    return torch.from_numpy(np.asarray(done).copy()).permute(2, 0, 1) / 255


@pytest.mark.parametrize("operation", ["brightness", "contrast", "colour", "posterize", "solarize", "autocontrast"])
def test_operations_are_those_of_pillow(operation):
    number, generator = list(OPERATIONS).index(operation), torch.Generator().manual_seed(0)
    images = (torch.rand(4, 3, 16, 16, generator=generator) * 200 + 20).round() / 255
    strengths = torch.tensor([0.3, -0.3, 0.9, -0.6])
    drawn = torch.stack([torch.full((4,), float(number)), strengths], 1)[:, None]
    seen = by_policy(images, drawn)
    for image, s, wanted in zip(seen, strengths.tolist(), images, strict=True):
        torch.testing.assert_close(image, pillow(wanted, operation, s), atol=2.5 / 255, rtol=0)
    assert (seen - images).abs().mean() > 0.01


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_operation_changes_images_one_by_one(operation, channels):
    number, generator = list(OPERATIONS).index(operation), torch.Generator().manual_seed(0)
    images = torch.rand(6, channels, 16, 16, generator=generator) * 0.8 + 0.1
    drawn = torch.tensor([[[float(number), s]] for s in (0.5, -0.5, 0.1, 0.9, -0.2, 0.7)])
    seen = by_policy(images, drawn)
    assert seen.shape == images.shape
    assert 0 <= seen.min() <= seen.max() <= 1
    for i in range(6):
        torch.testing.assert_close(by_policy(images[i : i + 1], drawn[i : i + 1])[0], seen[i])
    unchanged = operation == "nothing" or (operation == "colour" and channels == 1)
    assert torch.equal(seen, images) == unchanged


def test_a_policy_draws_every_operation_with_its_strength_either_way():
    drawn = drawn_policy(2000, 3, 0.4, torch.Generator().manual_seed(0))
    assert sorted(drawn[..., 0].unique().tolist()) == list(range(len(OPERATIONS)))
    assert sorted(drawn[..., 1].unique().tolist()) == pytest.approx([-0.4, 0.4])
    assert 0.45 < (drawn[..., 1] > 0).float().mean() < 0.55


def test_operations_without_kornia_are_one_line(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    Augment(crop=0.5)
    with pytest.raises(MissingPackage, match=r"kornia is not installed; .* pip install 'nas\[augment\]'"):
        Augment(operations=2)
