"""Dividing images into train, validation and test, honestly: identical images never lie in two splits (NumPy)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.checks import checked, shown
from nas.data.stored import Facts, StoredImages, facts_of
from nas.errors import BadInput


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Split:
    """``images (n, c, h, h) uint8`` and their ``labels (n,) int64`` (indices into the class names).

    Large data sets stay on disk: their ``images`` are read when they are indexed. ``groups (n,)``: numbers, equal for
    images of one object, which lie in one split only; None: every image is by itself.
    Raises BadInput for arrays of another type or shape; labels of any integer type become int64.
    """

    images: NDArray[np.uint8] | StoredImages
    labels: NDArray[np.int64]
    groups: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        _check_images(self.images)
        object.__setattr__(self, "labels", self._numbers("labels", self.labels))
        if self.groups is not None:
            object.__setattr__(self, "groups", self._numbers("groups", self.groups))

    def __repr__(self) -> str:
        channels, height, width = self.images.shape[1:]
        return f"Split({len(self):,} images of {channels} x {height} x {width})"

    @cached_property
    def facts(self) -> Facts:
        """Of every image, what hashes and statistics are made of: read from the disk once, when they were stored."""
        return facts_of(self.images)

    @cached_property
    def hashes(self) -> tuple[bytes, ...]:
        """Of every image: equal for identical ones."""
        return tuple(digest.tobytes() for digest in self.facts.digests)

    def __len__(self) -> int:
        return len(self.labels)

    @checked
    def take(self, rows: NDArray[Any] | slice) -> Split:
        """The given rows ``(n,)``, a copy unless they are a slice; those of stored images stay where they are."""
        if isinstance(self.images, StoredImages):
            images: NDArray[np.uint8] | StoredImages = self.images.take(rows)
        else:
            images = np.ascontiguousarray(self.images[rows])
        groups = None if self.groups is None else self.groups[rows]
        taken = Split(images=images, labels=self.labels[rows], groups=groups)
        if "facts" in vars(self):
            vars(taken)["facts"] = self.facts.take(rows)
        return taken

    def _numbers(self, what: str, given: Any) -> NDArray[np.int64]:
        numbers = np.asarray(given)
        if numbers.dtype.kind not in "iu" or numbers.shape != (len(self.images),):
            raise BadInput(
                f"{what} are whole numbers of shape ({len(self.images)},), one for each image, "
                f"got {numbers.dtype} of shape {numbers.shape}"
            )
        return numbers.astype(np.int64, copy=False)


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
    split off, stratified, as fractions of all images; identical images and those of one group stay together.
    Raises BadInput when a class is too small, or a split ends up without images of a class (test may lack some).
    """
    splits, notes = dict(given or {}), list[str]()
    for part in ("test", "val"):
        if part not in splits:
            continue
        clash = _shared(everything, splits[part])
        if clash.any():
            notes.append(
                f"{clash.sum()} training images that are also {part} images{_or_group(splits[part])} were dropped from training"
            )
            everything = everything.take(np.flatnonzero(~clash))
    if {"test", "val"} <= set(splits):
        clash = _shared(splits["val"], splits["test"])
        if clash.any():
            notes.append(
                f"{clash.sum()} validation images that are also test images{_or_group(splits['test'])} were dropped from validation"
            )
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


def uneven(train: Split, classes: Sequence[str], times: int = 3) -> list[str]:
    """What to tell when the largest class has ``times`` the training images of the smallest one."""
    counts = np.bincount(train.labels, minlength=len(classes))
    most, least = int(counts.argmax()), int(counts.argmin())
    if counts[most] < times * counts[least]:
        return []
    return [
        f"classes are uneven, from {counts[least]:,} training images ({classes[least]}) to {counts[most]:,} "
        f"({classes[most]}): balance (--balance) trains on them equally often; see nas.balanced_accuracy"
    ]


def check_disjoint(**splits: Split) -> None:
    """Raises BadInput when two of the splits share an image, or a group of images."""
    for (name, split), (other_name, other) in itertools.combinations(splits.items(), 2):
        if n := int(_shared(split, other).sum()):
            raise BadInput(
                f"{n} images of {name} are also in {other_name}{_or_group(other)}; an image lies in one split only"
            )


