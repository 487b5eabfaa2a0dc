"""Laws of blocks, spaces and supernets, over whatever kinds and spaces there are: a new one is tested by existing."""

from __future__ import annotations

import dataclasses
import operator
import pickle
import re
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from conftest import SPACES, lively, randomise
from fvcore.nn import FlopCountAnalysis, parameter_count
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

import search_spaces
from nas import deploy
from nas.blocks import ACTIVATIONS, KINDS, Block, Head, Kernel, Operators, Stem, from_key
from nas.deploy.litert_graph import lowered
from nas.deploy.to_onnx import onnx_model, run_onnx
from nas.errors import BadInput
from nas.modules import ACTIVATION_FUNCTIONS, BlockModule, Network, build, describe
from nas.objectives import flash_size, peak_sram
from nas.space import Choice, SearchSpace, Slot
from nas.supernet import Supernet

LARGE = 1e8  # MACs of a space's largest network; of such a space one small network is tried


@dataclass(frozen=True, kw_only=True)
class MaxBlur(Block):
    """A kind that nas knows nothing of: a convolution, and the largest of each 3 x 3 pixels added."""

    kind: ClassVar[str] = "max_blur"
    read_from: ClassVar = {"in_ch": "mix.in_ch", "out_ch": "mix.out_ch", "kernel": "mix.kernel"}
    kernel: Kernel = 3

    def compute(self, on: Operators[Any], x: Any) -> Any:
        y = on.conv("mix", x, self.out_ch, kernel=self.kernel, act="relu")
        return on.add(y, on.custom("max_blur", [y], _largest, channels=self.out_ch, size=self.size))


def _largest(x: Tensor) -> Tensor:
    return nn.functional.max_pool2d(x, 3, 1, 1)


def own_space() -> SearchSpace:
    """A space of somebody's own, with a kind of their own."""
    choices = [
        Choice("size", (8, 12)),
        Choice("channels", (8, 16)),
        Choice("kernel", (1, 3, 5)),
        Choice("deep", (1, 2)),
    ]
    choices.append(Choice("kernel2", (3, 5), ("deep", (2,))))

    def middle(size: int, channels: int, kernel: int) -> Block:
        return MaxBlur(in_ch=channels, out_ch=channels, size=size, kernel=kernel)

    slots = [
        Slot("stem", ("size", "channels"), lambda s, c: Stem(in_ch=3, out_ch=c, size=s, stride=1)),
        Slot("a", ("size", "channels", "kernel"), middle),
        Slot("b", ("size", "channels", "kernel2", "deep"), lambda s, c, k, deep: middle(s, c, k) if deep > 1 else None),
        Slot("head", ("size", "channels"), lambda s, c: Head(in_ch=c, hidden=24, out_ch=5, size=s)),
    ]
    return SearchSpace("own", choices, slots)


@pytest.fixture(scope="module", params=[*SPACES, "own"])
def any_space(request: pytest.FixtureRequest) -> SearchSpace:
    return own_space() if request.param == "own" else search_spaces.named(request.param)


def some(space: SearchSpace, n: int) -> np.ndarray:
    """``n`` random architectures, or of a space of large networks the smallest of 50."""
    archs = space.sample(50, np.random.default_rng(0))
    macs = space.scorer(space.per_block(lambda b: b.macs))
    if space.extremes(space.per_block(lambda b: b.macs)).maximum < LARGE:
        return archs[:n]
    return archs[[macs(archs).argmin()]]


def examples() -> list[Block]:
    """Three blocks of every kind, from the spaces that have it: the least, the most and another number of MACs."""
    found: dict[str, list[Block]] = {}
    for make in [own_space, *(partial(search_spaces.named, name) for name in SPACES if "imagenet" not in name)]:
        for block in make().blocks:
            found.setdefault(block.kind, []).append(block)
    assert set(found) == set(KINDS), "a block kind that no space has: its laws are not tested"
    rng = np.random.default_rng(0)
    chosen = []
    for blocks in found.values():
        blocks = sorted(blocks, key=lambda b: b.macs)
        chosen += [blocks[0], blocks[-1], blocks[rng.integers(len(blocks))]]
        grouped = [b for b in blocks if getattr(b, "groups", 1) > 1]
        chosen += grouped[:1]
    return list(dict.fromkeys(chosen))


