"""Training on more images than memory has room for: how much memory it takes, and how fast it is.

A folder of generated JPEG files of 224 x 224 pixels, of ``TOTAL`` bytes when decoded (as a cache of pixels; as JPEG files they are a
twentieth of that), is loaded by ``nas.load_images``, which decodes it into a file, and a small network is trained on it for
an epoch by the loop that trains everything. ``resident_gb``: the largest resident set of the process until then (VmHWM:
anonymous, file-backed and shared pages; the pixels are read, not mapped, so the system's page cache is no part of it).

``speed_ratio``: images per second of an epoch from the cache over that from memory, on as many of the images as fit, in
turns in one run after a first epoch of each; medians. The step is a hard one for a loader: a network of two blocks,
no augmentation, one thread. A row more is of files that are decoded in every epoch by processes, for which there is no
target. Files and cache lie in a temporary folder (TMPDIR), and are deleted.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import torch
from harness import Measured, Target, run
from PIL import Image

import nas
from nas.blocks import Head, Stem
from nas.data import cache
from nas.training.loop import fit, supervised

TARGETS = [
    Target(figure="resident_gb", sense="<=", bound=4.0, why="issue 10: 20 GB of images with a resident set below 4 GB"),
    Target(
        figure="speed_ratio", sense=">=", bound=0.9, why="issue 10: 90% of the in-memory speed after the first epoch"
    ),
]
SIZE = 224
IMAGE_BYTES = 3 * SIZE * SIZE
CLASSES = 4
TOTAL = 3e9
"""Issue 10 says 20e9, which takes a quiet machine over 20 minutes and has not been run to its end yet."""


def measure(quick: bool) -> Measured:
    total, fits = (0.3e9, 0.1e9) if quick else (TOTAL, 0.5e9)
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory(prefix="bounded_memory-") as folder:
        root = Path(folder)
        rows = list(_large(root, int(total / IMAGE_BYTES)))
        resident = _resident_gb()
        rows.append({"what": "largest resident set", "gb": resident})
        speeds = _speeds(root, int(fits / IMAGE_BYTES), rounds=3 if quick else 4)
    for where, speed in speeds.items():
        rows.append({"what": f"epoch from {where}", "gb": fits / 1e9, "images_per_s": speed})
    figures = {"decoded_gb": total / 1e9, "resident_gb": resident, "speed_ratio": speeds["cache"] / speeds["memory"]}
    return Measured(rows=pd.DataFrame(rows), figures=figures)


def _large(root: Path, n: int) -> Iterator[dict[str, object]]:
    """Make the images, load them, train an epoch; a row for each."""
    started = time.perf_counter()
    encoded = _generate(root / "images", n)
    seconds = time.perf_counter() - started
    yield {"what": "images made", "gb": encoded / 1e9, "seconds": seconds, "images_per_s": n / seconds}
    started = time.perf_counter()
    data = nas.load_images(root / "images", size=SIZE, max_bytes=1, cache=root / "cache", val=0.02, test=0.02)
    seconds = time.perf_counter() - started
    yield {
        "what": "decoded into the cache",
        "gb": n * IMAGE_BYTES / 1e9,
        "seconds": seconds,
        "images_per_s": n / seconds,
    }
    seconds = _epoch_seconds(data)
    speed = len(data.train) / seconds
    yield {"what": "first epoch", "gb": n * IMAGE_BYTES / 1e9, "seconds": seconds, "images_per_s": speed}


def _generate(root: Path, n: int) -> int:
    """``n`` different JPEG files in class folders; returns their bytes."""
    rng, written = np.random.default_rng(0), 0
    coarse = rng.integers(0, 256, (CLASSES, 14, 14, 3), dtype=np.uint8).repeat(16, 1).repeat(16, 2)
    for i in range(n):
        pixels = np.roll(coarse[i % CLASSES], (i % 223, i // 223 % 223), axis=(0, 1))
        pixels[:16, :16] = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        path = root / f"class{i % CLASSES}" / f"{i // 1000}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=50)
        written += path.stat().st_size
    return written


def _speeds(root: Path, n: int, rounds: int) -> dict[str, float]:
    """Images per second of an epoch after the first, from memory, from the cache, and decoded by processes."""
    _generate(root / "some", n)
    data = {"memory": nas.load_images(root / "some", size=SIZE)}
    data["cache"] = nas.load_images(root / "some", size=SIZE, max_bytes=1, cache=root / "cache")
    with mock.patch.object(cache, "_free", return_value=0):
        data["files"] = nas.load_images(root / "some", size=SIZE, max_bytes=1, cache=root / "none")
    assert len({one.fingerprint for one in data.values()}) == 1
    seconds: dict[str, list[float]] = {where: [] for where in data}
    for _ in range(rounds):
        for where, one in data.items():
            seconds[where].append(_epoch_seconds(one))
    return {where: len(data[where].train) / float(np.median(taken[1:])) for where, taken in seconds.items()}


def _epoch_seconds(data: nas.ImageData) -> float:
    blocks = [
        Stem(in_ch=3, out_ch=8, size=SIZE),
        Head(in_ch=8, hidden=16, out_ch=CLASSES, size=SIZE // 2),
    ]
    recipe = nas.Recipe(epochs=1, batch_size=64)
    rows = fit(nas.Network(blocks), data, recipe, supervised(recipe), size=SIZE, progress=False)
    return float(rows["seconds"].sum())


def _resident_gb() -> float:
    """The largest resident set of this process so far."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e9


if __name__ == "__main__":
    run("bounded_memory", TARGETS, measure, packages=("numpy", "torch", "pillow"))
