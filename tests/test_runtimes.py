"""Runtimes: found by name, light to import, and what each does with a network, a file, or nonsense."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import numpy as np
import onnx
import pytest
import torch
from conftest import randomise

import nas
from nas.blocks import InvertedResidual
from nas.checks import hints_of
from nas.errors import BadInput
from nas.modules import build
from nas.runtimes import OnnxRuntime, OpenVINO, TorchCPU, made, named
from nas.runtimes.timing_model import onnx_bytes, randomised

BLOCK = InvertedResidual(in_ch=8, out_ch=16, size=8, mid=24, kernel=3, stride=2, se=8, act="hswish")
SETTINGS = ("threads", "batch", "precision")


def test_every_runtime_is_found_by_its_name():
    known = named()
    assert list(known) == [
        "cortex-m",
        "cuda",
        "ethos-u",
        "litert",
        "onnxruntime",
        "openvino",
        "torch",
        "torch-compiled",
    ]
    for name, cls in known.items():
        assert getattr(nas.runtimes, cls.__name__) is cls
        assert cls.precisions
        hints = hints_of(cls)
        if "precision" in hints:  # the settings say what the class says
            assert get_args(hints["precision"]) == cls.precisions
        for precision in cls.precisions:
            assert made(name, precision).precision == precision
        assert isinstance(made(name), cls)


def test_naming_a_runtime_imports_nothing_heavy():
    code = "import sys, nas.runtimes; nas.runtimes.named(); print(*sorted({'torch', 'onnx', 'onnxruntime', 'openvino', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: made("abacus"), "there is no runtime 'abacus'; there are cortex-m, cuda, "),
        (lambda: made("torch", "int8"), "torch measures fp32, not int8; pass --precision fp32"),
        (lambda: made("onnxruntime", accelerator="x"), "onnxruntime has no setting 'accelerator'; it has precision, "),
        (lambda: made("cuda", index=-1), "index is a whole number from 0"),
        (lambda: made("torch-compiled", batch=0), "batch is a whole number from 1"),
        (lambda: made("openvino", threads=100_000), "threads is a whole number from 1 to 1,024, got 100000"),
        (lambda: OnnxRuntime(precision="fp64"), "precision is one of fp32, int8, got 'fp64'"),
        (lambda: OnnxRuntime(threads=True), "threads is a whole number"),
        (lambda: OnnxRuntime(threads=1.5), "threads is a whole number"),
    ],
)
def test_wrong_settings_are_one_line(call, text):
    with pytest.raises(BadInput) as error:
        call()
    assert text in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", [OnnxRuntime, OpenVINO])
def test_files_that_cannot_be_run_are_one_line(make, tmp_path):
    if make is OpenVINO:
        pytest.importorskip("openvino")
    (tmp_path / "bad.onnx").write_bytes(b"\x08nonsense")
    with pytest.raises(BadInput, match=r"bad\.onnx cannot be run: ") as error:
        make().prepare(tmp_path / "bad.onnx", (3, 8, 8))
    assert "\n" not in str(error.value)
    with pytest.raises(BadInput, match=r"cannot read .*absent\.onnx: No such file"):
        make().prepare(tmp_path / "absent.onnx", (3, 8, 8))
    (tmp_path / "batch1.onnx").write_bytes(onnx_bytes(build(BLOCK), BLOCK.in_shape))
    with pytest.raises(BadInput, match=r"batch1\.onnx cannot be run: "):
        make(batch=4).prepare(tmp_path / "batch1.onnx", BLOCK.in_shape)


def test_the_int8_timing_model_computes_what_the_network_does():
    """Ranges calibrated on anything else than its input would clip or blur it away."""
    network = randomise(build(BLOCK))
    x = np.random.default_rng(3).standard_normal((1, *BLOCK.in_shape), dtype=np.float32)
    outputs = [run(onnx_bytes(network, BLOCK.in_shape, precision=p), x) for p in ("fp32", "int8")]
    assert np.corrcoef(outputs[0].ravel(), outputs[1].ravel())[0, 1] > 0.98
    assert np.abs(outputs[1] - outputs[0]).mean() < 0.1 * outputs[0].std()


def run(model, x):
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def test_the_timing_model_has_the_batch_and_no_weight_at_its_first_value():
    model = onnx.load_from_string(onnx_bytes(build(BLOCK), BLOCK.in_shape, batch=5))
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [5, *BLOCK.in_shape]
    network = build(BLOCK)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    after = randomised(network).state_dict()
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])  # the given one is left alone
        if value.dtype.is_floating_point:
            assert not torch.isclose(after[name], value, atol=1e-7).any() or value.numel() > 50
    again = randomised(network).state_dict()
    assert all(torch.equal(again[k], v) for k, v in after.items())  # the same each time


def test_torch_runs_with_the_threads_that_were_asked_for():
    seen = []
    runtime = TorchCPU(threads=2)
    before = torch.get_num_threads()
    prepared = runtime.prepare(build(BLOCK), BLOCK.in_shape)
    prepared.call = lambda: seen.append(torch.get_num_threads())
    runtime.time(prepared, 2)
    assert set(seen) == {2}
    assert torch.get_num_threads() == before
