"""TensorFlow's 'same' padding and batch norm's epsilon: properties of blocks that every form of a network keeps."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import randomise
from torch import Tensor, nn
from torch.nn import functional as F

import nas
from nas.blocks import Block, Conv, Head, InvertedResidual, Norm, Stem, from_key
from nas.compression.simulation import simulated_int8
from nas.deploy.litert_graph import lowered
from nas.deploy.to_onnx import onnx_model, quantized, run_onnx
from nas.errors import BadInput
from nas.space import Choice, SearchSpace, Slot
from nas.supernet import Supernet

TF = {"padding": "tf", "eps": 1e-3}
TABLE = "amd-epyc_onnxruntime_int8_mobilenet_v3_digits"


def same_padded(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """The definition: as many zeros as the windows need, the odd one behind."""
    size, kernel = x.shape[-1], weight.shape[-1]
    needed = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    before, after = needed // 2, needed - needed // 2
    return F.conv2d(F.pad(x, (before, after, before, after)), weight, stride=stride)


def blocks(size: int = 20, kernel: int = 5) -> tuple[Block, ...]:
    stem = Stem(in_ch=3, out_ch=16, size=size, act="relu6", **TF)
    wide = InvertedResidual(
        in_ch=16, out_ch=24, mid=48, kernel=kernel, stride=2, size=stem.out_size, act="relu6", se=8, **TF
    )
    small = InvertedResidual(in_ch=24, out_ch=24, mid=48, stride=2, size=wide.out_size, act="relu6", **TF)
    return stem, wide, small, Head(in_ch=24, hidden=32, out_ch=10, size=small.out_size, **TF)


@pytest.fixture(scope="module")
def network() -> nas.Network:
    made = nas.Network(blocks())
    randomise(made)
    return made.eval()


@torch.no_grad()
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("size", [5, 8, 9, 10, 11])
def test_a_convolution_pads_as_tensorflow_does(stride, kernel, size):
    block = Stem(in_ch=2, out_ch=3, size=size, kernel=kernel, stride=stride, act="relu", padding="tf", eps=0.1)
    module = nas.Network([block]).eval()
    x, weight = torch.randn(1, 2, size, size), module[0].conv.weight
    scale = 1 / np.sqrt(1.1)  # a fresh batch norm: mean 0, variance 1
    torch.testing.assert_close(module(x), F.relu(same_padded(x, weight, stride) * scale))
    assert module.describe() == (block,)
    operators = [op.kind for op in lowered([block]).ops]
    assert "PAD" not in operators or stride > kernel  # what 'same' means to LiteRT


def test_what_tables_and_runs_know_of_a_block_has_not_changed():
    stem = Stem(in_ch=3, out_ch=8, size=32)
    assert stem.key == "stem in_ch=3 out_ch=8 size=32 kernel=3 stride=2 act=relu"
    other = dataclasses.replace(stem, **TF)
    assert other.key == "stem in_ch=3 out_ch=8 size=32 padding=tf eps=0.001 kernel=3 stride=2 act=relu"
    assert from_key(other.key) == other != stem
    conv, norm = other.parts().values()
    assert (conv.padding, norm) == ((0, 1), Norm(channels=8, eps=1e-3))
    assert stem.parts()["conv"].padding == (1, 1)
    for wrong in ({"padding": "valid"}, {"eps": 0.0}, {"eps": 1.0}):
        with pytest.raises(BadInput, match=f"{next(iter(wrong))} of a stem is"):
            Stem(in_ch=3, out_ch=8, size=32, **wrong)


@torch.no_grad()
def test_an_onnx_file_pads_in_its_convolutions(network):
    x = torch.randn(4, 3, 20, 20)
    model = onnx_model(network, network.input_shape)
    assert "Pad" not in {node.op_type for node in model.graph.node}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    pads = [tuple(a.ints) for node in convolutions for a in node.attribute if a.name == "pads"]
    parts = [p for block in network.describe() for p in block.parts().values() if isinstance(p, Conv)]
    assert pads == [(p.padding[0], p.padding[0], p.padding[1], p.padding[1]) for p in parts]
    assert (0, 0, 1, 1) in pads
    assert (1, 1, 2, 2) in pads
    outputs = run_onnx(model.SerializeToString(), x.numpy())
    torch.testing.assert_close(torch.from_numpy(outputs), network(x), atol=1e-4, rtol=1e-4)
    int8 = quantized(model, x.numpy())
    symmetric = nas.Network(dataclasses.replace(b, padding="symmetric") for b in network.describe()).eval()
    symmetric.load_state_dict(network.state_dict())
    plain = quantized(onnx_model(symmetric, network.input_shape), x.numpy())
    assert [n.op_type for n in int8.graph.node] == [n.op_type for n in plain.graph.node]


class Padded(nn.Module):
    """Pads of somebody's own, which are no convolution's zeros."""

    def __init__(self, mode: str, value: float, channels: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3 + channels, 4, 3)
        self.how = {"mode": mode} | ({"value": value} if mode == "constant" else {})
        self.amounts = (1, 2, 0, 1, *([0, channels] if channels else []))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, self.amounts, **self.how)).mean((2, 3))


@torch.no_grad()
@pytest.mark.parametrize(
    ("how", "nodes"), [(("constant", 0.0), 0), (("constant", 1.0), 1), (("reflect", 0.0), 1), (("constant", 0.0, 2), 1)]
)
def test_other_pads_stay(how, nodes):
    module, x = Padded(*how).eval(), torch.randn(1, 3, 8, 8)
    model = onnx_model(module, (3, 8, 8))
    assert [node.op_type for node in model.graph.node].count("Pad") == nodes
    torch.testing.assert_close(torch.from_numpy(run_onnx(model.SerializeToString(), x.numpy())), module(x))


def test_files_pruning_and_simulation_keep_it(network, few_digits, tmp_path):
    """The exporters compare what they write with torch themselves."""
    images = torch.randn(8, 3, 20, 20)
    nas.export_onnx_int8(network, tmp_path / "b.onnx", images.numpy())
    assert nas.export_litert(network, tmp_path / "c.tflite").exists()
    network.normalise = ((0.5,) * 3, (0.2,) * 3)
    pruned = nas.Prune(ratio=0.5, round_to=8).apply(network, nas.Context(data=few_digits))
    assert {(b.padding, b.eps) for b in pruned.describe()} == {("tf", 1e-3)}
    assert pruned.describe()[0].out_ch < 16
    assert pruned.normalise == network.normalise
    nas.export_onnx(pruned, tmp_path / "d.onnx")
    with torch.no_grad(), simulated_int8(network, images):
        rounded = network.eval()(images)
    assert F.cosine_similarity(rounded, network(images)).min() > 0.9


def tf_space() -> SearchSpace:
    """Two sizes, odd and even maps, two kernels and two widths."""
    choices = [Choice("size", (18, 20, 21)), Choice("kernel", (3, 5)), Choice("mid", (24, 48))]

    def slot(position: int) -> Slot:
        def block(size: int, kernel: int, mid: int) -> Block:
            found = blocks(size, kernel)[position]
            return dataclasses.replace(found, mid=mid) if position == 1 else found

        return Slot(f"b{position}", ("size", "kernel", "mid"), block)

    return SearchSpace("tf", choices, [slot(i) for i in range(4)])


@torch.no_grad()
def test_subnets_of_every_size_and_kernel_equal_what_is_extracted():
    space = tf_space()
    supernet = Supernet(space)
    randomise(supernet)
    supernet.eval()
    for arch in np.unique(space.sample(40, np.random.default_rng(0)), axis=0):
        supernet.activate(arch)
        x, extracted = torch.randn(2, *supernet.input_shape), supernet.extract(arch)
        torch.testing.assert_close(supernet(x), extracted(x))
        assert {m.eps for m in extracted.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-3}
        # the definition, at the first layer
        first = extracted[0]
        expected = F.relu6(first.norm(same_padded(x, first.conv.weight, 2)))
        torch.testing.assert_close(first(x), expected)


def test_a_table_of_symmetric_blocks_estimates_blocks_that_take_the_same_time():
    """Epsilon is folded, and with stride 1 both paddings are the same; with a stride the nearest make is another padding."""
    table = nas.LatencyTable.load(Path(nas.__file__).parents[1] / "latency_tables" / TABLE)
    for stride in (1, 2):
        like = [b for b in table.blocks if isinstance(b, InvertedResidual) and b.stride == stride and b.kernel == 5]
        between = dataclasses.replace(like[0], mid=like[0].mid + 1, se_act="silu" if like[0].se else "relu")
        assert between.key not in table.row_of
        ms, error = nas.estimate(table, [between], beyond=2)
        ours, wider = nas.estimate(table, [dataclasses.replace(between, **TF)], beyond=2)
        assert ours[0] == pytest.approx(ms[0], rel=0 if stride == 1 else 0.3)
        assert error[0] <= wider[0] + 1e-12 < 1
