"""Bundles: the generated source is the network, runs without this library, and sees images as training did."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import lively, randomise
from PIL import Image
from torch import nn
from torch.nn import functional as F

from nas.blocks import DepthwiseSeparable, Head, InvertedResidual, Stem
from nas.data.images import load_images, read_image
from nas.data.inputs import normalised, resize
from nas.deploy import bundle
from nas.deploy.bundle import export_bundle, generate
from nas.errors import BadInput, NasError
from nas.modules import Network


def pruned() -> Network:
    """Uneven channel counts, a residual sum, squeeze-excite with both gates, three activations."""
    return lively(
        Network(
            [
                Stem(in_ch=3, out_ch=13, size=20, act="hswish"),
                InvertedResidual(in_ch=13, mid=29, out_ch=13, size=10, kernel=5, se=5, act="silu", residual=True),
                DepthwiseSeparable(in_ch=13, out_ch=7, size=10, stride=2, se=3, act="relu6"),
                Head(in_ch=7, hidden=17, features=11, out_ch=4, size=5, act="hswish"),
            ]
        )
    )


def nearly_constant() -> Network:
    """``pruned`` with outputs that hardly depend on the image, as an untrained network's."""
    network = pruned()
    with torch.no_grad():
        network[-1].classify.weight.mul_(1e-5)
        network[-1].classify.bias.fill_(1.0)
    return network


def preprocessing(shape) -> dict:
    channels, size, _ = shape
    return {"load_size": 24, "size": size, "channels": channels, "mean": [0.4] * channels, "std": [0.3] * channels}


def exported(network, path, shape=None):
    shape = shape or network.input_shape
    classes = network(torch.zeros(1, *shape)).shape[1]
    return export_bundle(
        network,
        path,
        classes=[f"c{i}" for i in range(classes)],
        preprocessing=preprocessing(shape),
        input_shape=shape,
    )


def test_bundles_of_every_family_answer_as_the_network(family, tmp_path):
    network = lively(Network(family.networks(family.sample(1, np.random.default_rng(5)))[0]))
    folder = exported(network, tmp_path / "b")
    for file in folder.glob("*.py"):
        assert max(len(line) for line in file.read_text().splitlines()) <= 120
    source = (folder / "model.py").read_text()
    assert set(re.findall(r"^(?:import|from) (\w+)", source, re.MULTILINE)) == {"pathlib", "torch"}
    x = torch.randn(5, *network.input_shape)
    with torch.no_grad():
        expected = network(x).numpy()
        answer = runpy.run_path(str(folder / "model.py"))["load"]()(x).numpy()
    assert np.ptp(expected, axis=0).max() > 0.1 * np.abs(expected).max()  # else any source would do
    assert answer == pytest.approx(expected, abs=1e-5 * float(np.abs(expected).max()))


def test_every_space_gives_short_lines(space):
    source, _ = generate(Network(space.networks(space.sample(1, np.random.default_rng(0)))[0]).eval())
    assert max(len(line) for line in source.splitlines()) <= 120


def test_names_are_readable():
    source, weights = generate(pruned())
    assert "self.block1_depthwise = nn.Conv2d(29, 29, 5, padding=2, groups=29)" in source
    assert "block3_classify.weight" in weights
    assert "norm" not in source.split('"""')[2]


def pictures(folder):
    """Image files whose decoding has choices to disagree about: large JPEGs, orientation, palettes, transparency."""
    noise = np.random.default_rng(0).integers(0, 255, (30, 44, 3)).astype(np.uint8)
    image = Image.fromarray(noise).resize((440, 300), Image.Resampling.BICUBIC)
    image.save(folder / "large.jpg")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(folder / "turned.jpg", exif=exif)
    image.resize((50, 31)).save(folder / "small.png")
    image.convert("P").save(folder / "palette.png")
    image.convert("RGBA").save(folder / "alpha.png")
    Image.fromarray(noise[:, :, 0].astype(np.uint16) * 256).save(folder / "deep.png")
    return sorted(folder.iterdir())


def test_predict_sees_images_exactly_as_training_did(tmp_path):
    for c in ("ant", "bee", "cow", "dog"):
        (tmp_path / "data" / c).mkdir(parents=True)
        for i in range(4):
            pixels = np.random.default_rng(i + ord(c[0]) * 100).integers(0, 255, (30, 30, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / c / f"{i}.png")
    data, network = load_images(tmp_path / "data", size=24), pruned()
    folder = export_bundle(
        network, tmp_path / "bundle", classes=data.classes, preprocessing=data.preprocessing(network.input_shape[-1])
    )
    (tmp_path / "files").mkdir()
    files = pictures(tmp_path / "files")
    seen_as = {fit: [] for fit in ("pad", "squash", "crop")}
    for fit, seen in seen_as.items():
        for file in files:
            pixels = torch.from_numpy(read_image(file, data.size, data.channels, fit))[None].float() / 255
            seen.append(normalised(resize(pixels, 20), data))
    expected = seen_as["crop"]
    assert json.loads((folder / "preprocessing.json").read_text())["fit"] == data.fit == "crop"
    script = (
        "import sys; sys.path.insert(0, 'bundle'); import numpy, predict\n"
        "for fit in ('pad', 'squash', 'crop'):\n"
        "    predict.PREPROCESSING['fit'] = fit\n"
        "    numpy.save(fit + '.npy', numpy.concatenate([predict.read(f).numpy() for f in sys.argv[1:]]))\n"
        "assert 'nas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-I", "-c", script, *map(str, files)], cwd=tmp_path, check=True)
    for fit, seen in seen_as.items():
        assert np.array_equal(np.load(tmp_path / f"{fit}.npy"), torch.cat(seen).numpy())
    (tmp_path / "files" / "x.png").write_bytes(b"no image")
    command = [sys.executable, str(folder / "predict.py"), *map(str, files), str(tmp_path / "files" / "x.png")]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert finished.returncode == 1
    assert finished.stderr.count("\n") == 1
    assert "x.png cannot be read as an image" in finished.stderr
    for line, file, x in zip(finished.stdout.splitlines(), files, expected, strict=True):
        with torch.no_grad():
            best = network(x).softmax(1)[0].topk(3)
        shown = ", ".join(f"{data.classes[i]} {p:.1%}" for p, i in zip(best.values, best.indices, strict=True))
        assert line == f"{file} {shown}"


