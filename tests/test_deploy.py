"""Exports: ONNX fp32 and int8 against torch, and the bundle, which must run without this library."""

from __future__ import annotations

import dataclasses
import json
import runpy
import shutil
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from conftest import lively, other_pictures
from PIL import Image
from torch import nn

from nas import deploy
from nas.blocks import Head, InvertedResidual, Stem
from nas.data.images import read_image
from nas.data.inputs import batches, normalised, resize
from nas.deploy.bundle import export_bundle, generate
from nas.deploy.parity import check_fp32, check_int8
from nas.deploy.to_onnx import export_onnx, export_onnx_int8, onnx_model, run_onnx
from nas.errors import BadInput, NasError
from nas.modules import Network, build
from nas.runtimes import OnnxRuntime
from nas.runtimes.timing_model import onnx_bytes
from search_spaces import MobileNetV3


def network_of(space, seed=0) -> Network:
    return lively(Network(space.networks(space.sample(1, np.random.default_rng(seed)))[0]), seed)


def pruned() -> Network:
    """Channel counts as a pruner leaves them: uneven, with residual, squeeze-excite and two activations."""
    stem = Stem(in_ch=3, out_ch=13, size=20, act="hswish")
    first = InvertedResidual(in_ch=13, mid=29, out_ch=13, size=10, kernel=5, se=5, act="silu", residual=True)
    second = InvertedResidual(in_ch=13, mid=21, out_ch=13, size=10, stride=2, act="relu6")
    head = Head(in_ch=13, hidden=17, features=11, out_ch=4, size=5, act="hswish")
    return lively(Network([stem, first, second, head]))


PREPROCESSING = {"load_size": 24, "size": 20, "channels": 3, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}


@pytest.mark.parametrize("batch", [1, 3])
def test_onnx_equals_torch(family, tmp_path, batch):
    for seed in range(3):
        network = network_of(family, seed)
        path = export_onnx(network, tmp_path / f"{seed}.onnx", batch=batch)
        x = torch.randn(2 * batch, *network.input_shape)
        with torch.no_grad():
            expected = network(x).numpy()
        seen = run_onnx(path.read_bytes(), x.numpy(), batch)
        assert expected.std(axis=0).max() > 0.03  # a network that ignores its input would equal any other
        assert np.abs(seen - expected).max() < 1e-4 * expected.std()
        assert not any(n.op_type == "BatchNormalization" for n in onnx.load(path).graph.node)


@pytest.mark.parametrize("batch", [1, 4])
def test_int8_is_close_and_really_int8(family, tmp_path, batch):
    network = network_of(family)
    images = np.random.default_rng(0).standard_normal((64, *network.input_shape)).astype(np.float32)
    path = export_onnx_int8(network, tmp_path / "q.onnx", images, batch=batch)
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    seen = run_onnx(path.read_bytes(), images, batch)
    assert np.corrcoef(seen.ravel(), expected.ravel())[0, 1] > 0.97
    assert not np.array_equal(seen, expected)
    assert not list(tmp_path.glob("*.tmp"))


def optimised_operators(model: bytes, tmp_path) -> list[str]:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return [n.op_type for n in onnx.load(tmp_path / "optimised.onnx").graph.node]


def test_every_convolution_runs_in_int8_even_with_equal_biases(family, tmp_path):
    # a fresh network has all-zero biases; the exporter would merge them into one, which keeps convolutions in float
    network = Network(family.networks(family.sample(1, np.random.default_rng(0)))[0]).eval()
    images = np.random.default_rng(0).standard_normal((8, *network.input_shape)).astype(np.float32)
    path = export_onnx_int8(network, tmp_path / "q.onnx", images)
    operators = optimised_operators(path.read_bytes(), tmp_path)
    convolutions = sum(isinstance(m, nn.Conv2d) for m in network.modules())
    assert operators.count("QLinearConv") == convolutions
    assert "Conv" not in operators


