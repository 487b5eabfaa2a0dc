"""Images with an honest train/validation/test split, in memory or on disk (NumPy and Pillow, no torch).

Training sees ``train``, the search sees ``val``, and ``test`` is for the final table only. Identical images never lie
in two splits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import psutil  # type: ignore[import-untyped]
from msgspec import Meta
from numpy.typing import NDArray

from nas.checks import Count, FilePath, Finite, Positive, Seed, Text, checked, shown
from nas.data.cache import cache_folder, stored
from nas.data.decoding import ImageFiles, in_memory
from nas.data.folders import class_names, files_of, group_numbers, some
from nas.data.image_files import Fit, ImageFile, image_path, read_image
from nas.data.splits import Split, check_disjoint, divide, uneven
from nas.data.stored import StoredImages
from nas.errors import BadInput

if TYPE_CHECKING:
    from nas.modules import Network

__all__ = ["ImageData", "Split", "load_digits", "load_images", "read_image"]

Fraction = Annotated[float, Meta(gt=0, lt=1)]
Pixels = Annotated[int, Meta(ge=1, le=16_384)]
_FITS = {
    "crop": "short side to load_size, centre crop",
    "pad": "long side to load_size, grey (128) bars beside it",
    "squash": "both sides to load_size",
}


@checked
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ImageData:
    """A data set; ``nas.load_images`` reads one from a folder.

    ``normalise``: the (mean, std) of pixels in [0, 1] that networks see them by, a number per channel each; None: the
    training pixels' own. ``notes``: what loading changed. ``fit``: how the images became squares. ``balance``: training
    sees every class equally often, by repeating the images of small classes. Raises BadInput for an empty split, splits
    that share an image or differ in the images' shape, labels that name no class, and class names that are not at least
    two different texts.
    """

    name: Text
    classes: tuple[Text, ...]
    train: Split
    val: Split
    test: Split
    source: str = ""
    notes: tuple[str, ...] = ()
    fit: Fit = "crop"
    balance: bool = False
    normalise: tuple[tuple[Finite, ...], tuple[Positive, ...]] | None = None

    def __post_init__(self) -> None:
        splits = {"train": self.train, "val": self.val, "test": self.test}
        if len(set(self.classes)) != len(self.classes) or len(self.classes) < 2:
            raise BadInput(f"classes are at least two different names, got {shown(self.classes)}")
        for name, split in splits.items():
            if not len(split):
                raise BadInput(f"{self.name} has no images in {name}; training, validation and test need some each")
            if split.images.shape[1:] != self.train.images.shape[1:]:
                raise BadInput(
                    f"images of {name} have shape {split.images.shape[1:]}, of train {self.train.images.shape[1:]}"
                )
            if not 0 <= split.labels.min() <= split.labels.max() < len(self.classes):
                raise BadInput(
                    f"labels of {name} go from {split.labels.min()} to {split.labels.max()}, "
                    f"but {len(self.classes)} classes have labels 0 to {len(self.classes) - 1}"
                )
        if self.normalise and {len(values) for values in self.normalise} != {self.channels}:
            raise BadInput(
                f"normalise has a mean and a std for each of {self.channels} channels, got {shown(self.normalise)}"
            )
        check_disjoint(**splits)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(getattr(self, name)):,} {name}" for name in ("train", "val", "test"))
        return f"ImageData({self.name!r}: {len(self.classes)} classes, images {sizes}, {self.channels} x {self.size} x {self.size})"

    @property
    def channels(self) -> int:
        """1 (grey) or 3 (RGB)."""
        return self.train.images.shape[1]

    @property
    def size(self) -> int:
        """Height and width at which the images are stored."""
        return self.train.images.shape[2]

    @cached_property
    def mean(self) -> NDArray[np.float32]:
        """``(c,)``: of ``normalise``, else of the training pixels in [0, 1]."""
        if self.normalise:
            return np.array(self.normalise[0], dtype=np.float32)
        return (self._moment(0) / 255).astype(np.float32)

    @cached_property
    def std(self) -> NDArray[np.float32]:
        """``(c,)``: of ``normalise``, else the standard deviation of the training pixels in [0, 1]."""
        if self.normalise:
            return np.array(self.normalise[1], dtype=np.float32)
        squares = self._moment(1) / 255**2
        return np.sqrt(np.maximum(squares - self.mean.astype(np.float64) ** 2, 1e-6)).astype(np.float32)

    def _moment(self, power: int) -> NDArray[np.float64]:
        # sums of whole numbers are exact: it makes no difference where the images are
        total = self.train.facts.sums[:, power].sum(0)
        return total / (len(self.train) * self.size * self.size)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over all pixels, labels, splits and class names, and over what training makes of them."""
        digest = hashlib.sha256(repr(self.classes).encode())
        if self.normalise:
            digest.update(repr(self.normalise).encode())
        for split in (self.train, self.val, self.test):
            digest.update(repr(split.images.shape).encode())
            digest.update(split.facts.digests.tobytes())
            digest.update(split.labels.tobytes())
        digest.update(b"balance" if self.balance else b"")
        return digest.hexdigest()[:16]

    @checked
    def normalised_as(self, network: Network | None) -> ImageData:
        """These images as ``network`` was taught to see them, by its ``normalise``; as they are where it says nothing.

        Raises BadInput when the network takes images of other channels.
        """
        wanted = None if network is None else network.normalise
        return self if wanted is None else replace(self, normalise=wanted)

    @checked
    def epoch_rows(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """The training images of an epoch in random order, ``(n,)``; with ``balance`` those of small classes repeatedly."""
        if not self.balance:
            return rng.permutation(len(self.train))
        present = [
            rows for label in range(len(self.classes)) if len(rows := np.flatnonzero(self.train.labels == label))
        ]
        share = -(-len(self.train) // len(present))
        # whole permutations, one after the other: no image of a class is seen twice more often than another
        drawn = [np.concatenate([rng.permutation(r) for _ in range(-(-share // len(r)))])[:share] for r in present]
        return rng.permutation(np.concatenate(drawn))[: len(self.train)]

    @checked
    def preprocessing(self, size: Count) -> dict[str, Any]:
        """What turns an image file into a network's input of ``size`` pixels, JSON-serialisable.

        ``read_image`` at ``load_size``, then bilinear (antialiased) to ``size``, then ``(x / 255 - mean) / std``.
        """
        return {
            "load_size": self.size,
            "size": size,
            "channels": self.channels,
            "fit": self.fit,
            "mean": [float(m) for m in self.mean],  # unrounded: the deployed network sees the very numbers of training
            "std": [float(s) for s in self.std],
            "resize": (
                f"turn upright (EXIF), {_FITS[self.fit]} (Pillow bilinear), "
                "then to size (bilinear, antialiased when smaller), then (x / 255 - mean) / std"
            ),
        }


@checked
def load_digits(seed: Seed = 0) -> ImageData:
    """scikit-learn's 1,797 handwritten digits (8x8, grey; UCI Optical Recognition of Handwritten Digits, CC BY 4.0).

    Stratified into 60% train, 20% validation, 20% test.
    """
    from sklearn.datasets import load_digits as embedded

    bunch = embedded()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    classes = tuple(str(d) for d in range(10))
    everything = Split(images=images, labels=bunch.target.astype(np.int64))
    splits, notes = divide(everything, classes, val=0.2, test=0.2, seed=seed)
    source = "scikit-learn load_digits (UCI Optical Recognition of Handwritten Digits)"
    train, val, test = (splits[part] for part in ("train", "val", "test"))
    return ImageData(name="digits", classes=classes, train=train, val=val, test=test, source=source, notes=tuple(notes))


@checked
def load_images(
    path: FilePath,
    *,
    size: Pixels,
    channels: Literal[1, 3] = 3,
    fit: Fit = "crop",
    val: Fraction = 0.15,
    test: Fraction = 0.15,
    seed: Seed = 0,
    groups: Text | Callable[[PurePosixPath], object] | None = None,
    balance: bool = False,
    test_path: FilePath | None = None,
    skip_bad: bool = False,
    max_bytes: Annotated[int, Meta(ge=1)] | None = None,
    cache: FilePath | None = None,
) -> ImageData:
    """Images from a folder or a .zip with one subfolder per class (JPEG, PNG), ``size`` pixels square.

    Subfolders ``train``, ``val`` and ``test`` (with the classes inside) are honoured; whichever of val and test is
    missing is split off, stratified, as fractions ``val`` and ``test`` of all images. ``test_path``: a second folder
    or zip that holds the test images (its ``test`` folder, when it has several). Zips are read in place. Each image
    is turned upright (EXIF), converted to ``channels`` (1: grey, 3: RGB) and made square: ``fit`` "crop" resizes the
    short side and keeps the centre, "pad" keeps all of it between grey bars, "squash" distorts it.

    ``groups``: photos of one object, patient or scene stay in one split: a regular expression, whose match in the path
    below ``path`` (its first group, where it has one) names the object, or a function of that path; a file without a
    match is by itself. ``balance``: training sees every class equally often.

    What needs no more than ``max_bytes`` (default: a quarter of the memory, at most 8 GiB) is kept in memory; the peak
    is about twice that, while it is divided. More is decoded once into a file in ``cache`` (default ~/.cache/nas) and
    read from there, also by later calls, as long as the images do not change; where there is no room for that, images
    are decoded whenever they are read. Results are the same. ``notes`` of the result say what was skipped, dropped or
    kept together, and when classes are uneven. Raises BadInput, one line each, for a missing path, no or one class, an
    empty class or one too small to split, a class that only val or test has, an image that does not decode (unless
    ``skip_bad``), or a cache that cannot be written.
    """
    if val + test >= 1:
        raise BadInput(f"val and test are fractions that leave something to train on, got {val} and {test}")
    if cache is not None:
        cache_folder(cache)  # refused before images are read
    found, notes = files_of(image_path(path), None if test_path is None else image_path(test_path))
    classes = class_names(found, path)
    every = tuple(file for pairs in found.values() for _, file in pairs)
    files = ImageFiles(files=every, size=size, channels=channels, fit=fit)
    images: NDArray[np.uint8] | StoredImages
    if files.nbytes > (memory_for_images() if max_bytes is None else max_bytes):
        images, good = stored(files, folder=cache_folder(cache), skip_bad=skip_bad, name=str(path))
    else:
        images, good = in_memory(files, skip_bad)
    if not good.all():
        bad = [file.where for file, fine in zip(every, good, strict=True) if not fine]
        notes.append(f"{len(bad)} images that do not decode were skipped: {some(bad)}")
    parts = _parts(found, classes, images, good, None if groups is None else group_numbers(every, groups))
    splits, told = divide(parts.pop("train"), classes, val=val, test=test, seed=seed, given=parts)
    return ImageData(
        name=Path(path).resolve().stem,
        classes=classes,
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
        source=str(path) if test_path is None else f"{path}, {test_path}",
        notes=(*notes, *told, *uneven(splits["train"], classes)),
        fit=fit,
        balance=balance,
    )


def memory_for_images() -> int:
    """Bytes of images that are kept in memory unless the caller says otherwise."""
    return min(8 << 30, psutil.virtual_memory().total // 4)


def _parts(
    found: Mapping[str, Sequence[tuple[str, ImageFile]]],
    classes: Sequence[str],
    images: NDArray[np.uint8] | StoredImages,
    good: NDArray[np.bool_],
    groups: NDArray[np.int64] | None,
) -> dict[str, Split]:
    """The good ones of ``images (n, c, h, h)``, which are those of ``found`` in its order, by split."""
    position = {c: i for i, c in enumerate(classes)}
    labels = np.array([position[c] for pairs in found.values() for c, _ in pairs], dtype=np.int64)
    everything, parts, start = Split(images=images, labels=labels, groups=groups), {}, 0
    for part, pairs in found.items():
        own = slice(start, start + len(pairs))  # without a copy where all are good
        parts[part] = everything.take(own if good[own].all() else start + np.flatnonzero(good[own]))
        start = own.stop
    return parts
