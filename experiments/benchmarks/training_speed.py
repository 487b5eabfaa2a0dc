"""How fast a supernet trains and its subnets are evaluated, on one thread; all ratios are of times taken in turns in one run.

sandwich: a step of four subnets (largest, smallest, two random ones; forward, backward, one step of the optimizer) against
the sum of the steps of the four extracted networks on the same batches and targets. subnets: recalibrating and evaluating
many random subnets together against extracting each and doing it from the stored images. loader: making a batch (taking,
augmenting, normalising) as a share of the sandwich step on it. peer: training images per second on one subnet of
once-for-all's MobileNetV3 against once-for-all's own elastic layers (Cai et al., ICLR 2020), whose checkout the
environment variable ONCE_FOR_ALL names; skipped without.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from unittest.mock import MagicMock

import numpy as np
import pandas as pd
import torch
from harness import Measured, Target, run
from torch.nn import functional as F

from nas.data.images import ImageData, Split, load_digits
from nas.data.inputs import batches, fixed_choice, normalised, resize
from nas.supernet import Sandwich, Supernet, recalibrate
from nas.supernet.evaluation import subnet_accuracies
from nas.supernet.recalibrate import RECALIBRATION_IMAGES
from nas.training.augment import Augment, augmented
from nas.training.batches import Batches
from nas.training.evaluate import validation_views
from nas.training.loop import keep_freed_memory
from nas.training.recipe import Recipe
from search_spaces import MobileNetV3, OnceForAll
from search_spaces.ofa import published_config

SUBNETS = 24
"""Issue 10 says 100, which take an hour of one core here, most of it the plain way; more share more."""

TARGETS = [
    Target(figure="sandwich_ratio", sense="<=", bound=1.05, why="issue 10: sharing weights costs next to nothing"),
    Target(figure="subnets_speedup", sense=">=", bound=5.0, why="issue 10: what a search spends its time on"),
    Target(figure="loader_share", sense="<=", bound=0.05, why="issue 10: the step decides how long training takes"),
    Target(figure="peer_ratio", sense=">=", bound=1.0, why="no slower than once-for-all's elastic layers"),
]


def measure(quick: bool) -> Measured:
    torch.set_num_threads(1)  # threads that wait for one another multiply every disturbance on a shared machine
    keep_freed_memory()  # as nas.training.loop.fit does, for either side
    space = MobileNetV3.digits() if quick else MobileNetV3.cifar()
    data = load_digits() if quick else _pictures()
    rows = [
        *_sandwich(space, data, 32 if quick else 64, 5),
        *_subnets(space, data, 6 if quick else SUBNETS),
        *_peer(quick),
    ]
    frame = pd.DataFrame(rows)
    return Measured(rows=frame, figures={f"{row['what']}": row["ratio"] for row in rows})


def _pictures() -> ImageData:
    """Noise of CIFAR-10's shape: what an image shows does not change how long a network takes."""
    rng = np.random.default_rng(0)

    def split(n):
        return Split(images=rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8), labels=np.arange(n) % 10)

    return ImageData(name="noise", classes=tuple("abcdefghij"), train=split(2000), val=split(1500), test=split(10))


