"""A self-contained bundle: the network as plain PyTorch source with weights and preprocessing, free of this library.

The source comes from ``nas.deploy.torch_source``; ``predict.py`` carries a copy of the very function that decoded the
training images. Both run in a process of their own, without access to this library, before the bundle gets its name.
"""

from __future__ import annotations

import copy
import inspect
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from nas.checks import FilePath, checked
from nas.data.image_files import fitted, square_pixels
from nas.deploy.parity import Shape, input_shape_of
from nas.deploy.torch_source import generate
from nas.errors import BadInput, NasError
from nas.files import first_line, replacing_folder

__all__ = ["MARKER", "TOLERANCE", "export_bundle", "generate"]

MARKER = "bundle.json"
TOLERANCE = 1e-4  # of both checks in _verify


@checked
def export_bundle(
    network: nn.Module,
    path: FilePath,
    *,
    classes: Sequence[str],
    preprocessing: Mapping[str, Any],
    input_shape: Shape | None = None,
) -> Path:
    """Write a folder with model.py, weights.pt, predict.py, preprocessing.json, classes.json and a README.

    ``preprocessing``: as ``ImageData.preprocessing`` gives it. ``input_shape``: (channels, height, width), where the
    network does not say it. Weights are a plain torch file, read with ``weights_only=True``: safetensors would be one
    more package for a bundle that otherwise needs torch, numpy and pillow.
    Raises NasError, and leaves no folder, when the network's outputs are not finite, the bundle does not run by itself
    or its outputs differ from the network's; BadInput when ``path`` exists and is not a bundle or cannot be written,
    when classes or preprocessing do not fit the network, or when it uses an operation that the generator does not know.
    """
    with replacing_folder(path, "bundle", MARKER) as folder:
        shape = input_shape_of(network, input_shape)
        plain = copy.deepcopy(network).cpu().double().eval()
        images = _pictures(shape)
        with torch.no_grad():
            expected = plain(torch.from_numpy(images)).numpy()
        if not np.isfinite(expected).all():
            raise NasError("the network's outputs are not finite, so no bundle of it can be checked")
        _check_fit(expected.shape, shape, classes, preprocessing)
        source, exact = generate(plain)
        _write(folder, source, exact, classes, preprocessing)
        _describe(folder, shape, len(classes), _verify(folder, exact, images, expected))
    return Path(path)


def _write(
    folder: Path,
    source: str,
    exact: Mapping[str, torch.Tensor],
    classes: Sequence[str],
    preprocessing: Mapping[str, Any],
) -> None:
    decoder = "\n\n".join(inspect.getsource(function) for function in (square_pixels, fitted))
    (folder / "model.py").write_text(source)
    torch.save({name: weight.float() for name, weight in exact.items()}, folder / "weights.pt")
    (folder / "predict.py").write_text(_PREDICT.replace("{square_pixels}", decoder))
    (folder / "preprocessing.json").write_text(json.dumps(dict(preprocessing), indent=2) + "\n")
    (folder / "classes.json").write_text(json.dumps(list(classes), indent=2) + "\n")
    versions = "".join(f"{name}  # checked with {metadata.version(name)}\n" for name in ("torch", "numpy", "pillow"))
    (folder / "requirements.txt").write_text(versions)


def _describe(folder: Path, shape: Sequence[int], classes: int, differences: Mapping[str, float]) -> None:
    made: dict[str, Any] = {
        "input_shape": list(shape),
        "classes": classes,
        **differences,
        "allowed_relative_difference": TOLERANCE,
    }
    (folder / "README.md").write_text(_README.format(shape=tuple(shape), **made))
    (folder / MARKER).write_text(json.dumps(made | {"torch": torch.__version__}, indent=2) + "\n")


def _check_fit(
    output: tuple[int, ...], shape: tuple[int, ...], classes: Sequence[str], preprocessing: Mapping[str, Any]
) -> None:
    missing = sorted({"load_size", "size", "channels", "mean", "std"} - set(preprocessing))
    if missing:
        raise BadInput(f"preprocessing lacks {', '.join(missing)}; ImageData.preprocessing(size) gives it whole")
    given = (preprocessing["channels"], preprocessing["size"], preprocessing["size"])
    if given != shape:
        raise BadInput(f"preprocessing gives images of shape {given}, but the network takes {shape}")
    for name in ("mean", "std"):  # one number for three channels would broadcast in silence
        if len(preprocessing[name]) != shape[0]:
            raise BadInput(f"preprocessing has {len(preprocessing[name])} values of {name} for {shape[0]} channel(s)")
    if output[1:] != (len(classes),):
        raise BadInput(f"{len(classes)} class names for a network with outputs of shape {output[1:]}")


