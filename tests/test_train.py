"""Training: it learns, repeats itself, resumes to the same weights, refuses damaged checkpoints. And compression."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import nas
from nas.compression.int8_network import Int8Network
from nas.compression.simulation import simulated_int8
from nas.compression.step import Context
from nas.compression.steps.fine_tune import FineTune
from nas.compression.steps.prune import Prune
from nas.compression.steps.quantize import Quantize
from nas.data.inputs import batches, resize
from nas.deploy.to_onnx import weight_limit
from nas.errors import BadInput, NasError
from nas.modules import Network
from nas.supernet import train_supernet
from nas.supernet.training import calibrated, load_supernet, subnet_accuracy
from nas.training.augment import Augment, augmented
from nas.training.evaluate import accuracy, validation_accuracy, validation_views
from nas.training.loop import fit, supervised
from nas.training.recipe import Recipe, cosine


def weights(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def trained(tiny, few_digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return train_supernet(tiny, few_digits, epochs=40, run_dir=folder, recipe=Recipe(epochs=40, batch_size=32))


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


_KILLED = """
import os
from conftest import *
from nas.data import load_digits
from nas.supernet import train_supernet
from search_spaces import MobileNetV2
import torch
torch.set_num_threads(1)
train_supernet(MobileNetV2.digits(), load_digits(), epochs=500, run_dir=os.environ["RUN_DIR"])
"""


def test_a_killed_training_leaves_a_checkpoint_that_can_be_read(tmp_path, digits):
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
        train_supernet(MobileNetV2.digits(), digits, epochs=500, run_dir=tmp_path, resume=True, on_epoch=stop)


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
    two = dataclasses.replace(few_digits, classes=("a", "b"))
    with pytest.raises(BadInput, match="10 classes, digits has 2"):
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


def test_pruning_removes_channels_and_leaves_a_network_of_blocks(tiny, few_digits, trained):
    network = calibrated(trained, trained.largest, few_digits)
    before = weights(network)
    context = Context(data=few_digits)
    pruned = Prune(ratio=0.5, round_to=8).apply(network, context)
    assert sum(b.macs for b in pruned.describe()) < 0.6 * sum(b.macs for b in network.describe())
    assert all(b.out_ch % 8 == 0 for b in pruned.describe()[:-1])
    assert pruned.describe()[-1].out_ch == 10
    assert same(before, weights(network))
    rebuilt = Network(pruned.describe())
    rebuilt.load_state_dict(pruned.state_dict())
    x = torch.randn(2, *network.input_shape)
    torch.testing.assert_close(rebuilt.eval()(x), pruned(x))
    with pytest.raises(BadInput, match="ratio is a number above 0 to below 1, got"):
        Prune(ratio=1.5)


def test_compression_records_every_step(tiny, few_digits, trained):
    network = calibrated(trained, trained.largest, few_digits)
    teacher = calibrated(trained, trained.largest, few_digits)
    steps = [
        FineTune(epochs=2),
        Prune(ratio=0.4, round_to=8),
        FineTune(epochs=6, lr=0.05, name="recover"),
        Quantize(qat_epochs=2),
    ]
    runtimes = [nas.runtimes.OnnxRuntime(precision=p) for p in ("fp32", "int8")]
    small = nas.compress(network, steps, few_digits, runtime=runtimes, teacher=teacher)
    frame = small.to_pandas()
    assert frame["step"].tolist() == ["extract", "fine-tune", "prune", "recover", "quantize"]
    assert frame["precision"].tolist() == ["fp32"] * 4 + ["int8"]
    assert (frame["measured_ms"] > 0).all()
    assert frame["macs"][2] < frame["macs"][1]
    assert frame["accuracy"][3] > frame["accuracy"][2] - 0.02
    assert isinstance(small.network, Int8Network)
    assert frame["accuracy"][4] == validation_accuracy(small.network, few_digits)
    assert frame["accuracy"][4] > frame["accuracy"][3] - 0.05
    with pytest.raises(BadInput, match="quantize last"):
        nas.compress(network, [Quantize(qat_epochs=0), Prune()], few_digits)
    with pytest.raises(BadInput, match="same name"):
        nas.compress(network, [Prune(), Prune()], few_digits)


def test_simulated_int8_rounds_and_is_taken_off_again(few_digits, trained):
    network = calibrated(trained, trained.largest, few_digits)
    sample = next(batches(few_digits.train, few_digits, network.input_shape[-1]))
    plain, before = network(sample), weights(network)
    with simulated_int8(network, sample):
        rounded = network(sample)
        weight = network[1].expand.weight
        steps = weight / (weight.abs().flatten(1).amax(1).view(-1, 1, 1, 1) / weight_limit())
        torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)
    assert 0 < (rounded - plain).abs().mean() < 0.2 * plain.abs().mean()
    assert same(before, weights(network))
    torch.testing.assert_close(network(sample), plain)


def test_quantization_aware_training_follows_when_too_much_is_lost(few_digits, trained):
    network = calibrated(trained, trained.largest, few_digits)
    context = Context(data=few_digits)
    never = Quantize(max_loss=1.0).apply(network, context)
    assert never.how == "ptq"
    # an impossible demand: fine-tuning must be tried, and the better of both kept
    always = Quantize(max_loss=-1.0, qat_epochs=3).apply(network, context)
    assert validation_accuracy(always, few_digits) >= validation_accuracy(never, few_digits)


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
