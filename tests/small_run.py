"""A run at its smallest, made by functions that another process can import: 13 or so blocks, 400 images."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from pathlib import Path

import numpy as np

import nas
from search_spaces.stages import Family, Stage, build_space

SETTINGS = nas.Settings(
    epochs=3, budget=12, searcher="random", candidates=2, finetune_epochs=1, qat_epochs=1, prune=0.5
)


def space() -> nas.SearchSpace:
    """96 networks."""
    stage = Stage(channels=16, stride=2, depths=(1, 2), kernels=(3, 5), expansions=(2,), acts=("relu", "hswish"))
    family = Family(resolutions=(8, 16), widths=(1.0, 2.0), stem=8, hidden=16, squeeze=lambda before, mid: 8)
    return build_space("small", family, [stage], classes=10, in_channels=1)


def images() -> nas.ImageData:
    """A few of the digits."""
    digits = nas.load_digits()
    rng = np.random.default_rng(0)
    few = {
        name: getattr(digits, name).take(np.sort(rng.permutation(len(getattr(digits, name)))[:n]))
        for name, n in (("train", 256), ("val", 96), ("test", 96))
    }
    return dataclasses.replace(digits, **few)


def run(folder: Path, **options):
    """The whole run, with what it is given instead of the settings above."""
    names = {f.name for f in dataclasses.fields(nas.Settings)}
    chosen = {k: options.pop(k) for k in list(options) if k in names}
    return nas.run(space, images, run_dir=folder, settings=dataclasses.replace(SETTINGS, **chosen), **options)


def killed(folder: str, hook: str, count: str) -> None:
    """Run until ``hook`` is called for the ``count``-th time: then this process is killed."""
    calls = []

    def die(_: object) -> None:
        calls.append(1)
        if len(calls) == int(count):
            os.kill(os.getpid(), signal.SIGKILL)

    run(Path(folder), **{hook: die})


if __name__ == "__main__":
    import small_run  # under its own name, so that its functions can be imported again

    small_run.killed(*sys.argv[1:])
