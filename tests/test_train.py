"""Training: it learns by the rule it names, repeats itself, resumes to the same weights, refuses what is not its own."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import other_pictures, randomise
from safetensors import safe_open
from torch import nn

import nas
from nas.data.inputs import batches, resize
from nas.errors import BadInput, NasError
from nas.supernet import Sandwich, SinglePath, train_supernet
from nas.supernet.training import calibrated, load_supernet, subnet_accuracy
from nas.training.augment import Augment, augmented
from nas.training.evaluate import accuracy, validation_accuracy, validation_views
from nas.training.loop import fit, supervised
from nas.training.recipe import Recipe, cosine
from nas.training.weights import save_weights


def weights(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


def test_the_supernet_learns_at_every_size(tiny, few_digits, trained):
    for arch in (trained.largest, trained.smallest, *tiny.sample(2, np.random.default_rng(0))):
        assert subnet_accuracy(trained, arch, few_digits) > 0.5
    fresh = nas.Supernet(tiny)
    assert subnet_accuracy(fresh, fresh.largest, few_digits) < 0.4


class Stop(Exception):
    pass


@pytest.mark.parametrize("stop_after", [1, 3])
def test_an_interrupted_training_resumes_to_the_same_weights(tiny, few_digits, tmp_path, stop_after):
    recipe = Recipe(epochs=4, batch_size=64)

    def stop(row):
        if row["epoch"] == stop_after:
            raise Stop

    whole = train_supernet(tiny, few_digits, epochs=4, recipe=recipe, run_dir=tmp_path / "a", seed=5)
    with pytest.raises(Stop):
        train_supernet(tiny, few_digits, epochs=4, recipe=recipe, run_dir=tmp_path / "b", seed=5, on_epoch=stop)
    epochs = []
    resumed = train_supernet(
        tiny,
        few_digits,
        epochs=4,
        recipe=recipe,
        run_dir=tmp_path / "b",
        seed=5,
        resume=True,
        on_epoch=lambda r: epochs.append(r["epoch"]),
    )
    assert epochs == list(range(stop_after + 1, 5))
    assert same(weights(whole), weights(resumed))
    loaded = train_supernet(tiny, few_digits, epochs=4, recipe=recipe, run_dir=tmp_path / "b", seed=5, resume=True)
    assert same(weights(whole), weights(loaded))
    assert not same(weights(whole), weights(nas.Supernet(tiny, seed=5)))
    assert not [p.name for p in (tmp_path / "b").iterdir() if p.name not in ("supernet.safetensors", "training.csv")]


def interrupted(space, data, folder, error=Stop, **settings):
    """A training of two epochs that was stopped after the first."""

    def stop(row):
        raise error

    settings = {"recipe": Recipe(epochs=2, batch_size=64), "run_dir": folder} | settings
    with pytest.raises(error) as caught:
        train_supernet(space, data, on_epoch=stop, **settings)
    return caught


_OTHERS = {
    "strategy": ({"strategy": SinglePath()}, r"strategy: there Sandwich\(randoms=2\), here SinglePath\(\)"),
    "strategy's setting": ({"strategy": Sandwich(randoms=1)}, r"strategy: .* here Sandwich\(randoms=1\)"),
    "label smoothing": ({"recipe": Recipe(epochs=2, batch_size=64, label_smoothing=0.0)}, "label_smoothing: there 0.1, here 0"),
    "learning rate": ({"recipe": Recipe(epochs=2, batch_size=64, lr=0.01)}, r"lr: there 0\.1, here 0\.01"),
    "augmentation": ({"augment": Augment(degrees=5)}, "augment: there .*'degrees': 10.0.* here .*'degrees': 5"),
    "seed": ({"seed": 1}, "seed: there 0, here 1"),
}  # fmt: skip


@pytest.mark.parametrize("other", _OTHERS)
def test_a_checkpoint_belongs_to_everything_that_made_it(tiny, few_digits, tmp_path, other):
    interrupted(tiny, few_digits, tmp_path)
    changed, message = _OTHERS[other]
    with pytest.raises(BadInput, match=message) as caught:
        train_supernet(tiny, few_digits, run_dir=tmp_path, **{"recipe": Recipe(epochs=2, batch_size=64)} | changed)
    assert "\n" not in str(caught.value)
    train_supernet(tiny, few_digits, recipe=Recipe(epochs=2, batch_size=64), run_dir=tmp_path)
    with pytest.raises(BadInput, match=message):  # and so do finished weights
        train_supernet(tiny, few_digits, run_dir=tmp_path, **{"recipe": Recipe(epochs=2, batch_size=64)} | changed)


def test_a_checkpoint_belongs_to_its_data_and_precision(tiny, few_digits, tmp_path, monkeypatch):
    interrupted(tiny, few_digits, tmp_path)
    recipe = Recipe(epochs=2, batch_size=64)
    with pytest.raises(BadInput, match="data: there"):
        train_supernet(tiny, other_pictures(few_digits, "train"), recipe=recipe, run_dir=tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("nas.training.folder.precision_of", lambda *_: "bf16")
        with pytest.raises(BadInput, match="precision: there fp32, here bf16"):
            train_supernet(tiny, few_digits, recipe=recipe, run_dir=tmp_path)


def test_weights_of_earlier_versions_load_and_are_of_the_sandwich_rule(tiny, few_digits, tmp_path):
    recipe = Recipe(epochs=2, batch_size=64)
    made = train_supernet(tiny, few_digits, recipe=recipe, run_dir=tmp_path)
    path = tmp_path / "supernet.safetensors"
    with safe_open(path, framework="pt") as file:
        told = file.metadata()
    identity = {k: v for k, v in json.loads(told["identity"]).items() if k not in ("strategy", "precision")}
    save_weights(path, made, told | {"identity": json.dumps(identity)})
    assert same(weights(made), weights(train_supernet(tiny, few_digits, recipe=recipe, run_dir=tmp_path)))
    assert same(weights(made), weights(load_supernet(tiny, path)))
    with pytest.raises(BadInput, match="strategy"):
        train_supernet(tiny, few_digits, recipe=recipe, run_dir=tmp_path, strategy=SinglePath())


def test_two_trainings_do_not_share_a_folder(tiny, few_digits, tmp_path):
    code = f"import sys; from pathlib import Path; from nas.files import locked\nwith locked(Path({str(tmp_path)!r})): print('locked', flush=True); sys.stdin.read()"
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "locked\n"
    with pytest.raises(BadInput, match=f"another process .pid {other.pid}. is at work"):
        train_supernet(tiny, few_digits, epochs=1, run_dir=tmp_path)
    other.communicate()
    train_supernet(tiny, few_digits, epochs=1, run_dir=tmp_path)


def test_an_interrupt_keeps_the_checkpoint_and_says_how_to_go_on(tiny, few_digits, tmp_path, capsys):
    caught = interrupted(tiny, few_digits, tmp_path, KeyboardInterrupt, progress=True)
    assert "the same call" in str(caught.value)
    assert capsys.readouterr().err.endswith("\n")  # the bar was closed
    recipe, epochs = Recipe(epochs=2, batch_size=64), []
    train_supernet(tiny, few_digits, recipe=recipe, run_dir=tmp_path, on_epoch=lambda row: epochs.append(row["epoch"]))
    assert epochs == [2]


def test_progress_is_a_bar_or_none_and_lines_go_to_the_log(tiny, few_digits, tmp_path, capsys, caplog):
    caplog.set_level("INFO", "nas")
    for i, (progress, shown) in enumerate(((True, True), (False, False), (None, False))):  # stderr is no terminal here
        train_supernet(tiny, few_digits, epochs=1, run_dir=tmp_path / str(i), progress=progress)
        assert ("train" in capsys.readouterr().err) == shown
    assert [r.message.partition(": loss")[0] for r in caplog.records] == ["epoch 1/1"] * 3
    assert "accuracy largest" in caplog.records[0].message
    with pytest.raises(BadInput, match="progress is"):
        train_supernet(tiny, few_digits, epochs=1, run_dir=tmp_path / "x", progress=print)


def test_hooks_see_every_epoch_and_step(tiny, few_digits, tmp_path):
    recipe, steps, rows = Recipe(epochs=2, batch_size=100, lr=0.2, warmup=0.5), [], []
    train_supernet(tiny, few_digits, recipe=recipe, run_dir=tmp_path, on_step=steps.append, on_epoch=rows.append)
    assert [(s["epoch"], s["step"]) for s in steps] == [(1, 1), (1, 2), (1, 3), (2, 4), (2, 5), (2, 6)]
    assert [s["learning_rate"] for s in steps] == pytest.approx([0.2 * cosine(i / 6, 0.5) for i in range(6)])
    assert [row["loss"] for row in rows] == pytest.approx(
        [np.mean([s["loss"] for s in steps[i : i + 3]]) for i in (0, 3)]
    )
    written = pd.read_csv(tmp_path / "training.csv")
    assert written["loss"].tolist() == pytest.approx([row["loss"] for row in rows])
    assert {"seconds", "learning_rate", "accuracy_largest", "accuracy_smallest"} <= set(written)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 3, "recipe": Recipe(epochs=2)}, "epochs is 3 but recipe.epochs is 2"),
        ({}, "say how long"),
        ({"epochs": 0}, "epochs is"),
        ({"epochs": 1, "device": "foo"}, "device is .* got 'foo'"),
        ({"epochs": 1, "device": "meta"}, "device is .* got 'meta'"),
        ({"epochs": 1, "seed": -1}, "seed is"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_made(tiny, few_digits, tmp_path, settings, message):
    with pytest.raises(BadInput, match=message) as caught:
        train_supernet(tiny, few_digits, run_dir=tmp_path / "run", **settings)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_one_line(tiny, few_digits, tmp_path):
    with pytest.raises(BadInput, match="got 'cuda'"):
        train_supernet(tiny, few_digits, epochs=1, run_dir=tmp_path, device="cuda")


@pytest.mark.parametrize(
    "setting",
    [
        {"epochs": 0}, {"lr": 0.0}, {"lr": float("nan")}, {"lr": float("inf")}, {"batch_size": 0}, {"momentum": 1.0},
        {"weight_decay": -1e-5}, {"label_smoothing": 1.0}, {"warmup": 1.0}, {"clip_norm": 0.0},
    ],
)  # fmt: skip
def test_recipes_state_their_ranges(setting):
    with pytest.raises(BadInput, match=f"^{next(iter(setting))} is"):
        Recipe(**{"epochs": 1} | setting)


def test_a_trained_supernet_pickles(trained):
    again = pickle.loads(pickle.dumps(trained))
    x = torch.randn(3, *trained.input_shape)
    for arch in (trained.smallest, trained.largest):
        trained.eval().activate(arch)
        again.eval().activate(arch)
        images = resize(x, trained.input_shape[-1])
        assert torch.equal(trained(images), again(images))


# ---- what a batch trains ---------------------------------------------------------------------------------------


def cross_entropy(logits, target):
    """By hand: ``logits (n, classes)`` against probabilities ``target (n, classes)``."""
    return -(target * (logits - logits.exp().sum(1, keepdim=True).log())).sum(1).mean()


def smoothed(labels, smoothing):
    return torch.eye(10)[labels] * (1 - smoothing) + smoothing / 10


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(seen, expected):
    assert seen.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(seen[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.fixture
def batch(few_digits):
    images = next(batches(few_digits.train.take(np.arange(32)), few_digits, 16))
    return images, torch.from_numpy(few_digits.train.labels[:32])


@pytest.mark.parametrize("randoms", [0, 1, 3])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_sandwich_is_largest_on_labels_smallest_and_randoms_on_its_answers(tiny, batch, randoms, smoothing):
    images, labels = batch
    supernet, twin = (randomise(nas.Supernet(tiny, seed=1)).train() for _ in range(2))
    recipe = Recipe(epochs=1, label_smoothing=smoothing)
    loss = Sandwich(randoms=randoms).step(supernet, images, labels, np.random.default_rng(3), recipe)

    def logits(arch):
        twin.activate(arch)
        return twin(resize(images, twin.input_shape[-1]))

    by_labels = logits(twin.largest)
    expected = cross_entropy(by_labels, smoothed(labels, smoothing))
    assert float(loss) == pytest.approx(expected.item(), rel=1e-5)
    expected.backward()
    for arch in [twin.smallest, *tiny.sample(randoms, np.random.default_rng(3))]:
        cross_entropy(logits(arch), by_labels.detach().softmax(1)).backward()
    assert_same_gradients(gradients(supernet), gradients(twin))


def test_a_sandwich_has_0_to_64_random_subnets():
    assert [Sandwich(randoms=n).randoms for n in (0, 64)] == [0, 64]
    for wrong in (-1, 65):
        with pytest.raises(BadInput, match="randoms is a whole number from 0 to 64"):
            Sandwich(randoms=wrong)


def test_a_single_path_is_one_random_subnet_on_the_labels(tiny, batch):
    images, labels = batch
    supernet, twin = (randomise(nas.Supernet(tiny, seed=1)).train() for _ in range(2))
    SinglePath().step(supernet, images, labels, np.random.default_rng(4), Recipe(epochs=1, label_smoothing=0.2))
    twin.activate(tiny.sample(1, np.random.default_rng(4))[0])
    cross_entropy(twin(resize(images, twin.input_shape[-1])), smoothed(labels, 0.2)).backward()
    assert_same_gradients(gradients(supernet), gradients(twin))


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_a_network_learns_from_labels_and_its_teacher_by_weight(tiny, batch, weight):
    images, labels = batch
    supernet = randomise(nas.Supernet(tiny))
    teacher, student = supernet.extract(supernet.largest), supernet.extract(supernet.smallest).train()
    twin = copy.deepcopy(student)
    teacher.train()  # the step must take it as it answers when deployed
    supervised(Recipe(epochs=1, label_smoothing=0.2), teacher, weight=weight)(student, images, labels, None)
    logits, answers = twin(resize(images, 8)), teacher.eval()(images).detach().softmax(1)
    loss = (1 - weight) * cross_entropy(logits, smoothed(labels, 0.2)) + weight * cross_entropy(logits, answers)
    loss.backward()
    assert_same_gradients(gradients(student), gradients(twin))
    assert not gradients(teacher)


def test_training_goes_by_the_strategy_and_recipe_it_was_given(tiny, few_digits, tmp_path):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Watch:
        seen: list = dataclasses.field(default_factory=list, repr=False)

        def step(self, supernet, images, labels, rng, recipe):
            self.seen.append((images, recipe))
            return SinglePath().step(supernet, images, labels, rng, recipe)

    recipe, watch = Recipe(epochs=1, batch_size=64, label_smoothing=0.3), Watch()
    train_supernet(tiny, few_digits, recipe=recipe, run_dir=tmp_path, strategy=watch)
    assert [len(images) for images, _ in watch.seen] == [64, 64, 64, 64]
    assert all(images.shape[1:] == (1, 16, 16) and seen == recipe for images, seen in watch.seen)


# ---- the loop --------------------------------------------------------------------------------------------------


class Constant(nn.Module):
    """A network whose answers do not depend on its weights, of which it has every kind."""

    input_shape = (1, 8, 8)

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.linear = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 10)
        self.conv.transforms = nn.ParameterDict({"3": nn.Parameter(torch.eye(9))})


def run_loop(data, step, **settings):
    """The model after ``fit`` with ``step(model, images, labels)``, and what the step was given."""
    torch.manual_seed(0)
    model, given = Constant(), []

    def watched(model, images, labels, rng):
        given.append((images.clone(), labels.clone()))
        loss = step(model)
        loss.backward()
        return loss.detach()

    recipe = settings.pop("recipe", Recipe(epochs=1, batch_size=64))
    fit(model, data, recipe, watched, size=8, **settings)
    return model, given


def nothing(model):
    return sum(p.sum() for p in model.parameters()) * 0


def test_only_kernels_decay(few_digits):
    torch.manual_seed(0)
    before = weights(Constant())
    recipe = Recipe(epochs=1, batch_size=256, lr=0.1, weight_decay=0.1, warmup=0.0, momentum=0.5)
    model, _ = run_loop(few_digits, nothing, recipe=recipe)
    after = weights(model)
    for name in ("conv.weight", "linear.weight"):  # one step at the peak, Nesterov: (1 + momentum) times the decay
        torch.testing.assert_close(after[name], before[name] * (1 - 0.1 * 0.1 * 1.5))
    for name in before.keys() - {"conv.weight", "linear.weight"}:
        assert torch.equal(after[name], before[name]), name


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_gradients_are_clipped(few_digits, momentum):
    torch.manual_seed(0)
    before = nn.utils.parameters_to_vector(Constant().parameters())
    recipe = Recipe(epochs=1, batch_size=256, lr=0.1, weight_decay=0, clip_norm=2.0, momentum=momentum, warmup=0.0)
    model, _ = run_loop(few_digits, lambda m: 1e6 * sum(p.sum() for p in m.parameters()), recipe=recipe)
    moved = nn.utils.parameters_to_vector(model.parameters()) - before
    assert moved.norm().item() == pytest.approx(0.1 * 2.0 * (1 + momentum), rel=1e-3)


def rows_of(given):
    return [image.numpy().tobytes() for images, _ in given for image in images]


def test_every_training_image_is_seen_once_an_epoch_with_its_label_and_no_other(few_digits):
    recipe = Recipe(epochs=2, batch_size=100)
    _, given = run_loop(few_digits, nothing, recipe=recipe)
    plain = torch.cat(list(batches(few_digits.train, few_digits, 8)))
    first, second = rows_of(given[:3]), rows_of(given[3:])
    label = {x.numpy().tobytes(): int(y) for x, y in zip(plain, few_digits.train.labels, strict=True)}
    assert sorted(first) == sorted(second) == sorted(x.numpy().tobytes() for x in plain)
    assert first != second
    assert first != [x.numpy().tobytes() for x in plain]
    for images, labels in given:
        assert [label[x.numpy().tobytes()] for x in images] == labels.tolist()
    assert rows_of(run_loop(few_digits, nothing, recipe=recipe)[1]) == first + second
    assert rows_of(run_loop(few_digits, nothing, recipe=recipe, seed=1)[1])[:256] != first


def test_images_are_normalised_and_changed_only_on_request(few_digits):
    _, plain = run_loop(few_digits, nothing)
    _, moved = run_loop(few_digits, nothing, augment=Augment())
    whole = torch.cat([images for images, _ in plain])
    assert float(whole.mean()) == pytest.approx(0, abs=1e-3)
    assert float(whole.std()) == pytest.approx(1, abs=1e-2)
    assert (whole - torch.cat([images for images, _ in moved])).abs().mean() > 0.05


def test_recalibration_looks_at_training_images_only(tiny, few_digits):
    supernet = randomise(nas.Supernet(tiny))
    expected = weights(calibrated(supernet, supernet.smallest, few_digits))
    assert same(expected, weights(calibrated(supernet, supernet.smallest, other_pictures(few_digits, "val", "test"))))
    assert not same(expected, weights(calibrated(supernet, supernet.smallest, other_pictures(few_digits, "train"))))
    assert not same(expected, weights(supernet.extract(supernet.smallest)))


def test_validation_accuracy_is_of_the_validation_images(tiny, few_digits, trained):
    network = calibrated(trained, trained.largest, few_digits)
    assert validation_accuracy(network, few_digits) > 0.5
    assert validation_accuracy(network, other_pictures(few_digits, "test")) == validation_accuracy(network, few_digits)
    assert validation_accuracy(network, other_pictures(few_digits, "val")) < 0.3


_KILLED = """
import os
from conftest import some_digits
from nas.supernet import train_supernet
from search_spaces import MobileNetV2
train_supernet(MobileNetV2.digits(), some_digits(), epochs=500, run_dir=os.environ["RUN_DIR"])
"""


def test_a_killed_training_leaves_a_checkpoint_that_can_be_read(tmp_path, few_digits):
    from search_spaces import MobileNetV2

    environment = os.environ | {"RUN_DIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parent)}
    process = subprocess.Popen([sys.executable, "-c", _KILLED], env=environment, cwd=Path(__file__).parents[1])
    checkpoint, deadline = tmp_path / "supernet.checkpoint.pt", time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "supernet.safetensors").exists()

    def stop(row):
        assert row["epoch"] > 1
        raise Stop

    with pytest.raises(Stop):
        train_supernet(MobileNetV2.digits(), few_digits, epochs=500, run_dir=tmp_path, resume=True, on_epoch=stop)


def test_trainings_that_do_not_belong_here_are_refused(tiny, few_digits, tmp_path):
    recipe = Recipe(epochs=2, batch_size=64)

    def stop(row):
        raise Stop

    with pytest.raises(Stop):
        train_supernet(tiny, few_digits, epochs=2, recipe=recipe, run_dir=tmp_path, on_epoch=stop)
    with pytest.raises(BadInput, match="already holds a training"):
        train_supernet(tiny, few_digits, epochs=2, recipe=recipe, run_dir=tmp_path, resume=False)
    other = dataclasses.replace(recipe, lr=0.01)
    with pytest.raises(BadInput, match=r"lr: there 0\.1, here 0\.01"):
        train_supernet(tiny, few_digits, epochs=2, recipe=other, run_dir=tmp_path, resume=True)
    checkpoint = tmp_path / "supernet.checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:2000])
    with pytest.raises(BadInput, match="not a readable checkpoint") as caught:
        train_supernet(tiny, few_digits, epochs=2, recipe=recipe, run_dir=tmp_path, resume=True)
    assert "\n" not in str(caught.value)
    (tmp_path / "supernet.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(BadInput, match="not a readable weights file"):
        load_supernet(tiny, tmp_path / "supernet.safetensors")
    with pytest.raises(BadInput, match="does not exist"):
        load_supernet(tiny, tmp_path / "nothing.safetensors")


def test_data_that_do_not_fit_the_space_are_refused(tiny, few_digits, tmp_path):
    two = dataclasses.replace(few_digits, classes=tuple("abcdefghijkl"))
    with pytest.raises(BadInput, match="10 classes, digits has 12"):
        train_supernet(tiny, two, epochs=1, run_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_diverging_training_says_so(tiny, few_digits):
    network = nas.Supernet(tiny).extract(nas.Supernet(tiny).largest)
    recipe = Recipe(epochs=2, lr=0.1)

    def explode(model, images, labels, rng):
        loss = model(resize(images, 16)).sum() * float("nan")
        loss.backward()
        return loss.detach()

    with pytest.raises(NasError, match="no longer finite"):
        fit(network, few_digits, recipe, explode, size=16)


def test_the_schedule_is_a_cosine_after_a_warm_up():
    values = [cosine(p / 100, 0.1) for p in range(100)]
    assert np.argmax(values) == 10
    assert values[10] == pytest.approx(1.0)
    assert values[55] == pytest.approx(0.5)
    assert values[99] < 0.01
    assert values[0] < 0.05


def test_augmentation_moves_images_but_keeps_them(few_digits):
    images = torch.from_numpy(few_digits.train.images)
    for augment in (Augment(), Augment(flip=True, cutout=0.25)):
        moved = augmented(images, augment, 8, torch.Generator().manual_seed(0))
        plain = images.float() / 255
        assert moved.shape == plain.shape
        assert 0 <= moved.min() <= moved.max() <= 1
        again = augmented(images, augment, 8, torch.Generator().manual_seed(0))
        assert torch.equal(moved, again)
        assert (moved - plain).abs().mean() > 0.01
    still = augmented(images, Augment(degrees=0, scale=0, shift=0), 8, torch.Generator())
    torch.testing.assert_close(still, plain, atol=1e-5, rtol=0)
    assert Augment.suited_to(few_digits).flip is False


def test_validation_sees_small_sets_several_times(few_digits, digits, trained):
    assert validation_views(few_digits) == 16  # 96 images
    assert validation_views(digits) == 5
    large = dataclasses.replace(digits, val=digits.val.take(np.resize(np.arange(357), 2000)))
    assert validation_views(large) == 1
    network = calibrated(trained, trained.largest, large)
    assert validation_accuracy(network, large) == pytest.approx(accuracy(network, large.val, large))
    assert validation_accuracy(network, few_digits) == validation_accuracy(network, few_digits)


def test_distillation_pulls_towards_the_teacher(few_digits, trained):
    teacher = calibrated(trained, trained.largest, few_digits)
    recipe = Recipe(epochs=3, lr=0.05, batch_size=32)
    distances = []
    for weight in (0.0, 1.0):
        student = calibrated(trained, trained.smallest, few_digits)
        wrong = dataclasses.replace(
            few_digits, train=dataclasses.replace(few_digits.train, labels=(few_digits.train.labels + 1) % 10)
        )
        fit(student, wrong, recipe, supervised(recipe, teacher, weight=weight), size=16)
        distances.append(accuracy(student, few_digits.val, few_digits))
    assert distances[1] > distances[0] + 0.3
