"""Dividing images into train, validation and test, honestly: identical images never lie in two splits (NumPy)."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.checks import checked, shown
from nas.errors import BadInput


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Split:
    """``images (n, c, h, h) uint8`` and their ``labels (n,) int64`` (indices into the class names).

    Raises BadInput for arrays of another type or shape; labels of any integer type become int64.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        _check_images(self.images)
        labels = np.asarray(self.labels)
        if labels.dtype.kind not in "iu" or labels.shape != (len(self.images),):
            raise BadInput(
                f"labels are whole numbers of shape ({len(self.images)},), one for each image, "
                f"got {labels.dtype} of shape {labels.shape}"
            )
        object.__setattr__(self, "labels", labels.astype(np.int64, copy=False))

    def __repr__(self) -> str:
        channels, height, width = self.images.shape[1:]
        return f"Split({len(self):,} images of {channels} x {height} x {width})"

    @cached_property
    def hashes(self) -> tuple[bytes, ...]:
        """Of every image: equal for identical ones."""
        return tuple(hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in self.images)

    def __len__(self) -> int:
        return len(self.labels)

    @checked
    def take(self, rows: NDArray[Any]) -> Split:
        """The given rows."""
        return Split(images=np.ascontiguousarray(self.images[rows]), labels=self.labels[rows])


def divide(
    everything: Split,
    classes: Sequence[str],
    *,
    val: float,
    test: float,
    seed: int,
    given: Mapping[str, Split] | None = None,
) -> tuple[dict[str, Split], list[str]]:
    """``everything`` as train, val and test, and notes that say what was moved or dropped.

    What ``given`` has (val, test) is kept as it is, and images that it shares with train leave train. The others are
    split off, stratified, as fractions of all images; identical images stay together.
    Raises BadInput when a class is too small, or a split ends up without images of a class (test may lack some).
    """
    splits, notes = dict(given or {}), list[str]()
    for part in ("test", "val"):
        if part not in splits:
            continue
        clash = _shared(everything, splits[part])
        if clash.any():
            notes.append(f"{clash.sum()} training images that are also {part} images were dropped from training")
            everything = everything.take(np.flatnonzero(~clash))
    if {"test", "val"} <= set(splits):
        clash = _shared(splits["val"], splits["test"])
        if clash.any():
            notes.append(f"{clash.sum()} validation images that are also test images were dropped from validation")
            splits["val"] = splits["val"].take(np.flatnonzero(~clash))
    else:
        notes += _copies(everything)
    total = len(everything)
    for part, share in (("test", test), ("val", val)):
        if part not in splits:
            # fractions are of all images, so the second cut takes a larger share of what the first one left
            chosen = _stratified(everything, share * total / max(1, len(everything)), classes, seed)
            splits[part] = everything.take(np.flatnonzero(chosen))
            everything = everything.take(np.flatnonzero(~chosen))
    splits["train"] = everything
    for part, split in splits.items():
        missing = sorted(set(range(len(classes))) - set(split.labels.tolist()))
        if missing and (part != "test" or not len(split)):
            raise BadInput(f"class {classes[missing[0]]!r} has no images left for {part}; it needs more images")
    return splits, notes


def check_disjoint(**splits: Split) -> None:
    """Raises BadInput when two of the splits share an image."""
    for (name, split), (other_name, other) in itertools.combinations(splits.items(), 2):
        if n := int(_shared(split, other).sum()):
            raise BadInput(f"{n} images of {name} are also in {other_name}; an image lies in one split only")


def _check_images(images: Any) -> None:
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
        seen = f"{images.dtype}" if isinstance(images, np.ndarray) else shown(images)
        if isinstance(images, np.ndarray) and images.dtype.kind in "iuf" and images.size:
            seen += f" from {images.min():.4g} to {images.max():.4g}"
        raise BadInput(f"images are a numpy array of uint8, black 0 and white 255, got {seen}")
    if images.ndim != 4 or images.shape[2] != images.shape[3] or not all(images.shape[1:]):
        raise BadInput(f"images have shape (n, channels, size, size), got {images.shape}")


def _shared(split: Split, other: Split) -> NDArray[np.bool_]:
    """Which images of ``split`` are also in ``other``, ``(n,)``."""
    seen = set(other.hashes)
    return np.array([h in seen for h in split.hashes], dtype=bool)


def _stratified(split: Split, share: float, classes: Sequence[str], seed: int) -> NDArray[np.bool_]:
    """Which images to split off: ``share`` of every class, at least one, groups of identical images whole."""
    rng = np.random.default_rng(seed)
    groups: dict[bytes, list[int]] = {}
    for row, digest in enumerate(split.hashes):
        groups.setdefault(digest, []).append(row)
    firsts = [rows[0] for rows in groups.values()]
    chosen = np.zeros(len(split), dtype=bool)
    for label in range(len(classes)):
        own = [row for row in firsts if split.labels[row] == label]
        wanted = max(1, round(share * len(own)))
        if len(own) - wanted < 1:
            raise BadInput(
                f"class {classes[label]!r} has {len(own)} different image(s), too few to split into "
                "training, validation and test; it needs at least 3"
            )
        for row in rng.permutation(own)[:wanted]:
            chosen[groups[split.hashes[row]]] = True
    return chosen


def _copies(split: Split) -> list[str]:
    """What to tell about identical images: they stay together when the images are divided."""
    first: dict[bytes, int] = {}
    for digest, label in zip(split.hashes, split.labels.tolist(), strict=True):
        first.setdefault(digest, label)
    copies = len(split) - len(first)
    odd = sum(label != first[digest] for digest, label in zip(split.hashes, split.labels.tolist(), strict=True))
    told = [f"{copies} images that are copies of others were put into the same split as the first"] if copies else []
    return [*told, f"{odd} of these copies lie in another class than the first"] if odd else told