def _pictures(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Four inputs that differ in level and coarse shapes; networks average white noise away and answer the same."""
    rng = np.random.default_rng(0)
    channels, high, wide = shape
    coarse = rng.standard_normal((4, channels, 4, 4)).repeat(-(-high // 4), 2).repeat(-(-wide // 4), 3)
    level = rng.standard_normal((4, channels, 1, 1))
    return level + 2 * coarse[:, :, :high, :wide] + 0.3 * rng.standard_normal((4, *shape))


def _verify(
    folder: Path, exact: Mapping[str, torch.Tensor], images: NDArray[np.float64], expected: NDArray[np.float64]
) -> dict[str, float]:
    """Run the bundle without this library and return how far its outputs are from the network's.

    Two checks. As shipped, in float32, relative to the largest output: but a network whose outputs hardly depend on
    the image (an untrained one) passes that with any source. So the source is also run in float64 with the weights
    ``exact``, not yet rounded, and judged by how much the outputs vary from image to image.
    """
    with tempfile.TemporaryDirectory() as scratch:
        np.save(Path(scratch) / "x.npy", images)
        torch.save(dict(exact), Path(scratch) / "exact.pt")
        Image.fromarray(np.arange(48 * 60, dtype=np.uint8).reshape(48, 60)).save(Path(scratch) / "image.png")
        # -I: no current folder, no user site, no PYTHON* variables; an import of this library is made to fail
        finished = subprocess.run(
            [sys.executable, "-I", "-c", _CHECK, str(folder), scratch],
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        if finished.returncode:
            last = finished.stderr.strip().splitlines()[-1:] or [f"exit status {finished.returncode}"]
            reason = first_line(last[0])
            raise NasError(f"the bundle does not run by itself: {reason}")
        shipped, precise = np.load(Path(scratch) / "shipped.npy"), np.load(Path(scratch) / "precise.npy")
    largest = max(np.abs(expected).max(), 1e-6)
    varies = max(np.abs(expected - expected.mean(0)).max(), 1e-9 * largest)  # float64 resolves no less
    differences = {
        "largest_relative_difference": float(np.abs(shipped - expected).max() / largest),
        "source_relative_difference": float(np.abs(precise - expected).max() / varies),
    }
    worst = np.max(list(differences.values()))  # unlike max(), never passes over a NaN
    if not worst <= TOLERANCE:
        raise NasError(f"the bundle's outputs differ from the network's by {worst:.1e} (allowed {TOLERANCE:.0e})")
    return differences


_PREDICT = '''"""Classify image files: python predict.py image.png ..."""

import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch.nn import functional as F

from model import load

HERE = Path(__file__).parent
PREPROCESSING = json.loads((HERE / "preprocessing.json").read_text())
CLASSES = json.loads((HERE / "classes.json").read_text())


{square_pixels}

def read(file):
    """An image file as the network's input, (1, channels, size, size): the same steps as in training."""
    size = PREPROCESSING["size"]
    fit = PREPROCESSING.get("fit", "crop")
    pixels = square_pixels(file, PREPROCESSING["load_size"], PREPROCESSING["channels"], fit)
    x = torch.from_numpy(pixels.copy())[None].float() / 255
    if size != x.shape[-1]:
        x = F.interpolate(x, (size, size), mode="bilinear", align_corners=False, antialias=size < x.shape[-1])
    mean = torch.tensor(PREPROCESSING["mean"]).view(1, -1, 1, 1)
    std = torch.tensor(PREPROCESSING["std"]).view(1, -1, 1, 1)
    return (x - mean) / std


def main():
    if len(sys.argv) < 2:
        sys.exit("usage: python predict.py image.png ...")
    model = load()
    for file in sys.argv[1:]:
        try:
            x = read(file)
        except Exception as error:
            sys.exit(f"{file} cannot be read as an image: {error}")
        with torch.no_grad():
            probabilities = model(x).softmax(1)[0]
        best = probabilities.topk(min(3, len(CLASSES)))
        print(file, ", ".join(f"{CLASSES[i]} {p:.1%}" for p, i in zip(best.values, best.indices)))


if __name__ == "__main__":
    main()
'''

_README = """# An image classifier for {classes} classes, input {shape}

    pip install -r requirements.txt
    python predict.py image.png

`requirements.txt` asks for no version, only says which were checked. `model.py` is the network as plain PyTorch (`load()`
gives it with its weights, from wherever it is called), `preprocessing.json` says how an image
becomes its input, `classes.json` names its outputs.

Checked when it was written, in a process of its own: outputs differ from the original network's by
{largest_relative_difference:.1e} of the largest output, and in double precision by {source_relative_difference:.1e} of
their variation between images (allowed: {allowed_relative_difference:.0e} each).
"""

_CHECK = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == "nas" or name.startswith("nas."):
            raise ImportError("a bundle must not import nas")
sys.meta_path.insert(0, Absent())
folder, scratch = sys.argv[1:]
sys.path.insert(0, folder)
sys.dont_write_bytecode = True
import numpy, torch
torch.set_num_threads(1)
import model, predict
x = torch.from_numpy(numpy.load(scratch + "/x.npy"))
with torch.no_grad():
    shipped = model.load()(x.float())
    precise = model.Model().double().eval()
    precise.load_state_dict(torch.load(scratch + "/exact.pt", weights_only=True))
    numpy.save(scratch + "/precise.npy", precise(x).numpy())
seen = predict.read(scratch + "/image.png").shape
assert seen[1:] == x.shape[1:], f"predict.py makes inputs of shape {tuple(seen[1:])}, the network takes {tuple(x.shape[1:])}"
assert "nas" not in sys.modules, "a bundle must not import nas"
numpy.save(scratch + "/shipped.npy", shipped.numpy())
"""
