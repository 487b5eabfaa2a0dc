"""CIFAR-10 as JPEGs, which lies beside the project and not in it; for transfer.py and mcu.py and their benchmarks."""

from __future__ import annotations

import sys

import numpy as np
from sources import SHARED

import nas

CIFAR = SHARED / "cifar10"


def needed() -> None:
    """Ends the program, saying so, where the images are not here."""
    if not CIFAR.exists():
        sys.exit(f"skipped: {CIFAR} is not here (CIFAR-10 as JPEGs lies beside the project, not in it)")


def photographs(seed: int, train: int, val: int, test: int) -> nas.ImageData:
    """So many images of each split, every class alike, drawn by ``seed``; no validation image is among those to train on."""
    everything = nas.load_images(CIFAR / "train.zip", size=32, val=0.1, test_path=CIFAR / "test.zip")
    rng = np.random.default_rng(seed)

    def some(split: nas.Split, n: int) -> nas.Split:
        each = n // len(everything.classes)
        rows = [rng.permutation(np.flatnonzero(split.labels == c))[:each] for c in range(len(everything.classes))]
        return split.take(np.sort(np.concatenate(rows)))

    return nas.ImageData(
        name=f"cifar10-{train}-{seed}",
        classes=everything.classes,
        train=some(everything.train, train),
        val=some(everything.val, val),
        test=some(everything.test, test),
    )
