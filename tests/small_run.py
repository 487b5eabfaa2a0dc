"""A run at its smallest, made by functions that another process can import: 13 or so blocks, 400 images."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import traceback
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


def killed(folder: Path, hook: str, count: int) -> int:
    """How a process ends that runs until ``hook`` is called for the ``count``-th time, and is killed then. It is a fork,
    which spares it the seconds of importing everything."""
    calls = []

    def die(_: object) -> None:
        calls.append(1)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)

    if (child := os.fork()) == 0:
        try:
            run(folder, **{hook: die})
        except BaseException:
            traceback.print_exc()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    import small_run  # under its own name, so that its functions can be imported again

    import nas.runs.stages

    sys.exit(
        [small_run.killed(Path(sys.argv[1]), *json.loads(one)) for one in sys.argv[2:]] != [-9] * len(sys.argv[2:])
    )