def _taken_in_turns(rounds: int, **sides: Callable[[], object]) -> dict[str, float]:
    """Median seconds of this process for each; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(rounds + 1):
        for name, side in sides.items():
            started = time.process_time()
            side()
            if i:
                seconds[name].append(time.process_time() - started)
    return {name: float(np.median(s)) for name, s in seconds.items()}


def _sandwich(space, data, batch, rounds):
    recipe = Recipe(epochs=1, batch_size=batch)
    supernet = Supernet(space).train()
    strategy = Sandwich(randoms=2)
    archs = [supernet.largest, supernet.smallest, *space.sample(2, np.random.default_rng(0))]
    networks = [supernet.extract(arch) for arch in archs]
    size = max(block.size for block in space.slot_options(0))
    made = iter(())
    loader = Batches(data, recipe, Augment.suited_to(data), size=size, seed=0, device=torch.device("cpu"))
    held = []

    def load():
        nonlocal made
        held[:] = [one] if (one := next(made, None)) is not None else []
        if not held or len(held[0].labels) < batch:
            made = loader.epoch(0)
            held[:] = [next(made)]

    load()
    supernet.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(supernet.parameters(), lr=1e-3, momentum=0.9, nesterov=True)
    soft = torch.full((batch, space.classes), 1 / space.classes)

    def sandwich():
        optimizer.zero_grad(set_to_none=True)
        strategy.step(supernet, held[0].images, held[0].labels, np.random.default_rng(0), recipe)
        optimizer.step()

    def static(network, target):
        network.to(memory_format=torch.channels_last).train()
        own = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, nesterov=True)

        def step():
            own.zero_grad(set_to_none=True)
            images = resize(held[0].images, network.input_shape[-1])
            if target is None:
                recipe.label_loss(network(images), held[0].labels).backward()
            else:
                F.cross_entropy(network(images), target).backward()
            own.step()

        return step

    statics = {f"static_{i}": static(network, soft if i else None) for i, network in enumerate(networks)}
    seconds = _taken_in_turns(rounds, load=load, sandwich=sandwich, **statics)
    four = sum(s for name, s in seconds.items() if name.startswith("static"))
    yield {
        "what": "sandwich_ratio",
        "ours_s": seconds["sandwich"],
        "other_s": four,
        "ratio": seconds["sandwich"] / four,
    }
    share = seconds["load"] / seconds["sandwich"]
    yield {"what": "loader_share", "ours_s": seconds["load"], "other_s": seconds["sandwich"], "ratio": share}


def _subnets(space, data, n):
    supernet = Supernet(space)
    archs = space.sample(n, np.random.default_rng(0))
    _plainly(supernet, archs[0], data), subnet_accuracies(supernet, archs[:1], data)  # warm
    seconds = {"plain": 0.0, "together": 0.0}
    expected = []
    for half in np.array_split(archs, 2):
        started = time.process_time()
        expected += [_plainly(supernet, arch, data) for arch in half]
        seconds["plain"] += time.process_time() - started
        if not seconds["together"]:
            started = time.process_time()
            got = subnet_accuracies(supernet, archs, data)
            seconds["together"] = time.process_time() - started
    assert np.abs(got - expected).max() < 0.005, "the two ways disagree"
    ratio = seconds["plain"] / seconds["together"]
    yield {"what": "subnets_speedup", "ours_s": seconds["together"], "other_s": seconds["plain"], "ratio": ratio}


@torch.no_grad()
def _plainly(supernet, arch, data):
    """Extracted, recalibrated and evaluated on its own, everything from the stored images."""
    network = supernet.extract(arch).eval()
    size = network.input_shape[-1]
    recalibrate(network, batches(fixed_choice(data, RECALIBRATION_IMAGES), data, size))
    guesses = [network(x).argmax(1) for x in batches(data.val, data, size)]
    stored, views = torch.from_numpy(data.val.images), validation_views(data)
    for view in range(1, views):
        images = augmented(stored, Augment(), size, torch.Generator().manual_seed(view))
        guesses.append(network(normalised(images, data)).argmax(1))
    return float((torch.cat(guesses) == torch.from_numpy(data.val.labels).repeat(views)).double().mean())


def _peer(quick):
    path = os.environ.get("ONCE_FOR_ALL")
    if not path:
        print("peer: skipped; ONCE_FOR_ALL does not name a checkout of github.com/mit-han-lab/once-for-all")
        return
    sys.path.insert(0, path)
    for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional", "torchvision.datasets"):
        sys.modules.setdefault(name, MagicMock())  # it reads ImageNet with it, which is not needed here
    from ofa.imagenet_classification.elastic_nn.networks import OFAMobileNetV3

    size, batch, rounds = (64, 8, 4) if quick else (96, 32, 7)
    space = OnceForAll.mobilenet_v3(resolutions=(size,))
    kernels, expansions, depths = [3, 5, 7, 5] * 5, [3, 4, 6, 4] * 5, [2, 3, 4, 3, 2]
    config = published_config(depths, kernels, expansions, resolution=size)
    theirs = OFAMobileNetV3(
        dropout_rate=0, width_mult=1.2, ks_list=[3, 5, 7], expand_ratio_list=[3, 4, 6], depth_list=[2, 3, 4]
    )
    theirs.set_active_subnet(ks=kernels, e=expansions, d=depths)
    supernet = Supernet(space)
    arch = space.encode([config])[0]
    x = torch.randn(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, 1000, (batch,))

    def step(model, choose):
        model.train().to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True)

        def once():
            choose()
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

        return once

    seconds = _taken_in_turns(
        rounds,
        ours=step(supernet, lambda: supernet.activate(arch)),
        theirs=step(theirs, lambda: theirs.set_active_subnet(ks=kernels, e=expansions, d=depths)),
    )
    print(f"peer: {batch / seconds['ours']:.1f} images/s here, {batch / seconds['theirs']:.1f} once-for-all")
    ratio = seconds["theirs"] / seconds["ours"]
    yield {"what": "peer_ratio", "ours_s": seconds["ours"], "other_s": seconds["theirs"], "ratio": ratio}


if __name__ == "__main__":
    run("training_speed", TARGETS, measure, packages=("torch",))