@pytest.fixture(scope="module", params=examples(), ids=lambda block: block.key)
def block(request: pytest.FixtureRequest) -> Block:
    return request.param


# ---- blocks ----------------------------------------------------------------------------------------------------


def test_a_built_block_describes_itself_and_has_its_shape(block):
    module = build(block).eval()
    assert describe(module) == block
    seen = module(torch.randn(2, *block.in_shape))
    assert tuple(seen.shape) == ((2, block.out_ch) if block.trace.output.flat else (2, *block.out_shape))


def test_macs_parameters_and_weights_are_fvcores(block):
    module = randomise(build(block))  # equal biases would be stored once
    counted = FlopCountAnalysis(module, torch.randn(1, *block.in_shape))
    operators = counted.unsupported_ops_warnings(False).uncalled_modules_warnings(False).by_operator()
    assert block.macs == operators["conv"] + operators["linear"]
    assert block.params == parameter_count(module)[""]
    graph = onnx_model(module, block.in_shape).graph  # which has batch norm folded
    folded = [i for i in graph.initializer if i.data_type == 1 and any(i.name in n.input for n in _weighted(graph))]
    assert block.weights == sum(int(np.prod(i.dims)) for i in folded)


def _weighted(graph):
    return [node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]


def test_keys_and_pickles_are_read_back(block):
    assert from_key(block.key) == block
    copy = pickle.loads(pickle.dumps(block))
    assert (copy, copy.macs, copy.live_elements) == (block, block.macs, block.live_elements)
    with pytest.raises(BadInput, match="not a block key"):
        from_key(block.key + " ")


def test_every_number_of_a_block_has_a_range(block):
    for name in block.read_from:
        for wrong in (-1, 0.5, 10**9, "x", None):
            with pytest.raises(BadInput, match=name):
                type(block)(**{**_fields(block), name: wrong})
    if hasattr(block, "act"):
        with pytest.raises(BadInput, match=r"act of a .* is one of relu"):
            type(block)(**{**_fields(block), "act": "hswsih"})


def _fields(block):
    return block.__getstate__()


def test_live_elements_are_those_of_the_traced_module(block):
    """By enumeration over torch.fx's trace of the module: at every node, what is there and what is still to be read."""
    traced = fx.symbolic_trace(build(block).eval(), concrete_args=None)
    ShapeProp(traced).propagate(torch.zeros(1, *block.in_shape))
    nodes = [n for n in traced.graph.nodes if n.op != "output"]
    (result,) = [n.args[0] for n in traced.graph.nodes if n.op == "output"]
    size = {n: int(np.prod(n.meta["tensor_meta"].shape)) for n in nodes}
    most = 0
    for i, node in enumerate(nodes):
        later = {m for other in nodes[i + 1 :] for m in other.all_input_nodes} | {result}
        read = set(node.all_input_nodes)
        there = {m for m in nodes[:i] if m in later or m in read}
        dying = [m for m in read - later if size[m] == size[node]]
        new = 0 if dying and _element_by_element(traced, node) else size[node]
        most = max(most, sum(size[m] for m in there) + new)
    assert block.live_elements == most


def _element_by_element(traced, node) -> bool:
    if node.op == "call_module":
        return isinstance(traced.get_submodule(node.target), nn.BatchNorm2d)
    views = ("unflatten", "transpose")
    return node.target in (operator.add, operator.mul, *views, *ACTIVATION_FUNCTIONS.values())


def test_onnx_computes_what_torch_computes(block):
    module = randomise(build(block))
    x = 10 * np.random.default_rng(0).standard_normal((2, *block.in_shape), dtype=np.float32)  # past every bend
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    seen = run_onnx(onnx_model(module, block.in_shape, batch=2).SerializeToString(), x, 2)
    assert np.abs(seen - expected).max() <= 1e-4 * np.abs(expected).max()


