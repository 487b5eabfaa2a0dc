"""``pretrained``: a network that somebody has taught already, as one of this project's own."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import torch

from nas.blocks import Channels, Pixels
from nas.checks import FilePath, Seed, checked
from nas.errors import BadInput
from nas.layouts.layout import Layout
from nas.layouts.reading import File, read
from nas.layouts.tables import LAYOUTS
from nas.layouts.tensors import PACKAGES, Tensors, packaged, read_tensors
from nas.modules import Network


@checked
def pretrained(
    source: FilePath,
    *,
    classes: Channels | None = None,
    size: Pixels | None = None,
    layout: str | None = None,
    seed: Seed = 0,
) -> Network:
    """A pretrained network, in eval mode; ``network.normalise`` says how images are normalised for it.

    ``source``: "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2" (ImageNet weights out of packages, the
    extra ``pretrained``), or a file of weights, safetensors or ``.pth``, in one of the layouts ``nas.layouts.names()``.
    ``layout``: which; else the name of the file, or of its folder, has to begin with the layout's.
    ``classes``: replace the classifier by an untaught one of so many classes, drawn from ``seed``. ``size``: height and
    width of images in pixels, those that it was taught with when left out.
    Raises BadInput for a layout that is not known, and for a file that does not fit, naming the first tensor that does
    not; MissingPackage without the package.
    """
    path = packaged(os.fspath(source))
    if path is None and os.sep not in os.fspath(source) and not Path(source).exists():
        raise BadInput(
            f"there is no pretrained network and no file {os.fspath(source)!r}; networks: {', '.join(PACKAGES)}"
        )
    tensors = read_tensors(path or source)
    chosen = layout_of(Path(path or source), tensors, layout)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        file = File(path=str(path or source), tensors=tensors, layout=chosen.full_name)
        network = read(file, chosen, size or chosen.size)
    return network if classes is None else with_classes(network, classes, seed=seed)


def names() -> tuple[str, ...]:
    """Of all layouts, each as library/network."""
    return tuple(layout.full_name for layout in LAYOUTS)


@checked
def with_classes(network: Network, classes: Channels, *, seed: Seed = 0) -> Network:
    """The network with an untaught classifier of so many classes, drawn from ``seed``; in eval mode."""
    *body, head = network.describe()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        changed = Network([*body, replace(head, out_ch=classes)])
    last = f"{len(body)}.classify."
    state = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(last)}
    changed.load_state_dict(changed.state_dict() | state)
    changed.normalise = network.normalise
    return changed.eval()


def layout_of(path: Path, tensors: Tensors, asked: str | None) -> Layout:
    """The layout that was asked for, or that the names of file and tensors tell. Raises BadInput when nothing does."""
    if asked is not None:
        found = [layout for layout in LAYOUTS if asked in (layout.name, layout.full_name)]
    else:
        # Hugging Face's cache: models--timm--efficientnet_b0.ra_in1k/snapshots/.../model.safetensors
        folders = [part.rpartition("--")[2] for part in path.parts[:-1] if part.startswith("models--")]
        called = [re.sub(r"[-.]", "_", part) for part in (path.stem, path.parent.name, *folders)]
        found = [layout for layout in LAYOUTS if any(name.startswith(layout.name) for name in called)]
    fitting = [layout for layout in found if f"{layout.names.stem['conv']}.weight" in tensors]
    if found:  # of one that does not fit, reading says what is missing
        return max(fitting or found, key=lambda layout: len(layout.name))
    if asked is not None:
        raise BadInput(f"there is no layout {asked!r}; they are {', '.join(names())}")
    raise BadInput(
        f"{path} (its first tensor is {next(iter(tensors))}) does not say its layout in its name; call it as it was "
        "published, such as mobilenet_v2-b0353104.pth, or give layout=, one of nas.layouts.names()"
    )
