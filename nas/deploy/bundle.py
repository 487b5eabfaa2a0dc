"""A self-contained bundle: the network as plain PyTorch source with weights and preprocessing, free of this library.

The source is generated from a torch.fx trace after folding batch norm, so it works for any network made of
convolutions, linear layers and functions, pruned ones included. It is run in a process of its own, without access to
this library, before the bundle gets its name.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from nas.errors import BadInput, NasError

MARKER = "bundle.json"
TOLERANCE = 1e-4

_FUNCTIONS: dict[Any, str] = {
    F.relu: "F.relu({0})",
    F.relu6: "F.relu6({0})",
    F.hardswish: "F.hardswish({0})",
    F.silu: "F.silu({0})",
    F.hardsigmoid: "F.hardsigmoid({0})",
    torch.sigmoid: "torch.sigmoid({0})",
    F.adaptive_avg_pool2d: "F.adaptive_avg_pool2d({0}, {1})",
    "flatten": "{0}.flatten({1})",
    "add": "{0} + {1}",
    "mul": "{0} * {1}",
}


def export_bundle(
    network: nn.Module,
    path: str | os.PathLike[str],
    *,
    classes: Sequence[str],
    preprocessing: Mapping[str, Any],
    input_shape: tuple[int, int, int] | None = None,
) -> Path:
    """Write a folder with model.py, weights.pt, predict.py, preprocessing.json, classes.json and a README.

    ``preprocessing``: as ``ImageData.preprocessing`` gives it. Weights are a plain torch file, read with
    ``weights_only=True``, so that the bundle needs torch, numpy and pillow and nothing else.
    Raises NasError, and leaves no folder, when the bundle's outputs differ from the network's; BadInput when ``path``
    exists and is not a bundle, or the network uses an operation that the generator does not know.
    """
    path = Path(path)
    shape = input_shape or getattr(network, "input_shape", None)
    if shape is None:
        raise BadInput(
            f"{type(network).__name__} does not say its input_shape; pass input_shape=(channels, height, width)"
        )
    if path.exists() and not (path / MARKER).exists():
        raise BadInput(f"{path} exists and is not a bundle; choose another path")
    plain = copy.deepcopy(network).cpu().float().eval()
    source, weights = generate(plain)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        (folder / "model.py").write_text(source)
        torch.save(weights, folder / "weights.pt")
        (folder / "predict.py").write_text(_PREDICT)
        (folder / "preprocessing.json").write_text(json.dumps(dict(preprocessing), indent=2) + "\n")
        (folder / "classes.json").write_text(json.dumps(list(classes), indent=2) + "\n")
        versions = "".join(f"{name}>={_minor(metadata.version(name))}\n" for name in ("torch", "numpy", "pillow"))
        (folder / "requirements.txt").write_text(versions)
        (folder / "README.md").write_text(_README.format(classes=len(classes), shape=tuple(shape)))
        error = _verify(plain, folder, tuple(shape))
        made = {"input_shape": list(shape), "classes": len(classes), "largest_relative_difference": error}
        (folder / MARKER).write_text(json.dumps(made, indent=2) + "\n")
        folder.chmod(0o755)
        if path.exists():
            shutil.rmtree(path)
        os.replace(folder, path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return path


def generate(network: nn.Module) -> tuple[str, dict[str, torch.Tensor]]:
    """(source of model.py, state dict of its ``Model``) for ``network`` in eval mode; batch norm is folded."""
    traced = fx.symbolic_trace(network)
    modules = dict(traced.named_modules())
    folded = _fold_batch_norm(traced, modules)
    values: dict[fx.Node, str] = {}
    layers: list[str] = []
    lines: list[str] = []
    weights: dict[str, torch.Tensor] = {}
    order = [node for node in traced.graph.nodes if node not in folded]
    follower = dict(pairwise(order))
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            values[node] = "x"
        elif node.op == "output":
            lines.append(f"return {values[node.args[0]]}")
        elif node in folded:
            values[node] = values[node.args[0]]
        else:
            if node.op == "call_module":
                name = _readable(str(node.target))
                layer = modules[str(node.target)]
                layers.append(f"self.{name} = {_constructor(layer)}")
                weights |= {f"{name}.{k}": v.clone() for k, v in layer.state_dict().items()}
                text = f"self.{name}({values[node.args[0]]})"
            else:
                text = _expression(node, values)
            # one running variable; a value that anything but the next line reads gets a name of its own
            readers = _readers(node, folded)
            values[node] = "x" if readers == [follower[node]] else f"kept_{len(lines)}"
            lines.append(f"{values[node]} = {text}")
    body = _TEMPLATE.format(layers="\n        ".join(layers), lines="\n        ".join(lines))
    return body, weights


def _fold_batch_norm(traced: fx.GraphModule, modules: dict[str, nn.Module]) -> set[fx.Node]:
    """Fold every batch norm into the convolution before it, in ``modules``; returns the norms' nodes."""
    folded = set()
    for node in traced.graph.nodes:
        if node.op != "call_module" or not isinstance(modules[str(node.target)], nn.BatchNorm2d):
            continue
        before = node.args[0]
        if (
            before.op != "call_module"
            or not isinstance(modules[str(before.target)], nn.Conv2d)
            or len(before.users) > 1
        ):
            raise BadInput(f"{node.target}: a batch norm that does not follow a convolution cannot be folded")
        convolution, norm = modules[str(before.target)], modules[str(node.target)]
        modules[str(before.target)] = fuse_conv_bn_eval(convolution, norm)  # type: ignore[type-var, arg-type]
        folded.add(node)
    return folded


