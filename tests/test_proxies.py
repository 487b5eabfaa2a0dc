"""Zero-cost proxies against values worked out by hand or by another road."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nas.objectives.proxies import PROXIES, grad_norm, naswot, proxy, snip, synflow
from search_spaces import MobileNetV3

SPACE = MobileNetV3.digits()


def small(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4))


def test_synflow_of_two_linear_layers_by_hand():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False))
    a, b = (layer.weight.detach().abs().double() for layer in network[1:])
    # every path from input to output counts once per layer
    expected = 2 * float((b @ a).sum())
    assert synflow(network, torch.zeros(1, 1, 2, 2), torch.zeros(1)) == pytest.approx(np.log(expected))


def test_naswot_is_the_determinant_of_agreeing_units():
    network, images = small(), torch.randn(6, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        codes = (network.train()[1](network[0](images)) > 0).reshape(6, -1).numpy()
    agree = np.array([[(a == b).sum() for b in codes] for a in codes], dtype=float)
    assert naswot(small(), images, torch.zeros(6)) == pytest.approx(np.linalg.slogdet(agree)[1], rel=1e-6)


def test_snip_is_the_loss_s_slope_along_each_weight():
    images, labels = torch.randn(8, 1, 6, 6), torch.arange(8) % 4
    network = small()
    total = 0.0
    for layer in (network[0], network[4]):
        flat = layer.weight.data.view(-1)
        for i in range(len(flat)):
            old, step = float(flat[i]), 1e-2
            losses = []
            for sign in (1, -1):
                flat[i] = old + sign * step
                losses.append(float(F.cross_entropy(network.train()(images), labels)))
            flat[i] = old
            total += abs(old * (losses[0] - losses[1]) / (2 * step))
    assert snip(small(), images, labels) == pytest.approx(total, rel=0.02)


def test_grad_norm_is_that_of_backward():
    images, labels = torch.randn(8, 1, 6, 6), torch.arange(8) % 4
    network = small()
    F.cross_entropy(network.train()(images), labels).backward()
    squares = sum(float(layer.weight.grad.pow(2).sum()) for layer in (network[0], network[4]))
    assert grad_norm(small(), images, labels) == pytest.approx(squares**0.5, rel=1e-5)


@pytest.mark.parametrize("score", PROXIES)
def test_the_network_is_left_as_it_was(score):
    network = small().eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    score(network, torch.randn(4, 1, 6, 6), torch.arange(4))
    assert not network.training
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
