"""Trainings that are killed (SIGKILL) at random moments and started again: is the loss curve that of an unbroken one?

``python experiments/kill_and_resume.py [--kills 10] [--workers 1 2]`` writes ``results/kill_and_resume.csv``: a row for
each kill, with the step that it hit and whether losses and weights are equal to the bit once the training has gone on to
its end. Data are scikit-learn's digits, in memory and from the cache on disk (then in one process).
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import nas
from nas.modules import weights_digest
from search_spaces import MobileNetV2


class Count:
    """Writes one byte for every step into a file: how far a training in other processes is."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, step: dict[str, float]) -> None:
        with self.path.open("ab") as file:
            file.write(b".")


def digits(images: int, cache: Path | None) -> nas.ImageData:
    """The first ``images`` of the training images, in memory or in a file in ``cache``."""
    data = nas.load_digits()
    data = dataclasses.replace(data, train=data.train.take(np.arange(images)))
    if cache is None:
        return data
    pairs = {
        part: [(image, int(label)) for image, label in zip(split.images[:], split.labels, strict=True)]
        for part, split in (("train", data.train), ("val", data.val), ("test", data.test))
    }
    return nas.load_dataset(**pairs, classes=data.classes, max_bytes=1, cache=cache)


def train(
    folder: Path, workers: int = 1, epochs: int = 6, images: int = 1000, cached: int = 0
) -> tuple[list[float], str]:
    """The losses of the epochs and a digest of the weights of the training in ``folder``, from wherever it stands."""
    supernet = nas.train_supernet(
        MobileNetV2.digits(),
        digits(images, folder / "cache" if cached else None),
        recipe=nas.Recipe(epochs=epochs, batch_size=100),
        run_dir=folder,
        workers=workers,
        on_step=Count(folder / "steps"),
        progress=False,
    )
    # of tensors: the file's header comes in another order each time
    return pd.read_csv(folder / "training.csv")["loss"].tolist(), weights_digest("supernet", supernet)


def killed(folder: Path, step: int, wait_s: float, *size: int, patience_s: float = 600) -> bool:
    """Train in a process of its own and kill it ``wait_s`` after it has made ``step`` steps; False if it was done before.

    ``size``: workers, epochs, images and cached, as of ``train``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    counted = folder / "steps"
    counted.write_bytes(b"")
    # equal to the bit needs as many threads: they decide the order of sums
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, __file__, "--folder", str(folder), "--size", *map(str, size)]
    child = subprocess.Popen(command, env=os.environ | threads)
    deadline = time.monotonic() + patience_s
    while counted.stat().st_size < step and child.poll() is None:
        if time.monotonic() > deadline:
            child.kill()
            raise TimeoutError(f"{folder} made {counted.stat().st_size} steps in {patience_s} s")
        time.sleep(0.002)
    time.sleep(wait_s)
    done = child.poll() is not None
    child.kill()
    child.wait()
    return not done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # of the process that is killed
    parser.add_argument("--size", type=int, nargs="*", default=[], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.folder:
        train(args.folder, *args.size)
        return
    rng, rows = np.random.default_rng(0), []
    with tempfile.TemporaryDirectory() as temporary:
        for workers, cached in [*((workers, 0) for workers in args.workers), (1, 1)]:
            size = (workers, 6, 1000, cached)
            folder = Path(temporary) / f"unbroken{workers}{cached}"
            folder.mkdir()
            losses, weights = train(folder, *size)
            steps = (folder / "steps").stat().st_size
            for kill in range(args.kills):
                broken = folder.with_name(f"broken{workers}{cached}_{kill}")
                step = int(rng.integers(1, steps))
                hit = killed(broken, step, float(rng.uniform(0, 0.2)), *size)
                made = (broken / "steps").stat().st_size
                resumed = train(broken, *size)
                row = {
                    "workers": workers,
                    "data": "cache" if cached else "memory",
                    "kill": kill,
                    "killed": hit,
                    "after_steps": made,
                    "of": steps,
                }
                rows.append(row | {"equal_losses": resumed[0] == losses, "equal_weights": resumed[1] == weights})
                print(rows[-1], flush=True)
                frame = pd.DataFrame(rows)
                frame.to_csv(Path(__file__).parent / "results" / "kill_and_resume.csv", index=False)
    print(frame.to_string(index=False))
    if not (frame["equal_losses"] & frame["equal_weights"]).all():
        sys.exit(1)


if __name__ == "__main__":
    main()
