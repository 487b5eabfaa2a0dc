"""LiteRT: files equal to torch, to the converter's and to TensorFlow Lite Micro; and the runtime that times them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import lively, randomise
from torch import nn

from nas.blocks import DepthwiseSeparable, Head, InvertedResidual, Stem
from nas.deploy import litert_file, to_litert
from nas.deploy.litert_graph import lowered
from nas.deploy.to_litert import channels_last, litert_model
from nas.deploy.to_onnx import quiet
from nas.errors import BadInput, NasError
from nas.modules import Network, build
from nas.runtimes.litert import LiteRT, timing_tflite
from search_spaces import FBNet, MobileNetV3

schema = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="LiteRT is not installed")
pytest.importorskip("ai_edge_quantizer", reason="the quantizer is not installed")

BLOCKS = (
    Stem(in_ch=3, out_ch=16, size=16, act="hswish"),
    Stem(in_ch=1, out_ch=16, size=9, act="relu"),
    Stem(in_ch=3, out_ch=8, size=8, stride=1, act="relu6"),
    DepthwiseSeparable(in_ch=16, out_ch=16, size=8, act="relu6", residual=True),
    DepthwiseSeparable(in_ch=16, out_ch=24, size=7, kernel=7, stride=2, se=8, act="relu"),
    InvertedResidual(in_ch=16, out_ch=24, size=8, mid=32, kernel=5, stride=2, se=8, act="hswish"),
    InvertedResidual(in_ch=16, out_ch=24, size=2, mid=32, kernel=5, stride=2, act="relu"),
    InvertedResidual(in_ch=16, out_ch=16, size=1, mid=24, kernel=3, act="hswish"),
    InvertedResidual(in_ch=16, out_ch=16, size=8, mid=32, se=8, act="silu", residual=True),
    Head(in_ch=16, out_ch=10, size=4, hidden=32, features=24, act="hswish"),
    Head(in_ch=16, out_ch=10, size=4, hidden=32, act="silu"),
)
GROUPED = InvertedResidual(in_ch=16, out_ch=16, size=8, mid=32, act="relu", residual=True, groups=2)


@pytest.fixture(scope="module")
def networks() -> list[Network]:
    """Networks of two families, with norms that are not the identity."""
    torch.manual_seed(0)
    rng = np.random.default_rng(3)
    spaces = (MobileNetV3.digits(), FBNet.cifar100())
    return [lively(Network(space.networks(space.sample(1, rng))[0])) for space in spaces]


def images(network, n=16, seed=0):
    return np.random.default_rng(seed).standard_normal((n, *network.input_shape), dtype=np.float32)


def torch_outputs(network, x):
    with torch.no_grad():
        return network.eval()(torch.from_numpy(x)).numpy()


@pytest.mark.parametrize("block", [*BLOCKS, GROUPED], ids=lambda b: b.key)
def test_every_kind_of_block_computes_what_torch_computes(block):
    module = randomise(build(block))
    x = np.random.default_rng(0).standard_normal((4, *block.in_shape), dtype=np.float32)
    expected = torch_outputs(module, x)
    seen = litert_file.run_litert(litert_model(module, block.in_shape, batch=2), channels_last(x))
    expected = channels_last(expected) if expected.ndim == 4 else expected
    assert np.abs(seen - expected).max() <= 1e-5 * np.abs(expected).max()


def test_the_operators_are_those_of_the_converter():
    class Together(nn.Module):  # one conversion costs as much as many
        def __init__(self):
            super().__init__()
            self.members = nn.ModuleList(randomise(build(b)) for b in BLOCKS)

        def forward(self, *xs):
            return tuple(member(x) for member, x in zip(self.members, xs, strict=True))

    litert_torch = pytest.importorskip("litert_torch", reason="the converter is not installed")
    with litert_file.silent(), quiet():
        maps = [i for i, b in enumerate(BLOCKS) if not isinstance(b, Head)]
        last = litert_torch.to_channel_last_io(Together(), args=list(range(len(BLOCKS))), outputs=maps).eval()
        xs = tuple(torch.zeros(1, b.size, b.size, b.in_ch) for b in BLOCKS)
        model = litert_torch.convert(last, xs).model_content()
    converted = schema.ModelT.InitFromPackedBuf(bytes(model), 0)
    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    tensors = converted.subgraphs[0].tensors

    def written(op):
        options = {k: v for k, v in vars(op.builtinOptions or object()).items()} if op.builtinOptions else {}
        kind = names[converted.operatorCodes[op.opcodeIndex].builtinCode]
        shape = tuple(int(v) for v in tensors[op.outputs[0]].shape)
        return kind, shape, options.get("strideH", 1), options.get("fusedActivationFunction", 0)

    fused = schema.ActivationFunctionType
    ours = [
        (
            op.kind,
            graph.tensors[op.output].shape,
            op.options.get("strideH", 1),
            getattr(fused, op.options.get("fusedActivationFunction", "NONE")),
        )
        for graph in (lowered([block]) for block in BLOCKS)
        for op in graph.ops
    ]
    assert ours == [written(op) for op in converted.subgraphs[0].operators]


def test_written_networks_equal_torch_and_int8_ones_stay_close(networks, tmp_path):
    for network in networks:
        x = images(network)
        expected = torch_outputs(network, x)
        fp32 = to_litert.export_litert(network, tmp_path / "net.tflite").read_bytes()
        seen = litert_file.run_litert(fp32, channels_last(x))
        assert np.abs(seen - expected).max() <= 1e-4 * np.abs(expected).max()
        int8 = to_litert.export_litert(network, tmp_path / "int8.tflite", x).read_bytes()
        assert len(int8) < 0.45 * len(fp32)
        details = litert_file.interpreter(int8)
        assert details.get_input_details()[0]["dtype"] == details.get_output_details()[0]["dtype"] == np.int8
        agree = litert_file.run_litert(int8, channels_last(x)).argmax(1) == expected.argmax(1)
        assert agree.mean() >= 0.7  # of random logits, many of which are nearly equal


def test_tensorflow_lite_micro_computes_the_same_and_why_the_file_is_repacked(networks):
    runtime = pytest.importorskip("tflite_micro", reason="TensorFlow Lite Micro is not installed").runtime
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    network = networks[0]
    x = channels_last(images(network))
    fp32 = litert_model(network, network.input_shape)
    int8 = litert_file.quantized(fp32, x)
    reference = Interpreter(model_content=int8, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    reference.allocate_tensors()
    into, out = reference.get_input_details()[0], reference.get_output_details()[0]

    def outputs(micro):
        with litert_file.silent():
            rows = []
            for row in x:
                micro.set_input(litert_file.to_integers(row[None], into), 0)
                micro.invoke()
                rows.append(micro.get_output(0))
        return np.concatenate(rows).astype(int)

    expected = []
    for row in x:
        reference.set_tensor(into["index"], litert_file.to_integers(row[None], into))
        reference.invoke()
        expected.append(reference.get_tensor(out["index"]))
    expected = np.concatenate(expected).astype(int)
    assert expected.std() > 10  # otherwise equality would say nothing
    apart = np.abs(outputs(runtime.Interpreter.from_bytes(int8, arena_size=1 << 20)) - expected)
    assert apart.max() <= 1  # of 255: of 12 networks, 2 had one output in 160 rounded the other way
    assert (apart == 0).mean() >= 0.95

    stored_behind = _external(int8)
    assert litert_file.run_litert(stored_behind, x) == pytest.approx(litert_file.run_litert(int8, x))
    assert np.abs(outputs(runtime.Interpreter.from_bytes(stored_behind, arena_size=1 << 20)) - expected).max() > 20
    assert litert_file.inlined(stored_behind) == int8


def _external(model: bytes) -> bytes:
    """``model`` with its large constants behind the flatbuffer, as the quantizer stores them."""
    import flatbuffers

    unpacked = schema.ModelT.InitFromPackedBuf(model, 0)
    behind = {i: bytes(b.data) for i, b in enumerate(unpacked.buffers) if b.data is not None and len(b.data) > 64}
    for i in behind:
        unpacked.buffers[i].data, unpacked.buffers[i].offset, unpacked.buffers[i].size = None, 1 << 20, len(behind[i])

    def packed():
        builder = flatbuffers.Builder(1024)
        builder.Finish(unpacked.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    head, tail = packed(), b""
    start = math.ceil(len(head) / 64) * 64
    for i, data in behind.items():
        unpacked.buffers[i].offset = start + len(tail)
        tail += data + bytes(-len(data) % 16)
    return packed().ljust(start, b"\0") + tail


def test_constants_are_aligned_and_there_are_no_transpositions(networks):
    for network in networks:
        model = litert_file.quantized(litert_model(network, network.input_shape), channels_last(images(network, 2)))
        packed = schema.Model.GetRootAs(model)
        for i in range(packed.BuffersLength()):
            buffer = packed.Buffers(i)
            if buffer.DataLength():
                start = buffer._tab.Vector(buffer._tab.Offset(4))
                assert start % litert_file.ALIGNMENT == 0
    graph = lowered(networks[0].describe())
    assert "TRANSPOSE" not in {op.kind for op in graph.ops}
    assert graph.tensors[graph.input].shape == (1, *np.roll(networks[0].input_shape, -1))


def test_other_modules_go_through_the_converter(tmp_path):
    pytest.importorskip("litert_torch", reason="the converter is not installed")
    torch.manual_seed(0)
    other = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5))
    path = to_litert.export_litert(other, tmp_path / "other.tflite", input_shape=(3, 8, 8))
    x = np.random.default_rng(0).standard_normal((3, 3, 8, 8), dtype=np.float32)
    expected = torch_outputs(other, x)
    assert litert_file.run_litert(path.read_bytes(), channels_last(x)) == pytest.approx(expected, abs=1e-5)


def test_a_file_that_is_wrong_is_not_written(networks, tmp_path, monkeypatch):
    network, path = networks[0], tmp_path / "net.tflite"
    with pytest.raises(BadInput, match=r"calibration images have shape \(n, 1"):
        to_litert.export_litert(network, path, np.zeros((4, 3, 5, 5), np.float32))
    with pytest.raises(BadInput, match="does not say its input_shape"):
        to_litert.export_litert(nn.Linear(2, 2), path)
    with monkeypatch.context() as patched:
        patched.setattr(
            to_litert, "_folded", lambda module, name: (module.get_submodule(name).weight.data, torch.zeros(1))
        )
        with pytest.raises((NasError, AssertionError)):
            to_litert.export_litert(network, path)
    with monkeypatch.context() as patched:
        folded = to_litert._folded
        patched.setattr(to_litert, "_folded", lambda m, n: (folded(m, n)[0] * 1.01, folded(m, n)[1]))
        with pytest.raises(NasError, match="outputs differ from torch's"):
            to_litert.export_litert(network, path)
    with monkeypatch.context() as patched:
        patched.setattr(to_litert, "quantized", lambda model, x: litert_file.quantized(model, x * 1e-3))
        with pytest.raises(NasError, match="cosine"):
            to_litert.export_litert(network, path, images(network))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("batch", [1, 4])
def test_the_runtime_times_blocks_networks_and_files(precision, batch, tmp_path, capfd):
    runtime = LiteRT(precision=precision, batch=batch)
    small = InvertedResidual(in_ch=16, out_ch=16, size=8, mid=32, residual=True)
    large = InvertedResidual(in_ch=64, out_ch=64, size=32, mid=256, residual=True)
    prepared = [runtime.prepare(build(block), block.in_shape) for block in (small, large)]
    path = tmp_path / "large.tflite"
    path.write_bytes(timing_tflite(build(large), large.in_shape, precision=precision, batch=batch))
    prepared.append(runtime.prepare(path, large.in_shape))
    little, much, again = (float(np.median(runtime.time(p, 9))) for p in prepared)
    assert 0 < 5 * little < much
    assert again == pytest.approx(much, rel=0.5)
    assert runtime.device.runtime == "litert"
    assert (runtime.device.precision, runtime.device.batch) == (precision, batch)
    seen = capfd.readouterr()
    assert (seen.out, seen.err) == ("", "")


def test_the_runtime_refuses_what_it_cannot_time(tmp_path):
    with pytest.raises(BadInput, match="precision is one of fp32, int8, got 'fp16'"):
        LiteRT(precision="fp16")
    with pytest.raises(BadInput, match="batch is a whole number from 1 to 65,536, got 0"):
        LiteRT(batch=0)
    with pytest.raises(BadInput, match="cannot read"):
        LiteRT().prepare(tmp_path / "absent.tflite", (3, 8, 8))
    Path(tmp_path / "text.tflite").write_text("not a model")
    with pytest.raises(BadInput, match=r"is not a \.tflite file"):
        LiteRT().prepare(tmp_path / "text.tflite", (3, 8, 8))
    (tmp_path / "broken.tflite").write_bytes(b"\x18\0\0\0TFL3" + b"\xff" * 64)
    with pytest.raises(NasError, match="LiteRT cannot load the model"):
        LiteRT().prepare(tmp_path / "broken.tflite", (3, 8, 8))
    block = BLOCKS[0]
    (tmp_path / "one.tflite").write_bytes(timing_tflite(build(block), block.in_shape))
    with pytest.raises(BadInput, match="takes a batch of 1, the runtime was made for 4"):
        LiteRT(batch=4).prepare(tmp_path / "one.tflite", block.in_shape)
