"""Many subnets evaluated at once: as extracting, recalibrating and evaluating each gives."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from conftest import lively, some_digits
from torch import nn

import search_spaces
from nas.data import inputs
from nas.data.inputs import batches, kept_inputs
from nas.objectives.accuracy import accuracy
from nas.supernet import Supernet, evaluation
from nas.supernet.evaluation import calibrated_block, subnet_accuracies
from nas.supernet.training import calibrated
from nas.training.evaluate import validation_accuracy, validation_views


@pytest.fixture(scope="module")
def several(tiny):
    """Subnets with equal beginnings, one of them twice, out of order."""
    archs = tiny.sample(10, np.random.default_rng(3))
    near = tiny.mutate(archs[:6], np.random.default_rng(4))
    return np.concatenate([archs, near, archs[:1]])


@pytest.fixture(scope="module")
def one_by_one(several, trained, few_digits):
    return [validation_accuracy(calibrated(trained, arch, few_digits), few_digits) for arch in several]


def test_many_subnets_have_the_accuracies_of_the_extracted_ones(several, one_by_one, trained, few_digits):
    together = subnet_accuracies(trained, several, few_digits)
    assert len(set(one_by_one)) > 3  # else any order would do
    image = 1 / (validation_views(few_digits) * len(few_digits.val))
    assert together == pytest.approx(one_by_one, abs=1.5 * image)  # a tie may fall to either side
    assert np.mean(together == one_by_one) > 0.8
    assert (accuracy(trained, few_digits).fn(several) == together).all()


def test_what_beginnings_share_is_computed_once(several, trained, few_digits, monkeypatch):
    seen = []
    plainly = evaluation.calibrated_block
    monkeypatch.setattr(
        evaluation, "calibrated_block", lambda s, slot, block, x: seen.append(slot) or plainly(s, slot, block, x)
    )
    expected = subnet_accuracies(trained, several, few_digits)
    ids = trained.space.block_ids(several)
    beginnings = {tuple(row[: k + 1]) for row in ids for k in range(len(row)) if row[k]}
    assert len(seen) == len(beginnings) < np.count_nonzero(ids)
    monkeypatch.setattr(evaluation, "KEPT_BYTES", 0)  # no room to keep anything: again from the images, every time
    assert (subnet_accuracies(trained, several, few_digits) == expected).all()
    assert len(seen) == len(beginnings) + np.count_nonzero(ids)


@pytest.mark.parametrize("name", ["mobilenet_v3.digits", "efficientnet.digits"])
def test_recalibrated_statistics_are_those_of_the_plain_way(name, few_digits, monkeypatch):
    monkeypatch.setattr(inputs, "images_at_once", lambda size, device: 100)  # uneven chunks
    supernet = Supernet(search_spaces.named(name))
    arch = supernet.space.sample(1, np.random.default_rng(5))[0]
    supernet.activate(arch)
    lively(supernet)
    plain = calibrated(supernet, arch, few_digits)
    size = plain.input_shape[-1]
    chunks = list(inputs.chosen_inputs(few_digits, 512, size))
    assert len(chunks) == 3
    x = torch.cat(list(batches(few_digits.val, few_digits, size)))
    expected, got = x, x
    filled = [
        (slot, supernet.space.blocks[i - 1]) for slot, i in enumerate(supernet.space.block_ids(arch[None])[0]) if i
    ]
    with torch.no_grad():
        for (slot, block), module in zip(filled, plain, strict=True):
            folded, chunks = calibrated_block(supernet, slot, block, chunks)
            expected, got = module(expected), folded(got)
            scale = expected.abs().max()
            assert (got - expected).abs().max() <= 1e-5 * scale
            assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]


def test_pooled_statistics_are_of_all_chunks():
    x = torch.randn(100, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 + 5
    x[:30] += 1
    mean, var = evaluation.statistics_of(x.split(30))
    torch.testing.assert_close(mean, x.double().mean((0, 2, 3)).float(), rtol=1e-5, atol=0)
    torch.testing.assert_close(var, x.double().var((0, 2, 3), correction=0).float(), rtol=1e-5, atol=0)


def test_evaluating_leaves_the_supernet_as_it_was(several, trained, few_digits):
    before = {k: v.clone() for k, v in trained.state_dict().items()}
    subnet_accuracies(trained, several[:3], few_digits)
    assert all(torch.equal(v, before[k]) for k, v in trained.state_dict().items())
    assert all(p.requires_grad and p.grad_fn is None for p in trained.parameters())


def test_new_weights_give_new_accuracies(tiny, few_digits):
    supernet = Supernet(tiny)
    archs = tiny.sample(4, np.random.default_rng(0))
    before = subnet_accuracies(supernet, archs, few_digits)
    for module in supernet.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, generator=torch.Generator().manual_seed(1))
    assert (subnet_accuracies(supernet, archs, few_digits) != before).any()


def test_kept_images_have_a_budget_and_end_with_their_data(monkeypatch):
    data = [some_digits()]
    made = []

    def images(size):
        def make():
            made.append(size)
            return batches(data[0].val, data[0], size, 50)

        return torch.cat(list(kept_inputs(data[0], len(data[0].val), size, make)))

    one = len(data[0].val) * 16 * 16 * 4
    monkeypatch.setattr(inputs, "KEPT_BYTES", 2 * one)
    assert torch.equal(images(16), images(16))
    assert made == [16]
    images(15), images(16), images(14), images(16)  # 15 is the one used longest ago
    assert made == [16, 15, 14]
    images(15)
    assert made == [16, 15, 14, 15]
    assert torch.equal(images(40), images(40))
    assert made[-2:] == [40, 40]  # more than there is room for
    gone = weakref.ref(data[0])
    data.clear()
    gc.collect()
    assert gone() is None