def test_litert_computes_what_torch_computes_or_names_the_kind(block):
    if isinstance(block, MaxBlur):
        with pytest.raises(BadInput, match=r"blocks of kind 'max_blur' have no LiteRT form: .*'max_blur'"):
            lowered([block])
        return
    assert lowered([block]).ops
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    from nas.deploy.litert_file import run_litert
    from nas.deploy.to_litert import channels_last, litert_model

    module = randomise(build(block))
    x = 10 * np.random.default_rng(0).standard_normal((2, *block.in_shape), dtype=np.float32)  # past every bend
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    expected = channels_last(expected) if expected.ndim == 4 else expected
    seen = run_litert(litert_model(module, block.in_shape, batch=2), channels_last(x))
    assert np.abs(seen - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("name", deploy.names())
def test_a_kind_of_ones_own_leaves_through_every_exporter_or_is_named(name, few_digits, tmp_path):
    space = own_space()
    stem, *others, head = space.networks(space.sample(1, np.random.default_rng(0)))[0]
    ends = dataclasses.replace(stem, in_ch=1), dataclasses.replace(head, out_ch=10)  # as the images have it
    network = randomise(Network([ends[0], *others, ends[1]]))
    assert any(isinstance(block, MaxBlur) for block in others)
    path = tmp_path / f"network{deploy.named(name).suffix}"
    try:
        assert deploy.named(name).export(network, path, few_digits).exists()  # its outputs were compared
    except BadInput as error:
        refused = str(error)
        assert re.search("blocks of kind 'max_blur'|operation max_pool2d", refused)
        assert not name.startswith("onnx")
        assert not path.exists()


def test_activations_are_what_their_papers_say():
    x = torch.linspace(-10, 10, 401)
    inner = ((x + 3).clip(0, 6)) / 6
    expected = {
        "relu": x.clip(min=0),
        "relu6": x.clip(0, 6),
        "hswish": x * inner,
        "silu": x / (1 + torch.exp(-x)),
        "sigmoid": 1 / (1 + torch.exp(-x)),
        "hsigmoid": inner,
    }
    assert set(expected) == set(ACTIVATIONS)
    for name, values in expected.items():
        torch.testing.assert_close(ACTIVATION_FUNCTIONS[name](x), values)


# ---- spaces ----------------------------------------------------------------------------------------------------


def test_a_space_survives_pickling(any_space):
    copy = pickle.loads(pickle.dumps(any_space))
    archs = any_space.sample(20, np.random.default_rng(0))
    assert copy.fingerprint == any_space.fingerprint
    assert copy.networks(archs) == any_space.networks(archs)
    assert SearchSpace(copy.name, copy.choices, copy.slots).fingerprint == any_space.fingerprint
    assert len(repr(any_space)) < 160


@pytest.mark.parametrize("name", SPACES)
def test_a_space_is_found_from_what_its_table_says(name):
    space = search_spaces.named(name, classes=7, in_channels=1)
    record = {"name": space.name, "fingerprint": space.fingerprint}
    assert search_spaces.of_table(record, space.blocks).fingerprint == space.fingerprint


# ---- supernets -------------------------------------------------------------------------------------------------


def test_extracted_networks_equal_active_subnets(any_space):
    supernet = Supernet(any_space, seed=1)
    generator = torch.Generator().manual_seed(0)
    for arch in some(any_space, 8):
        supernet.activate(arch)
        lively(supernet)
        network = supernet.extract(arch)
        blocks = any_space.networks(arch[None])[0]
        assert network.describe() == blocks
        assert type(network[0]) is BlockModule
        assert not any(type(m).__module__.startswith("nas.supernet") for m in network.modules())
        x = torch.randn(3, *network.input_shape, generator=generator)
        with torch.no_grad():
            expected, seen = supernet(x), network(x)
            plain = Network(blocks).eval()
            plain.load_state_dict(network.state_dict())
            assert torch.equal(plain(x), seen)
        assert expected.std(dim=0).max() > 0.03  # not equal because the input does not matter
        torch.testing.assert_close(seen, expected, rtol=1e-5, atol=1e-5)


def test_pruned_networks_are_networks_of_blocks_again(any_space):
    tp = pytest.importorskip("torch_pruning", reason="Torch-Pruning is not installed")
    network = lively(Supernet(any_space).extract(some(any_space, 1)[0]))
    before, x = network.describe(), torch.randn(2, *network.input_shape)
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    keep = {"round_to": 8, "ignored_layers": [network[-1].classify]}
    tp.pruner.BasePruner(network, x, importance=importance, pruning_ratio=0.5, **keep).step()
    plain = Network(network.describe()).eval()
    plain.load_state_dict(network.state_dict())
    with torch.no_grad():
        assert torch.equal(plain(x), network(x))
    assert sum(b.macs for b in plain.describe()) < 0.8 * sum(b.macs for b in before)


def test_a_supernet_survives_pickling(any_space):
    if any_space.extremes(any_space.per_block(lambda b: b.macs)).maximum > LARGE:
        pytest.skip("the same code, and up to hundreds of megabytes")
    arch = some(any_space, 1)[0]
    supernet = randomise(Supernet(any_space))
    copy = pickle.loads(pickle.dumps(supernet))
    supernet.activate(arch)
    copy.activate(arch)
    x = torch.randn(2, *supernet.input_shape)
    with torch.no_grad():
        assert torch.equal(copy(x), supernet(x))
    assert len(repr(supernet)) < 200


# ---- a kind of one's own ---------------------------------------------------------------------------------------


def test_a_kind_without_litert_form_is_named_and_works_elsewhere():
    space = own_space()
    for objective in (peak_sram, flash_size):
        with pytest.raises(BadInput, match="'max_blur'"):
            objective(space)
    network = lively(Supernet(space).extract(space.sample(1, np.random.default_rng(3))[0]))
    x = np.random.default_rng(0).standard_normal((4, *network.input_shape), dtype=np.float32)
    seen = run_onnx(onnx_model(network, network.input_shape).SerializeToString(), x)
    with torch.no_grad():
        assert seen == pytest.approx(network(torch.from_numpy(x)).numpy(), abs=1e-4)


def test_kinds_are_one_word_and_unlike_others():
    for kind, message in (("stem", "there is a block kind 'stem' already"), ("two words", "one word"), (3, "one word")):
        with pytest.raises(BadInput, match=message):
            type("Other", (Block,), {"kind": kind, "__module__": "elsewhere"})
    assert "elsewhere" not in {kind.__module__ for kind in KINDS.values()}


def test_blocks_whose_operators_do_not_fit_are_refused():
    def refused(message, compute):
        cls = dataclass(frozen=True, kw_only=True)(type("Wrong", (Block,), {"read_from": {}, "compute": compute}))
        cls.kind = "wrong"
        with pytest.raises(BadInput, match=message):
            cls(in_ch=8, out_ch=8, size=4)

    refused("one shape", lambda self, on, x: on.add(x, on.conv("a", x, 8, stride=2)))
    refused("depthwise cannot turn 8 channels into 16", lambda self, on, x: on.conv("a", x, 16, depthwise=True))
    refused("in 3 groups", lambda self, on, x: on.conv("a", x, 9, groups=3))
    refused("two parts of a block are called a", lambda self, on, x: on.conv("a", on.conv("a", x, 8), 8))
    refused("flat map", lambda self, on, x: on.linear("a", x, 8))
    refused("as many channels and one pixel", lambda self, on, x: on.scale(x, x))
    refused("8 output channels, but computes 4", lambda self, on, x: on.conv("a", x, 4))
    refused("an activation is one of", lambda self, on, x: on.conv("a", x, 8, act="tanh"))
