"""Blocks, modules and the supernet: shapes, counts and the equality of subnet and extracted network."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from conftest import randomise
from torch import nn
from torch.nn import functional as F

import search_spaces
from nas.blocks import Conv, InvertedResidual, Linear, Norm
from nas.blocks.fused_mbconv import FusedMBConv
from nas.errors import BadInput
from nas.modules import Network, build, describe
from nas.space import Choice, SearchSpace, Slot
from nas.supernet import Supernet, recalibrate
from nas.supernet.elastic import ElasticBatchNorm2d, ElasticConv2d, ElasticLinear, load_part
from search_spaces import NasBench201


def test_a_supernet_starts_as_the_largest_network_and_knows_the_smallest(family):
    supernet = Supernet(family)
    macs = family.scorer(family.per_block(lambda b: b.macs))
    sample = macs(family.sample(1000, np.random.default_rng(0)))
    assert macs(supernet.smallest[None])[0] <= sample.min() < sample.max() <= macs(supernet.largest[None])[0]
    largest = supernet.extract(supernet.largest)
    assert supernet.input_shape == largest.input_shape
    x = torch.randn(2, *largest.input_shape)
    torch.testing.assert_close(supernet.train()(x), largest.train()(x))


def test_extraction_copies_and_leaves_no_trace(family):
    supernet = randomise(Supernet(family))
    arch = family.sample(1, np.random.default_rng(0))[0]
    network = supernet.extract(arch)
    assert network.describe() == family.networks(arch[None])[0]
    assert not any(type(m).__module__.startswith("nas.supernet") for m in network.modules())
    Network(network.describe()).load_state_dict(network.state_dict())
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.zero_()
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


def test_networks_differ_between_architectures(family):
    supernet = randomise(Supernet(family))
    archs = np.unique(family.sample(30, np.random.default_rng(0)), axis=0)
    outputs = []
    for arch in archs:
        network = supernet.extract(arch)
        x = F.interpolate(torch.ones(1, network.input_shape[0], 8, 8), size=network.input_shape[-1])
        with torch.no_grad():
            outputs.append(network(x).numpy().round(5).tobytes())
    assert len(set(outputs)) == len(archs)


def test_elastic_slices_equal_hand_written_indexing():
    torch.manual_seed(0)
    dense = ElasticConv2d([Conv(in_ch=i, out_ch=o, size=4, bias=True) for i in (3, 6) for o in (4, 8)])
    part = Conv(in_ch=3, out_ch=4, size=4, bias=True)
    dense.activate(part)
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(dense(x), F.conv2d(x, dense.weight[:4, :3], dense.bias[:4]))

    depthwise = ElasticConv2d(
        [Conv(in_ch=c, out_ch=c, kernel=k, depthwise=True, size=8) for c in (4, 8) for k in (3, 5, 7)]
    )
    matrices = {5: torch.randn(25, 25), 3: torch.randn(9, 9)}
    with torch.no_grad():
        for k, matrix in matrices.items():
            depthwise.transforms[str(k)].copy_(matrix)
    weight = depthwise.weight[:4]
    five = (weight[:, :, 1:6, 1:6].reshape(4, 25) @ matrices[5]).view(4, 1, 5, 5)
    three = (five[:, :, 1:4, 1:4].reshape(4, 9) @ matrices[3]).view(4, 1, 3, 3)
    for kernel, expected in ((7, weight), (5, five), (3, three)):
        part = Conv(in_ch=4, out_ch=4, kernel=kernel, depthwise=True, size=8)
        torch.testing.assert_close(depthwise.sliced(part)["weight"], expected)

    kernels = ElasticConv2d([Conv(in_ch=4, out_ch=o, kernel=k, size=8) for o in (3, 6) for k in (3, 5, 7)])
    assert not list(kernels.transforms)  # matrices are depthwise kernels' only
    centre = kernels.weight[:3, :, 2:5, 2:5]
    part = Conv(in_ch=4, out_ch=3, kernel=3, size=8)
    kernels.activate(part)
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(kernels(x), F.conv2d(x, centre, padding=1))
    torch.testing.assert_close(kernels.sliced(part)["weight"], centre)

    grouped = ElasticConv2d([Conv(in_ch=4, out_ch=6, groups=g, size=4) for g in (1, 2)])
    part = Conv(in_ch=4, out_ch=6, groups=2, size=4)
    halves = torch.cat([grouped.weight[:3, :2], grouped.weight[3:, 2:]])
    torch.testing.assert_close(grouped.sliced(part)["weight"], halves)

    linear = ElasticLinear([Linear(in_ch=i, out_ch=o) for i in (3, 6) for o in (4, 8)])
    x = torch.randn(2, 3)  # until told otherwise it runs as its first option
    torch.testing.assert_close(linear(x), x @ linear.weight[:4, :3].T + linear.bias[:4])
    linear.activate(Linear(in_ch=3, out_ch=8))
    torch.testing.assert_close(linear(x), x @ linear.weight[:, :3].T + linear.bias)


def test_a_grouped_layer_loads_into_an_elastic_one_that_may_be_dense():
    torch.manual_seed(0)
    plain = torch.nn.Conv2d(4, 6, 3, padding=1, groups=2)
    parts = [Conv(in_ch=4, out_ch=6, kernel=3, groups=g, size=4, bias=True) for g in (1, 2)]
    elastic = ElasticConv2d(parts)
    load_part(elastic, parts[1], plain.state_dict())
    x = torch.randn(2, 4, 4, 4)
    for part in parts:  # dense, with zeros between the groups
        elastic.activate(part)
        torch.testing.assert_close(elastic(x), plain(x))


def test_elastic_norms_equal_hand_written_indexing():
    torch.manual_seed(0)
    norm = ElasticBatchNorm2d([Norm(channels=4), Norm(channels=8)])
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.copy_(torch.rand(8) + 0.5)
    for name in ("weight", "bias", "running_mean", "running_var"):
        torch.testing.assert_close(norm.sliced(Norm(channels=4))[name], getattr(norm, name)[:4])
    norm.eval().activate(Norm(channels=4))
    x = torch.randn(2, 4, 3, 3)
    plain = F.batch_norm(x, norm.running_mean[:4], norm.running_var[:4], norm.weight[:4], norm.bias[:4])
    torch.testing.assert_close(norm(x), plain)


def test_weights_start_as_torchvision_starts_them_and_kernels_as_their_centre():
    torch.manual_seed(0)
    module = build(InvertedResidual(in_ch=64, mid=256, out_ch=96, size=8, kernel=5, se=32))
    for layer, fan_out in ((module.expand, 256), (module.depthwise, 256 * 25), (module.project, 96)):
        assert layer.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
    assert not module.squeeze.bias.any()
    space = search_spaces.named("mobilenet_v3.digits")
    one, same, other = (Supernet(space, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["slots.0.conv.weight"], other["slots.0.conv.weight"])
    depthwise = ElasticConv2d([Conv(in_ch=4, out_ch=4, kernel=k, depthwise=True, size=8) for k in (3, 7)])
    small = depthwise.sliced(Conv(in_ch=4, out_ch=4, kernel=3, depthwise=True, size=8))["weight"]
    torch.testing.assert_close(small, depthwise.weight[:, :, 2:5, 2:5])


def test_elastic_norm_trains_its_slice_only():
    norm = ElasticBatchNorm2d([Norm(channels=4), Norm(channels=8)]).train()
    norm.activate(Norm(channels=4))
    x = torch.randn(16, 4, 5, 5) + 3
    torch.testing.assert_close(norm(x), F.batch_norm(x, None, None, training=True))
    torch.testing.assert_close(norm.running_mean[:4], 0.1 * x.mean((0, 2, 3)))
    assert (norm.running_mean[:4] > 0.1).all()
    assert (norm.running_mean[4:] == 0).all()


def test_recalibration_pools_variance_over_batches(family):
    torch.manual_seed(0)
    network = Network(family.networks(family.sample(1, np.random.default_rng(0)))[0])
    # batches that differ a lot, and in size: only the pooled statistics equal those of all images at once
    images = torch.randn(96, *network.input_shape) * torch.linspace(0.2, 3, 96).view(-1, 1, 1, 1)
    images += torch.linspace(-2, 2, 96).view(-1, 1, 1, 1)
    network.train()
    first = network[0].conv(images)
    recalibrate(network, images.split(40))
    norm = network[0].norm
    mean, variance = first.mean((0, 2, 3)), first.var((0, 2, 3))
    torch.testing.assert_close(norm.running_mean, mean, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(norm.running_var, variance, rtol=1e-2, atol=1e-4)
    assert network.training
    assert norm.momentum == 0.1
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(BadInput, match="no images"):
        recalibrate(network, [])
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


def test_describe_follows_pruned_layers_and_refuses_broken_ones(family):
    block = next(b for b in family.blocks if isinstance(b, InvertedResidual) and not b.residual)
    sizes = {"in_ch": block.in_ch - 3, "mid": block.mid - 5, "out_ch": block.out_ch - 1}
    smaller = dataclasses.replace(block, **sizes, kernel=7)
    module = build(smaller)
    module.block = block  # as after pruning: the layers have changed, the record has not
    assert describe(module) == smaller
    module.project = nn.Conv2d(block.mid, block.out_ch, 1, bias=False)
    with pytest.raises(BadInput, match="no longer form"):
        describe(module)


def test_blocks_of_several_kinds_share_a_slot_and_weights_within_a_kind():
    def either(kind, mid):
        return kind_of[kind](in_ch=8, out_ch=8, mid=mid, size=8, residual=True)

    kind_of = {"dense": FusedMBConv, "depthwise": InvertedResidual}
    slots = [Slot("a", ("kind", "mid"), either)]
    space = SearchSpace("x", [Choice("kind", tuple(kind_of)), Choice("mid", (8, 16))], slots)
    supernet = randomise(Supernet(space))
    assert set(supernet.slots[0]) == {"fused_mbconv", "inverted_residual"}
    x = torch.randn(2, 8, 8, 8)
    for arch in ([0, 0], [0, 1], [1, 0], [1, 1]):
        supernet.activate(arch)
        with torch.no_grad():
            torch.testing.assert_close(supernet.extract(arch)(x), supernet(x))


def test_networks_of_blocks_that_do_not_fit_are_refused(family):
    blocks = list(family.networks(family.sample(1, np.random.default_rng(0)))[0])
    with pytest.raises(BadInput, match="takes"):
        Network([blocks[0], blocks[-1], blocks[0]])
    for wrong in ([], [1], ["stem"]):
        with pytest.raises(BadInput, match=r"one block or more|blocks is a list, each a Block"):
            Network(wrong)


def test_slots_that_cannot_share_weights_are_refused():
    def changing(stride):
        return InvertedResidual(in_ch=8, out_ch=8, mid=16, size=8, stride=stride, act="relu")

    space = SearchSpace("x", [Choice("stride", (1, 2))], [Slot("a", ("stride",), changing)])
    with pytest.raises(BadInput, match="cannot share weights"):
        Supernet(space)
    with pytest.raises(BadInput, match="no blocks"):
        Supernet(NasBench201.cell())
    with pytest.raises(BadInput, match="seed is a whole number"):
        Supernet(space, seed=-1)
    with pytest.raises(BadInput, match="one architecture has shape"):
        Supernet(SearchSpace("y", [Choice("stride", (1,))], [Slot("a", ("stride",), changing)])).activate([[0]])