def _expression(node: fx.Node, values: Mapping[fx.Node, str]) -> str:
    target: Any = node.target
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    form = _FUNCTIONS.get(target) or _FUNCTIONS.get(name)
    if form is None:
        raise BadInput(f"the bundle generator does not know the operation {name or target}")
    return form.format(*(values[a] if isinstance(a, fx.Node) else repr(a) for a in node.args))


def _readers(node: fx.Node, folded: set[fx.Node]) -> list[fx.Node]:
    """The nodes that read a value, looking through folded ones."""
    return [reader for user in node.users for reader in (_readers(user, folded) if user in folded else [user])]


def _constructor(layer: nn.Module) -> str:
    match layer:
        case nn.Conv2d():
            extra = "".join(
                f", {name}={value}"
                for name, value, default in (
                    ("stride", layer.stride[0], 1),
                    ("padding", int(layer.padding[0]), 0),
                    ("groups", layer.groups, 1),
                    ("bias", layer.bias is not None, True),
                )
                if value != default
            )
            return f"nn.Conv2d({layer.in_channels}, {layer.out_channels}, {layer.kernel_size[0]}{extra})"
        case nn.Linear():
            return f"nn.Linear({layer.in_features}, {layer.out_features}{'' if layer.bias is not None else ', bias=False'})"
    raise BadInput(f"the bundle generator does not know the layer {type(layer).__name__}")


def _readable(target: str) -> str:
    first, _, rest = target.partition(".")
    return f"block{first}_{rest.replace('.', '_')}" if first.isdigit() else target.replace(".", "_")


def _verify(network: nn.Module, folder: Path, shape: tuple[int, ...]) -> float:
    x = np.random.default_rng(0).standard_normal((4, *shape), dtype=np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(x)).numpy()
    with tempfile.TemporaryDirectory() as scratch:
        np.save(Path(scratch) / "x.npy", x)
        # -I: no current folder, no user site, no PYTHON* variables; an import of this library is made to fail
        finished = subprocess.run(
            [sys.executable, "-I", "-c", _CHECK, str(folder), scratch], capture_output=True, text=True, check=False
        )
        if finished.returncode:
            raise NasError(f"the bundle does not run by itself: {finished.stderr.strip().splitlines()[-1]}")
        seen = np.load(Path(scratch) / "y.npy")
    error = float(np.abs(seen - expected).max() / max(np.abs(expected).max(), 1e-6))
    if not error <= TOLERANCE:
        raise NasError(f"the bundle's outputs differ from the network's by {error:.1e} (allowed {TOLERANCE:.0e})")
    return error


def _minor(version: str) -> str:
    return ".".join(version.split("+")[0].split(".")[:2])


_TEMPLATE = '''"""An image classifier in plain PyTorch. Batch norm is folded into the convolutions."""

import torch
from torch import nn
from torch.nn import functional as F


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        {layers}

    def forward(self, x):
        {lines}


def load(weights="weights.pt"):
    """The model with its weights, ready to predict."""
    model = Model()
    model.load_state_dict(torch.load(weights, weights_only=True))
    return model.eval()
'''

_PREDICT = '''"""Classify image files: python predict.py image.png ..."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.nn import functional as F

from model import load

HERE = Path(__file__).parent
PREPROCESSING = json.loads((HERE / "preprocessing.json").read_text())
CLASSES = json.loads((HERE / "classes.json").read_text())


def read(file):
    """An image file as the network's input, (1, channels, size, size): the same steps as in training."""
    load_size, size = PREPROCESSING["load_size"], PREPROCESSING["size"]
    image = ImageOps.exif_transpose(Image.open(file))
    if image.mode.startswith("I"):
        image = image.point(lambda value: value / 256).convert("L")
    elif image.mode in ("P", "PA", "LA", "La", "RGBa"):
        image = image.convert("RGBA")
    image = image.convert("RGB" if PREPROCESSING["channels"] == 3 else "L")
    scale = load_size / min(image.size)
    wide = (max(load_size, round(image.width * scale)), max(load_size, round(image.height * scale)))
    image = image.resize(wide, Image.Resampling.BILINEAR)
    left, top = (image.width - load_size) // 2, (image.height - load_size) // 2
    pixels = np.array(image.crop((left, top, left + load_size, top + load_size)))
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    x = torch.from_numpy(np.ascontiguousarray(pixels))[None].float() / 255
    if size != load_size:
        x = F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False, antialias=size < load_size)
    mean = torch.tensor(PREPROCESSING["mean"]).view(1, -1, 1, 1)
    std = torch.tensor(PREPROCESSING["std"]).view(1, -1, 1, 1)
    return (x - mean) / std


def main():
    if len(sys.argv) < 2:
        sys.exit("usage: python predict.py image.png ...")
    model = load(HERE / "weights.pt")
    for file in sys.argv[1:]:
        with torch.no_grad():
            probabilities = model(read(file)).softmax(1)[0]
        best = probabilities.topk(min(3, len(CLASSES)))
        print(file, ", ".join(f"{CLASSES[i]} {p:.1%}" for p, i in zip(best.values, best.indices)))


if __name__ == "__main__":
    main()
'''

_README = """# An image classifier for {classes} classes, input {shape}

    pip install -r requirements.txt
    python predict.py image.png

`model.py` is the network as plain PyTorch (`load()` gives it with its weights), `preprocessing.json` says how an image
becomes its input, `classes.json` names its outputs.
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
import model
with torch.no_grad():
    y = model.load(folder + "/weights.pt")(torch.from_numpy(numpy.load(scratch + "/x.npy")))
numpy.save(scratch + "/y.npy", y.numpy())
"""
