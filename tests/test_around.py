"""Spaces around a network: the largest member is the network, and slices keep what matters."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import lively
from torch import Tensor, nn

import nas
import search_spaces
from nas.blocks import KINDS, Block, Head, InvertedResidual, Stem
from nas.blocks.resnet import BasicBlock, Bottleneck, Classifier
from nas.channels import is_removable, with_sorted_channels
from nas.data.images import ImageData
from nas.errors import BadInput
from nas.modules import Network
from nas.space import SearchSpace
from nas.supernet import Supernet, train_supernet

STEM = Stem(in_ch=3, out_ch=16, size=16, act="relu6")


def network_of(*blocks: Block, seed: int = 0) -> Network:
    """Stem, ``blocks`` and a head, with weights."""
    last = blocks[-1]
    head = Head(in_ch=last.out_ch, hidden=32, out_ch=5, size=last.out_size)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Network([STEM, *blocks, head])
    lively(network, seed)
    return network.eval()


def inverted(**changed: int | str) -> InvertedResidual:
    values = {"in_ch": 16, "out_ch": 16, "mid": 64, "size": 8, "kernel": 5, "se": 16, "act": "silu", "residual": True}
    return InvertedResidual(**(values | changed))  # type: ignore[arg-type]


@torch.no_grad()
def outputs(network: nn.Module, shape: tuple[int, int, int] = (3, 16, 16)) -> Tensor:
    x: Tensor = network(torch.randn(4, *shape, generator=torch.Generator().manual_seed(0)))
    return x


def deaden(network: Network, share: float) -> None:
    """Weights that read a random ``share`` of every group of channels are 0, but not those that read pixels."""
    with torch.no_grad():
        for name, layer in network.named_modules():
            grouped = isinstance(layer, nn.Conv2d) and layer.groups > 1
            if isinstance(layer, nn.Conv2d | nn.Linear) and not grouped and name != "0.conv":
                width = layer.weight.shape[1]
                dead = np.random.default_rng(width).permutation(width)[: round(width * share)]
                layer.weight[:, dead] = 0


@pytest.fixture(scope="module", params=search_spaces.names())
def member(request: pytest.FixtureRequest) -> tuple[SearchSpace, Network]:
    """A random network of every family's space, its weights random."""
    space = search_spaces.named(request.param)
    if not space.slots:
        pytest.skip("a space without blocks")
    arch = space.sample(1, np.random.default_rng(4))
    network = Network(at_most(64, space.networks(arch)[0]))
    lively(network)
    return space, network.eval()


def at_most(size: int, blocks: tuple[Block, ...]) -> list[Block]:
    """The network for images of at most ``size`` pixels, which are fast."""
    made: list[Block] = []
    for block in blocks:
        made.append(dataclasses.replace(block, size=made[-1].out_size if made else min(block.size, size)))
    return made


def test_the_largest_member_of_the_space_around_a_network_is_that_network(member: tuple[SearchSpace, Network]) -> None:
    network = member[1]
    space = nas.around(network)
    supernet = Supernet(space).eval()
    largest = supernet.extract(supernet.largest)
    assert largest.describe() == network.describe()
    everywhere = space.networks(space.whole)
    assert everywhere[-1] == network.describe()
    assert [blocks[0].size for blocks in everywhere] == list(space.choices[0].values)
    assert all([b.out_ch for b in blocks] == [b.out_ch for b in network.describe()] for blocks in everywhere)
    wanted = outputs(network, network.input_shape)
    torch.testing.assert_close(outputs(largest, network.input_shape), wanted, atol=1e-4, rtol=1e-4)
    macs = space.scorer(space.per_block(lambda block: block.macs))
    others = space.sample(200, np.random.default_rng(0))
    others = others[(others != space.canonical(supernet.largest[None])).any(1)]
    assert len(others) > 100
    assert (macs(others) < sum(block.macs for block in network.describe())).all()
    for arch in (supernet.smallest, others[0]):
        small = supernet.extract(arch)
        assert outputs(small, small.input_shape).shape == wanted.shape
        supernet.activate(arch)
        torch.testing.assert_close(outputs(supernet, small.input_shape), outputs(small, small.input_shape))


