"""Dividing images into train, validation and test, honestly: identical images never lie in two splits (NumPy)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Split:
    """``images (n, c, h, w) uint8`` and their ``labels (n,) int64`` (indices into the class names)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

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
    splits, notes, hashes = dict(given or {}), [], _hashes(everything)
    for part in ("test", "val"):
        if part not in splits:
            continue
        seen = set(_hashes(splits[part]))
        clash = np.array([h in seen for h in hashes], dtype=bool)
        if clash.any():
            notes.append(f"{clash.sum()} training images that are also {part} images were dropped from training")
            everything, hashes = _rest(everything, hashes, clash)
    if {"test", "val"} <= set(splits):
        seen = set(_hashes(splits["test"]))
        clash = np.array([h in seen for h in _hashes(splits["val"])], dtype=bool)
        if clash.any():
            notes.append(f"{clash.sum()} validation images that are also test images were dropped from validation")
            splits["val"] = splits["val"].take(np.flatnonzero(~clash))
    else:
        notes += _copies(everything, hashes)
    total = len(everything)
    for part, share in (("test", test), ("val", val)):
        if part not in splits:
            # fractions are of all images, so the second cut takes a larger share of what the first one left
            chosen = _stratified(everything, hashes, share * total / max(1, len(everything)), classes, seed)
            splits[part] = everything.take(np.flatnonzero(chosen))
            everything, hashes = _rest(everything, hashes, chosen)
    splits["train"] = everything
    for part, split in splits.items():
        missing = sorted(set(range(len(classes))) - set(split.labels.tolist()))
        if missing and (part != "test" or not len(split)):
            raise BadInput(f"class {classes[missing[0]]!r} has no images left for {part}; it needs more images")
    return splits, notes


def _rest(split: Split, hashes: Sequence[bytes], gone: NDArray[np.bool_]) -> tuple[Split, list[bytes]]:
    keep = np.flatnonzero(~gone)
    return split.take(keep), [hashes[i] for i in keep.tolist()]


def _stratified(
    split: Split, hashes: Sequence[bytes], share: float, classes: Sequence[str], seed: int
) -> NDArray[np.bool_]:
    """Which images to split off: ``share`` of every class, at least one, groups of identical images whole."""
    rng = np.random.default_rng(seed)
    groups: dict[bytes, list[int]] = {}
    for row, digest in enumerate(hashes):
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
            chosen[groups[hashes[row]]] = True
    return chosen


def _copies(split: Split, hashes: Sequence[bytes]) -> list[str]:
    """What to tell about identical images: they stay together when the images are divided."""
    first: dict[bytes, int] = {}
    for digest, label in zip(hashes, split.labels.tolist(), strict=True):
        first.setdefault(digest, label)
    copies = len(hashes) - len(first)
    odd = sum(label != first[digest] for digest, label in zip(hashes, split.labels.tolist(), strict=True))
    told = [f"{copies} images that are copies of others were put into the same split as the first"] if copies else []
    return [*told, f"{odd} of these copies lie in another class than the first"] if odd else told


def _hashes(split: Split) -> list[bytes]:
    return [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in split.images]
