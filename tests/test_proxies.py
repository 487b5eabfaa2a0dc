"""Zero-cost proxies against values worked out by hand or by another road."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nas.errors import BadInput
from nas.modules import Network
from nas.objectives.proxies import PROXIES, grad_norm, naswot, proxy, snip, synflow
from search_spaces import EfficientNet, MobileNetV2, MobileNetV3

SPACE = MobileNetV3.digits()
LABELS = torch.arange(8) % 4


def pictures(n=8):
    return torch.randn(n, 1, 6, 6, generator=torch.Generator().manual_seed(1))


class Activation(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def small(activation=F.relu):
    torch.manual_seed(0)
    act = Activation(activation)
    return nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), act, nn.Flatten(), nn.Linear(48, 4))


def test_synflow_of_two_linear_layers_by_hand():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False))
    a, b = (layer.weight.detach().abs().double() for layer in network[1:])
    # every path from input to output counts once per layer
    expected = 2 * float((b @ a).sum())
    assert synflow(network, torch.zeros(1, 1, 2, 2), torch.zeros(1)) == pytest.approx(np.log(expected))


def test_synflow_takes_norms_and_activations_out_and_weights_without_their_sign():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 3, 3, bias=False), nn.Conv2d(3, 2, 1, bias=False), nn.Linear(32, 4, bias=False)]
    first, second, last = layers
    plain = nn.Sequential(first, second, nn.Flatten(), last)
    norm = nn.BatchNorm2d(3, momentum=1.0)
    dressed = nn.Sequential(first, norm, nn.Hardswish(), second, nn.SiLU(), nn.Flatten(), last)
    positive = copy.deepcopy(plain)
    with torch.no_grad():
        norm.running_var.fill_(7.0)
        for layer in positive.parameters():
            layer.abs_()
    scores = [synflow(network, pictures(), LABELS) for network in (plain, dressed, positive)]
    assert scores == pytest.approx([scores[0]] * 3)


def test_synflow_sees_all_layers_of_clipped_and_deep_networks():
    """A wider first layer must count although relu6 clips after it, and depth must not overflow."""

    def deep(width):
        torch.manual_seed(0)
        blocks = [layer for _ in range(60) for layer in (nn.Conv2d(64, 64, 3, padding=1), nn.ReLU())]
        return nn.Sequential(nn.Conv2d(1, width, 3), Relu6(), nn.Conv2d(width, 64, 1), *blocks, nn.Flatten())

    narrow, wide = (synflow(deep(width), pictures(), LABELS) for width in (8, 256))
    assert np.isfinite(narrow)
    assert wide > narrow + 1


class Relu6(nn.Module):
    def forward(self, x):
        return F.relu6(100 * x)


@pytest.mark.parametrize("activation", [F.relu, F.relu6, F.hardswish, F.silu])
def test_naswot_is_the_determinant_of_agreeing_units(activation):
    network, images = small(activation), pictures(6)
    with torch.no_grad():
        codes = (network.train()[1](network[0](images)) > 0).reshape(6, -1).numpy()
    agree = np.array([[(a == b).sum() for b in codes] for a in codes], dtype=float)
    assert naswot(small(activation), images, torch.zeros(6)) == pytest.approx(np.linalg.slogdet(agree)[1], rel=1e-6)


def test_naswot_of_images_that_cannot_be_told_apart():
    assert naswot(small().eval(), pictures(1).repeat(3, 1, 1, 1), LABELS[:3]) == -np.inf


def test_snip_is_the_loss_s_slope_along_each_weight():
    network, images = small().double(), pictures().double()
    total = 0.0
    for layer in (network[0], network[4]):
        flat = layer.weight.data.view(-1)
        for i in range(len(flat)):
            old, step = float(flat[i]), 1e-5
            losses = []
            for sign in (1, -1):
                flat[i] = old + sign * step
                losses.append(float(F.cross_entropy(network.train()(images), LABELS).detach()))
            flat[i] = old
            total += abs(old * (losses[0] - losses[1]) / (2 * step))
    assert snip(small(), pictures(), LABELS) == pytest.approx(total, rel=1e-4)


def test_grad_norm_adds_up_the_layers_of_backward():
    network = small()
    F.cross_entropy(network.train()(pictures()), LABELS).backward()
    expected = sum(float(layer.weight.grad.norm()) for layer in (network[0], network[4]))
    assert grad_norm(small(), pictures(), LABELS) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("score", PROXIES)
def test_the_network_is_left_as_it_was(score):
    network = small().eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    score(network, pictures(), LABELS)
    assert not any(module.training for module in network.modules())
    assert all(p.grad is None for p in network.parameters())
    for k, v in network.state_dict().items():
        assert torch.equal(v, before[k]), k
        assert v.dtype == before[k].dtype


@pytest.mark.parametrize("score", PROXIES)
def test_as_objectives_they_repeat_and_leave_random_numbers_alone(score, digits):
    objective = proxy(score, SPACE, digits, images=16)
    archs = SPACE.sample(3, np.random.default_rng(0))
    torch.manual_seed(1)
    first = objective(archs)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn)
    assert np.isfinite(first).all()
    assert (objective(archs[::-1])[::-1] == first).all()
    assert objective.maximize
    assert not objective.cheap


@pytest.mark.parametrize("family", [MobileNetV2, MobileNetV3, EfficientNet])
@pytest.mark.parametrize("score", PROXIES)
def test_larger_networks_do_not_overflow_and_seeds_differ(score, family, digits):
    space = family.digits()
    archs = space.sample(2, np.random.default_rng(0))
    first, second = (proxy(score, space, digits, images=16, seed=seed)(archs) for seed in (0, 1))
    assert np.isfinite(first).all()
    assert (first != second).all()


def test_networks_see_images_of_their_own_size_from_the_training_set(digits):
    seen = []

    def spy(network, images, labels):
        assert isinstance(network, Network)
        seen.append((images.shape[-1], network.input_shape[-1], labels.tolist()))
        return 1.0

    archs = SPACE.sample(8, np.random.default_rng(0))
    objective = proxy(spy, SPACE, digits, images=40, name="mine")
    assert objective(archs).tolist() == [1.0] * 8
    assert objective.name == "mine"
    assert len({size for size, _, _ in seen}) > 1
    assert all(size == own for size, own, _ in seen)
    assert all(labels == seen[0][2] for _, _, labels in seen)
    assert len(set(seen[0][2])) > 4  # drawn at random, not the first of a sorted folder


def test_by_name_it_is_the_same_objective(digits):
    archs = SPACE.sample(2, np.random.default_rng(0))
    named, given = (proxy(score, SPACE, digits, images=8) for score in ("snip", snip))
    assert (named(archs) == given(archs)).all()
    assert named.identity == given.identity
    assert named.identity != proxy(snip, SPACE, digits, images=8, seed=1).identity


def test_bad_input(digits):
    with pytest.raises(BadInput, match="no proxy 'zen'; the proxies are synflow, naswot, grad_norm, snip"):
        proxy("zen", SPACE, digits)
    with pytest.raises(BadInput, match=r"images is a whole number from 2 .*, got 1"):
        proxy(snip, SPACE, digits, images=1)