def test_what_is_timed_runs_in_int8(family, tmp_path):
    for block in family.blocks[:: len(family.blocks) // 12]:
        model = onnx_bytes(build(block), block.in_shape, precision="int8", batch=1)
        assert "Conv" not in optimised_operators(model, tmp_path), block.key


def test_symmetric_activations_have_zero_points_of_zero(family, tmp_path):
    network = network_of(family)
    images = np.random.default_rng(0).standard_normal((8, *network.input_shape)).astype(np.float32)
    path = export_onnx_int8(network, tmp_path / "s.onnx", images, symmetric_activations=True)
    for tensor in onnx.load(path).graph.initializer:
        if tensor.name.endswith("zero_point"):
            assert not onnx.numpy_helper.to_array(tensor).any()


def test_the_exporter_leaves_the_network_as_it_was(family):
    network = network_of(family).train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    onnx_model(network, network.input_shape)
    assert network.training
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


def test_wrong_outputs_and_unwritable_places_leave_no_file(family, tmp_path):
    class Random(nn.Module):
        input_shape = (1, 4, 4)

        def forward(self, x):
            return x.flatten(1) * np.random.default_rng().random()

    with pytest.raises(NasError, match="differ from torch's"):
        export_onnx(Random(), tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot write"):
        export_onnx(network_of(family), tmp_path / "file" / "x.onnx")
    with pytest.raises(BadInput, match="input_shape"):
        export_onnx(nn.Identity(), tmp_path / "x.onnx")
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    x = np.random.default_rng(0).standard_normal((1, 3, 5, 7), dtype=np.float32)
    seen = run_onnx(export_onnx(plain, tmp_path / "plain.onnx", input_shape=(3, 5, 7)).read_bytes(), x)
    assert seen == pytest.approx(plain(torch.from_numpy(x)).detach().numpy(), abs=1e-5)


def answers(path, x):
    """What an exported file or folder says to ``x (n, c, h, w)``."""
    if (path / "model.c").exists():
        return answers_of_c(path, x)
    if path.is_dir():
        with torch.no_grad():
            return runpy.run_path(str(path / "model.py"))["load"](path / "weights.pt")(torch.from_numpy(x)).numpy()
    if path.suffix == ".onnx":
        return run_onnx(path.read_bytes(), x)
    from nas.deploy.litert_file import run_litert
    from nas.deploy.to_litert import channels_last

    return run_litert(path.read_bytes(), channels_last(x))


def answers_of_c(path, x):
    from nas.deploy.c.build import host_outputs

    words = (path / "model.h").read_text().replace("(", "").replace(")", "").split()
    said = {key: float(words[words.index(f"MODEL_{key}") + 1].rstrip("f")) for key in _SAID}
    bytes_ = np.round(x.transpose(0, 2, 3, 1) / said["INPUT_SCALE"]) + said["INPUT_ZERO"]
    made = host_outputs(path, np.clip(bytes_, -128, 127).astype(np.int8))
    return (made - said["OUTPUT_ZERO"]) * said["OUTPUT_SCALE"]


_SAID = ("INPUT_SCALE", "INPUT_ZERO", "OUTPUT_SCALE", "OUTPUT_ZERO")


@pytest.fixture
def exported_network() -> Network:
    torch.manual_seed(0)
    return network_of(MobileNetV3.digits())


def exporter_of(name):
    if name == "c" and not shutil.which("cc"):
        pytest.skip("needs a C compiler")
    if name.startswith("litert") or name == "c":
        pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
        pytest.importorskip("ai_edge_quantizer", reason="the quantizer is not installed")
    return deploy.named(name)


@pytest.mark.parametrize("name", deploy.names())
def test_every_exporter_writes_the_network_and_looks_at_training_images_only(
    name, exported_network, few_digits, tmp_path
):
    exporter, network = exporter_of(name), exported_network
    path = tmp_path / f"network{exporter.suffix}"
    assert exporter.export(network, path, few_digits) == path
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    x = torch.cat(list(batches(few_digits.train, few_digits, network.input_shape[-1])))[:64]
    with torch.no_grad():
        expected = network(x).numpy()
    seen = answers(path, x.contiguous().numpy())
    apart = np.abs(seen - expected).max() / np.abs(expected).max()
    assert apart < 1e-4 if exporter.precision == "fp32" else apart > 1e-4
    assert np.corrcoef(seen.ravel(), expected.ravel())[0, 1] > 0.95
    exporter.export(network, path, other_pictures(few_digits, "val", "test"))  # and over the older one
    assert np.array_equal(answers(path, x.contiguous().numpy()), seen)
    if exporter.precision == "int8":
        exporter.export(network, path, other_pictures(few_digits, "train"))
        assert not np.array_equal(answers(path, x.contiguous().numpy()), seen)


@pytest.mark.parametrize("name", deploy.names())
def test_every_exporter_refuses_where_it_cannot_write_or_lacks_data(name, exported_network, few_digits, tmp_path):
    exporter = exporter_of(name)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("work")
    (tmp_path / "file").write_text("work")
    before = sorted(tmp_path.rglob("*"))
    for path in ("", "/", tmp_path / "folder", tmp_path / "file" / "x", "x\0y", tmp_path / ("x" * 300)):
        with pytest.raises(BadInput) as caught:
            exporter.export(exported_network, path, few_digits)
        assert "\n" not in str(caught.value)
    if exporter.needs_data:
        with pytest.raises(BadInput, match="needs the data"):
            exporter.export(exported_network, tmp_path / "x")
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "mine").read_text() == "work"


@pytest.mark.parametrize(("name", "kind"), [("onnx-int8", np.uint8), ("onnx-int8-symmetric", np.int8)])
def test_int8_activations_are_of_the_kind_that_the_name_says(name, kind, exported_network, few_digits, tmp_path):
    graph = onnx.load(deploy.named(name).export(exported_network, tmp_path / "x.onnx", few_digits)).graph
    values = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    zeros = [values[n.input[2]] for n in graph.node if n.op_type == "QuantizeLinear"]
    assert {z.dtype.type for z in zeros} == {kind}
    assert any(z.any() for z in zeros) == (kind is np.uint8)


def test_exporters_are_found_by_their_files():
    there = {"bundle", "c", "litert", "litert-int8", "onnx", "onnx-int8", "onnx-int8-symmetric"}
    assert there <= set(deploy.names())
    with pytest.raises(BadInput, match="there is no export format 'tensorrt'; there are bundle, c, litert"):
        deploy.named("tensorrt")


@pytest.mark.parametrize(
    "images", [np.zeros((4, 3, 9, 9)), np.zeros((0, 1, 8, 8)), np.full((4, 1, 8, 8), np.nan), "x", 3]
)
def test_calibration_images_are_checked(exported_network, tmp_path, images):
    with pytest.raises(BadInput, match="calibration"):
        export_onnx_int8(exported_network, tmp_path / "x.onnx", images)
    assert not list(tmp_path.iterdir())


def test_outputs_that_differ_or_are_not_numbers_are_refused():
    images = np.random.default_rng(0).standard_normal((8, 20))
    with pytest.raises(NasError, match="have cosine"):
        check_int8("x", -images, images)
    with pytest.raises(NasError, match="have cosine"):
        check_int8("x", np.full((2, 2), np.nan), np.ones((2, 2)))
    with pytest.raises(NasError, match="differ from torch's by nan"):
        check_fp32("x", np.ones((2, 2)), np.full((2, 2), np.nan))
    with pytest.raises(NasError, match="differ from torch's"):
        check_fp32("x", np.ones((2, 2)), np.ones((2, 2)) + np.eye(2) * 2e-4)
    check_fp32("x", np.ones((2, 2)), np.ones((2, 2)) + np.eye(2) * 5e-5)


def test_runtimes_refuse_what_they_cannot_do():
    with pytest.raises(BadInput, match="one of fp32, int8"):
        OnnxRuntime(precision="int4")
    with pytest.raises(BadInput, match="threads is a whole number from 1"):
        OnnxRuntime(threads=0)
    assert OnnxRuntime(precision="int8").device.key.endswith("_onnxruntime_int8_b1_t1")


def test_generated_source_equals_the_network(family):
    for network in (network_of(family, 1), network_of(family, 2), pruned()):
        source, weights = generate(network)
        assert max(len(line) for line in source.splitlines()) <= 120
        assert "nas" not in source.replace("nas_", "")
        scope: dict = {"__file__": "model.py"}
        exec(source, scope)
        model = scope["Model"]().eval()
        model.load_state_dict(weights)
        x = torch.randn(2, *network.input_shape)
        with torch.no_grad():
            expected = network(x)
            assert expected.std(dim=0).max() > 0.03
            torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


def test_a_bundle_predicts_by_itself_as_the_framework_does(tmp_path):
    network = pruned()
    folder = export_bundle(network, tmp_path / "bundle", classes=["a", "b", "c", "d"], preprocessing=PREPROCESSING)
    pixels = np.random.default_rng(0).integers(0, 255, (40, 55, 3)).astype(np.uint8)
    Image.fromarray(pixels).resize((110, 80)).save(tmp_path / "x.png")
    finished = subprocess.run(
        [sys.executable, str(folder / "predict.py"), str(tmp_path / "x.png")],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    image = torch.from_numpy(read_image(tmp_path / "x.png", 24, 3))[None].float() / 255
    statistics = dataclasses.make_dataclass("S", ["mean", "std"])(
        np.float32([0.4, 0.5, 0.6]), np.float32([0.2, 0.25, 0.3])
    )
    with torch.no_grad():
        expected = network(normalised(resize(image, 20), statistics)).softmax(1)[0]
    best = expected.topk(3)
    shown = ", ".join(f"{'abcd'[i]} {p:.1%}" for p, i in zip(best.values, best.indices, strict=True))
    assert finished.stdout.strip() == f"{tmp_path / 'x.png'} {shown}"
    assert json.loads((folder / "bundle.json").read_text())["largest_relative_difference"] < 1e-4
    assert "nas" not in {
        line.split()[1].split(".")[0]
        for f in folder.glob("*.py")
        for line in f.read_text().splitlines()
        if line.startswith(("import ", "from "))
    }


def test_only_bundles_are_replaced(tmp_path, monkeypatch):
    differences = {"largest_relative_difference": 0.0, "source_relative_difference": 0.0}
    monkeypatch.setattr("nas.deploy.bundle._verify", lambda *_: differences)  # which takes seconds
    arguments = {"classes": list("abcd"), "preprocessing": PREPROCESSING}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(BadInput, match="is not a bundle"):
        export_bundle(pruned(), tmp_path / "mine", **arguments)
    assert (tmp_path / "mine" / "thesis.txt").exists()
    export_bundle(pruned(), tmp_path / "b", **arguments)
    export_bundle(pruned(), tmp_path / "b", **arguments)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "mine"]


def test_operations_the_generator_does_not_know_are_named():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.cumsum(x, 1)

    with pytest.raises(BadInput, match="cumsum"):
        generate(Odd())