def test_a_wrong_source_is_refused_and_the_older_bundle_stays(tmp_path, monkeypatch):
    network = nearly_constant()  # the hard case: its biases alone would be within the tolerance
    folder = exported(network, tmp_path / "b")
    before = (folder / "model.py").read_text()

    def wrong(network):
        source, weights = generate(network)
        return source.replace("kept_1 = F.hardswish(x)", "kept_1 = F.relu(x)"), weights

    monkeypatch.setattr(bundle, "generate", wrong)
    with pytest.raises(NasError, match=r"outputs differ from the network's by .* \(allowed 1e-04\)"):
        exported(network, tmp_path / "b")
    assert [p.name for p in tmp_path.iterdir()] == ["b"]
    assert (folder / "model.py").read_text() == before


def test_a_source_that_needs_this_library_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "generate", lambda network: ("import nas\n" + generate(network)[0], {}))
    with pytest.raises(NasError, match=r"does not run by itself: .* must not import nas"):
        exported(pruned(), tmp_path / "b")
    assert not list(tmp_path.iterdir())


def test_a_difference_that_is_not_a_number_is_refused(tmp_path, monkeypatch):
    plain_load = np.load

    def load(file):
        return plain_load(file) * (np.nan if file.name == "precise.npy" else 1)

    monkeypatch.setattr(bundle.np, "load", load)
    with pytest.raises(NasError, match="differ from the network's by nan"):
        exported(pruned(), tmp_path / "b")
    monkeypatch.undo()
    broken = pruned()
    with torch.no_grad():
        broken[-1].classify.bias.fill_(torch.inf)
    with pytest.raises(NasError, match="outputs are not finite"):
        exported(broken, tmp_path / "b")
    assert not list(tmp_path.iterdir())


class Plain(nn.Module):
    """A network of another make: two readers of the input, an uneven kernel, a list argument, keyword arguments."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 3, (3, 5), padding=(1, 2), bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.second = nn.Conv2d(6, 4, 3, padding="same", dilation=2, padding_mode="reflect")
        self.last = nn.Linear(4, 3, bias=False)

    def forward(self, x):
        y = x + F.relu(self.norm(self.first(x)))
        y = torch.cat([y, x * 0.5], dim=1)
        return self.last(F.silu(self.second(y)).mean((2, 3), keepdim=True).flatten(start_dim=1))


def layers() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.Hardswish(),
        nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(8, 5),
    )


@pytest.mark.parametrize("make", [Plain, layers])
def test_other_networks_work(tmp_path, make):
    torch.manual_seed(0)
    made = json.loads((exported(randomise(make()), tmp_path / "b", (3, 16, 16)) / "bundle.json").read_text())
    assert made["source_relative_difference"] < 1e-10


class Odd(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self._forward = forward

    def forward(self, x):
        return self._forward(self, x).mean((2, 3))


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda m, x: m.conv(x).cumsum(1), "does not know the operation cumsum"),
        (lambda m, x: m.conv(x) if x.sum() > 0 else x, "cannot be written as source: .*control flow"),
        (lambda m, x: m.norm(F.relu(x)), "does not follow a convolution"),
        (lambda m, x: m.conv(m.norm(m.conv(x))), "does not follow a convolution of its own"),
    ],
)
def test_networks_that_cannot_be_written_are_refused(tmp_path, forward, message):
    with pytest.raises(BadInput, match=message) as caught:
        exported(Odd(forward).eval(), tmp_path / "b", (3, 8, 8))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ["a", "b"]}, "2 class names for a network with outputs of shape"),
        ({"preprocessing": {"size": 20}}, "lacks channels, load_size, mean, std"),
        (
            {"preprocessing": preprocessing((3, 24, 24))},
            r"images of shape \(3, 24, 24\), but the network takes \(3, 20",
        ),
        ({"preprocessing": preprocessing((3, 20, 20)) | {"std": [0.3]}}, r"1 values of std for 3 channel\(s\)"),
        ({"path": "file/bundle"}, "lies below a file"),
        ({"path": "file"}, "is a file; name a folder"),
        ({"path": "mine"}, "exists and is not a bundle"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, change, message):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("kept")
    arguments = {"path": "b", "classes": list("abcd"), "preprocessing": preprocessing((3, 20, 20))} | change
    path = tmp_path / arguments.pop("path")
    with pytest.raises(BadInput, match=message) as caught:
        export_bundle(pruned(), path, **arguments)
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "mine", "thesis.txt"]