def _check_images(images: Any) -> None:
    if isinstance(images, StoredImages):
        return
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
        seen = f"{images.dtype}" if isinstance(images, np.ndarray) else shown(images)
        if isinstance(images, np.ndarray) and images.dtype.kind in "iuf" and images.size:
            seen += f" from {images.min():.4g} to {images.max():.4g}"
        raise BadInput(f"images are a numpy array of uint8, black 0 and white 255, got {seen}")
    if images.ndim != 4 or images.shape[2] != images.shape[3] or not all(images.shape[1:]):
        raise BadInput(f"images have shape (n, channels, size, size), got {images.shape}")


def _shared(split: Split, other: Split) -> NDArray[np.bool_]:
    """Which images of ``split`` are also in ``other``, or of a group that is, ``(n,)``."""
    seen = set(other.hashes)
    shared = np.array([h in seen for h in split.hashes], dtype=bool)
    if split.groups is not None and other.groups is not None:
        shared |= np.isin(split.groups, other.groups)
    return shared


def _or_group(split: Split) -> str:
    return "" if split.groups is None else " (or of a group that has some there)"


def _together(split: Split) -> NDArray[np.int64]:
    """A number for each image ``(n,)``, equal for those that stay together: identical ones, and those of one group."""
    _, first_copy, copy_of = np.unique(split.facts.digests, axis=0, return_index=True, return_inverse=True)
    if split.groups is None:
        return copy_of.reshape(-1)
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    _, first, group_of = np.unique(split.groups, return_index=True, return_inverse=True)
    rows, n = np.arange(len(split)), len(split)
    links = (np.tile(rows, 2), np.concatenate([first_copy[copy_of.reshape(-1)], first[group_of]]))
    return connected_components(coo_array((np.ones(2 * n, bool), links), shape=(n, n)), directed=False)[1]


def _stratified(split: Split, share: float, classes: Sequence[str], seed: int) -> NDArray[np.bool_]:
    """Which images to split off: ``share`` of every class or a little more, what belongs together whole."""
    rng = np.random.default_rng(seed)
    together = _together(split)
    pairs, firsts, counts = np.unique(
        np.stack([split.labels, together], axis=1), axis=0, return_index=True, return_counts=True
    )
    chosen, decided = np.zeros((2, together.max() + 1), dtype=bool)
    for label in range(len(classes)):
        of = np.flatnonzero(pairs[:, 0] == label)
        of = of[firsts[of].argsort()]
        sets, sizes = pairs[of, 1], counts[of]  # what belongs together and has images of this class, and how many
        if len(sets) < 2:
            what = "different image(s)" if split.groups is None else "group(s) of images"
            raise BadInput(
                f"class {classes[label]!r} has {len(sets)} {what}, too few to split into "
                "training, validation and test; it needs at least 3"
            )
        order = rng.permutation(np.flatnonzero(~decided[sets]))  # others went with a class before
        missing = max(1, round(share * sizes.sum())) - sizes[chosen[sets]].sum()
        enough = 1 + np.searchsorted(sizes[order].cumsum(), missing) if missing > 0 else 0
        stays = (decided & ~chosen)[sets].any()
        chosen[sets[order[: min(enough, len(order) - (not stays))]]] = True
        decided[sets] = True
    return chosen[together]


def _copies(split: Split) -> list[str]:
    """What to tell about identical images: they stay together when the images are divided."""
    first: dict[bytes, int] = {}
    for digest, label in zip(split.hashes, split.labels.tolist(), strict=True):
        first.setdefault(digest, label)
    copies = len(split) - len(first)
    odd = sum(label != first[digest] for digest, label in zip(split.hashes, split.labels.tolist(), strict=True))
    told = [f"{copies} images that are copies of others were put into the same split as the first"] if copies else []
    return [*told, f"{odd} of these copies lie in another class than the first"] if odd else told
