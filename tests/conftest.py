"""Fixtures that several test files share: small spaces, small data, randomised networks."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import psutil
import pytest
import torch
from filelock import FileLock
from torch import nn

import search_spaces
from nas.data.images import ImageData, load_digits
from nas.modules import Network
from nas.space import SearchSpace
from nas.supernet import Supernet, train_supernet
from nas.training.recipe import Recipe
from search_spaces.stages import Family, Stage, build_space

SHARED = Path(__file__).parents[2] / "shared" / "data"

MEMORY, ROOM = Path("/dev/shm"), 6 << 30


def keeps_temporary_files() -> bool:
    """Whether there is room in memory, for programs too: a disk makes tests wait until it has what nobody keeps."""
    if not MEMORY.is_dir() or os.statvfs(MEMORY).f_flag & os.ST_NOEXEC:
        return False
    return min(shutil.disk_usage(MEMORY).free, psutil.virtual_memory().available) > ROOM


if keeps_temporary_files():
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))
os.environ.setdefault("RAY_worker_niceness", "0")  # at 15, its own, workers starve on a busy machine

SPACES = [name for name in search_spaces.names() if name != "nasbench201.cell"]  # which has no blocks


def made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder that ``make`` makes: once for all xdist workers, whichever comes first."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(f"{folder}.lock"):
        if not (folder / "done").exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed or was killed
            make(folder / "made")
            (folder / "done").touch()
    return folder / "made"


@pytest.fixture(scope="session")
def ray_of_two() -> Iterator[ModuleType]:
    """One Ray of two cores for all tests of this process: it takes seconds to start, and so does each of its workers."""
    ray = pytest.importorskip("ray")
    from nas.cluster import start_ray

    assert start_ray(None, cpus=2)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="session", params=SPACES)
def space(request: pytest.FixtureRequest) -> SearchSpace:
    """Every space of every family."""
    return search_spaces.named(request.param)


@pytest.fixture(scope="session", params=["mobilenet_v2.digits", "mobilenet_v3.digits", "efficientnet.digits"], ids=str)
def family(request: pytest.FixtureRequest) -> SearchSpace:
    """One small space of each family."""
    return search_spaces.named(request.param)


@pytest.fixture(scope="session")
def tiny() -> SearchSpace:
    """A space small enough to enumerate: 48 networks of 48 blocks."""
    stage = Stage(channels=16, stride=2, depths=(1, 2), kernels=(3, 5), expansions=(2,), acts=("relu", "hswish"))
    family = Family(resolutions=(8, 16), widths=(1.0, 2.0), stem=8, hidden=16, squeeze=lambda before, mid: 8)
    return build_space("tiny", family, [stage], classes=10, in_channels=1)


@pytest.fixture(scope="session")
def fbnet() -> SearchSpace:
    return search_spaces.FBNet.cifar100()


@pytest.fixture(scope="session")
def digits() -> ImageData:
    return load_digits()


@pytest.fixture(scope="session")
def few_digits() -> ImageData:
    return some_digits()


@pytest.fixture(scope="session")
def trained(tiny, few_digits, tmp_path_factory) -> Supernet:
    """A supernet that has learnt. Tests may activate what they like in it, and leave its weights alone."""

    def train(folder: Path) -> Supernet:
        return train_supernet(tiny, few_digits, recipe=Recipe(epochs=40, batch_size=32), run_dir=folder)

    return train(made_once(tmp_path_factory, "trained", train))  # from its folder, if another worker has made it


def some_digits() -> ImageData:
    """A fifth of the digits, for tests that train."""
    digits = load_digits()
    rng = np.random.default_rng(0)

    def some(split, n):
        return split.take(np.sort(rng.permutation(len(split))[:n]))

    return dataclasses.replace(
        digits, train=some(digits.train, 256), val=some(digits.val, 96), test=some(digits.test, 96)
    )


def other_pictures(data: ImageData, *splits: str) -> ImageData:
    """``data`` with noise for the images of those splits: what has looked at them comes out different."""

    def noise(split):
        shape = split.images.shape
        return dataclasses.replace(split, images=rng.integers(0, 256, shape, dtype=np.uint8))

    rng = np.random.default_rng(1)
    return dataclasses.replace(data, **{name: noise(getattr(data, name)) for name in splits})


def lively(network: Network | Supernet, seed: int = 0) -> nn.Module:
    """Random batch norms, but outputs that depend on the image.

    Norms whose statistics fit no activation drown the image in constants, and then wrong networks look equal too.
    A supernet becomes so for its active architecture.
    """
    randomise(network, seed)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0
        x = torch.randn(16, *network.input_shape, generator=generator)
        network.train()(x * torch.linspace(0.2, 3, 16).view(-1, 1, 1, 1))
        for norm in norms:
            norm.momentum = 0.1
        network.eval()
        for layer in network.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.normal_(std=2 * layer.in_features**-0.5, generator=generator)
    return network


def randomise(network: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights, and batch norms far from the identity: with identity norms wrong slices would pass."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
                module.bias.copy_(torch.randn(module.bias.shape, generator=generator) * 0.3)
                module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator) * 0.3)
                module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
        for name, parameter in network.named_parameters():
            if ".transforms." in name or name.endswith("bias"):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return network.eval()