def of_kind(kind: type[Block]) -> Block:
    values = {"in_ch": 16, "out_ch": 16, "size": 8} | {f: v for f, v in (("mid", 32), ("se", 8), ("hidden", 24))}
    fields = {f.name for f in dataclasses.fields(kind)}
    wanted = {f: v for f, v in values.items() if f in fields} | ({"residual": True} if "residual" in fields else {})
    return kind(**wanted | ({"stride": 1} if "stride" in fields else {}))


@pytest.mark.parametrize("kind", [kind for kind in KINDS.values() if kind.__module__.startswith("nas.")])
def test_sorting_channels_leaves_every_kind_the_function_that_it_is(kind: type[Block]) -> None:
    block = of_kind(kind)
    rest: list[Block] = [Classifier(in_ch=16, out_ch=5, size=block.out_size)]
    blocks = [STEM, block, *(rest if block.out_size > 1 else [])]
    network = Network(blocks)
    lively(network)
    sorted_ = with_sorted_channels(network)
    torch.testing.assert_close(outputs(sorted_), outputs(network), atol=1e-5, rtol=1e-5)
    assert not torch.equal(sorted_[0].conv.weight, network[0].conv.weight)


@pytest.mark.parametrize(
    "blocks",
    [
        (BasicBlock(in_ch=16, mid=24, out_ch=16, size=8), Bottleneck(in_ch=16, mid=24, out_ch=16, size=8)),
        (inverted(groups=4, se=0), inverted(), inverted(residual=False)),
    ],
)
def test_sorting_channels_leaves_residual_networks_the_function_that_they_are(blocks: tuple[Block, ...]) -> None:
    network = network_of(*blocks)
    torch.testing.assert_close(outputs(with_sorted_channels(network)), outputs(network), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("gene", ["expand", "width"])
def test_what_slices_cut_off_is_what_matters_least(gene: str) -> None:
    """With the readers of half of all channels dead, the network of half the channels computes the same."""
    network = network_of(inverted(), inverted(in_ch=16, out_ch=32, stride=2, residual=False))
    deaden(network, 0.5)
    space = nas.around(network, widths=(0.5,), expansions=(0.5,), min_kernel=11)
    supernet = Supernet(space).eval()
    config = space.decode(supernet.largest[None])[0]
    halved = {name: 0.5 for name in config if name.endswith(gene)}
    arch = space.encode([config | halved])[0]
    half = supernet.extract(arch)
    assert sum(b.macs for b in half.describe()) < 0.8 * sum(b.macs for b in network.describe())
    torch.testing.assert_close(outputs(half), outputs(network), atol=1e-4, rtol=1e-4)


def test_depth_leaves_out_the_last_residual_blocks_and_kernels_are_centres() -> None:
    network = network_of(*(inverted() for _ in range(4)))
    space = nas.around(network, widths=(), expansions=(), resolutions=())
    assert [(c.name, c.values) for c in space.choices][:4] == [
        ("resolution", (16,)),
        ("width", (1.0,)),
        ("s1.depth", (2, 3, 4)),
        ("s1b1.kernel", (3, 5)),
    ]
    supernet = Supernet(space).eval()
    config = space.decode(supernet.largest[None])[0]
    shallow = supernet.extract(space.encode([config | {"s1.depth": 3}])[0])
    wanted = Network([*network.describe()[:4], network.describe()[-1]]).eval()
    wanted.load_state_dict(nn.Sequential(*list(network)[:4], network[-1]).state_dict())
    torch.testing.assert_close(outputs(shallow), outputs(wanted), atol=1e-5, rtol=1e-5)
    narrow = supernet.extract(space.encode([config | {"s1b2.kernel": 3}])[0])
    centred = network_of(inverted(), inverted(kernel=3), inverted(), inverted())
    state = dict(network.state_dict())
    state["2.depthwise.weight"] = state["2.depthwise.weight"][:, :, 1:-1, 1:-1]
    centred.load_state_dict(state)
    torch.testing.assert_close(outputs(narrow), outputs(centred), atol=1e-5, rtol=1e-5)


def test_a_block_is_left_out_only_where_its_input_is_added_as_it_came() -> None:
    assert is_removable(inverted())
    assert not is_removable(inverted(residual=False))
    assert is_removable(BasicBlock(in_ch=16, mid=16, out_ch=16, size=8))
    assert not is_removable(BasicBlock(in_ch=16, mid=16, out_ch=16, size=8, downsample=True))
    assert not is_removable(inverted(out_ch=24, residual=False))
    space = nas.around(network_of(inverted(), inverted(), inverted(residual=False), inverted()), min_depth=1)
    depths = {c.name: c.values for c in space.choices if c.name.endswith("depth")}
    assert depths == {"s1.depth": (1, 2), "s2.depth": (1, 2)}


def test_a_space_around_a_network_travels_with_its_weights() -> None:
    network = network_of(inverted(), inverted())
    space = nas.around(network)
    there = pickle.loads(pickle.dumps(space))
    assert (there.fingerprint, there.start) == (space.fingerprint, space.start)
    supernet = Supernet(there).eval()
    torch.testing.assert_close(outputs(supernet.extract(supernet.largest)), outputs(network), atol=1e-5, rtol=1e-5)
    other = nas.around(network_of(inverted(), inverted(), seed=1))
    assert other.fingerprint == space.fingerprint  # the same networks, so tables are of both
    assert other.start != space.start


def test_a_training_belongs_to_the_weights_that_it_started_from(
    few_digits: ImageData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def started(seed: int) -> SearchSpace:
        torch.manual_seed(seed)
        stem, head = Stem(in_ch=1, out_ch=16, size=8), Head(in_ch=16, hidden=16, out_ch=10, size=4)
        network = Network([stem, inverted(size=4), head])
        network.normalise = ((0.5,), (0.25,))
        return nas.around(network, resolutions=(), widths=(0.5,))

    train_supernet(started(0), few_digits, epochs=1, run_dir=tmp_path, progress=False)
    assert "around was taught with pixels of another normalisation" in caplog.text
    train_supernet(started(0), few_digits, epochs=1, run_dir=tmp_path, progress=False)
    with pytest.raises(BadInput, match="start"):
        train_supernet(started(1), few_digits, epochs=1, run_dir=tmp_path, progress=False)


def test_what_cannot_be_searched_around_is_said_in_one_line() -> None:
    tiny = Network([Stem(in_ch=1, out_ch=8, size=8), Head(in_ch=8, hidden=8, out_ch=2, size=4)])
    with pytest.raises(BadInput, match=r"^around: there is no alternative to this network of 2 blocks at 8 px$"):
        nas.around(tiny)
    with pytest.raises(BadInput, match="at 8 px; got a resolution of 16"):
        nas.around(tiny, resolutions=(4, 16))


def test_images_are_normalised_as_the_network_was_taught(few_digits: ImageData) -> None:
    network = Network([Stem(in_ch=1, out_ch=8, size=8), Head(in_ch=8, hidden=8, out_ch=2, size=4)])
    assert few_digits.normalised_as(network) is few_digits
    network.normalise = ((0.5,), (0.25,))
    seen = few_digits.normalised_as(network)
    assert (seen.mean.tolist(), seen.std.tolist()) == ([0.5], [0.25])
    assert seen.fingerprint != few_digits.fingerprint
    assert seen.preprocessing(8)["mean"] == [0.5]
    with pytest.raises(BadInput, match="each of 1 channels"):
        dataclasses.replace(few_digits, normalise=((0.5, 0.5), (0.1, 0.1)))
    with pytest.raises(BadInput, match="above 0"):
        dataclasses.replace(few_digits, normalise=((0.5,), (0.0,)))
