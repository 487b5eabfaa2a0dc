"""Images as arrays in memory, with an honest train/validation/test split (NumPy and Pillow, no torch).

Training sees ``train``, the search sees ``val``, and ``test`` is for the final table only. Identical images never lie
in two splits.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from PIL import Image

from nas.checks import Count, FilePath, Seed, Text, checked, shown
from nas.data.image_files import ImageFile, find_images, image_path, read_image
from nas.data.splits import Split, check_disjoint, divide
from nas.errors import BadInput
from nas.files import first_line

__all__ = ["ImageData", "Split", "load_digits", "load_images", "read_image"]

MAX_BYTES = 8 << 30
Fraction = Annotated[float, Meta(gt=0, lt=1)]
_DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError)  # what entries of a zip raise


@checked
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ImageData:
    """A data set in memory; ``nas.load_images`` reads one from a folder. ``mean`` and ``std (c,)``: of the *training* pixels in [0, 1]. ``notes``: what loading changed.

    Raises BadInput for an empty split, splits that share an image or differ in the images' shape, labels that name no
    class, and class names that are not at least two different texts.
    """

    name: Text
    classes: tuple[Text, ...]
    train: Split
    val: Split
    test: Split
    source: str = ""
    notes: tuple[str, ...] = ()

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
        """``(c,)``: of the training pixels in [0, 1]."""
        return (_pixel_mean(self.train.images) / 255).astype(np.float32)

    @cached_property
    def std(self) -> NDArray[np.float32]:
        """``(c,)``: standard deviation of the training pixels in [0, 1]."""
        squares = _pixel_mean(self.train.images, power=2) / 255**2
        return np.sqrt(np.maximum(squares - self.mean.astype(np.float64) ** 2, 1e-6)).astype(np.float32)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over all pixels, labels, splits and class names."""
        digest = hashlib.sha256(repr(self.classes).encode())
        for split in (self.train, self.val, self.test):
            digest.update(repr(split.images.shape).encode())
            digest.update(split.images.tobytes())
            digest.update(split.labels.tobytes())
        return digest.hexdigest()[:16]

    @checked
    def preprocessing(self, size: Count) -> dict[str, Any]:
        """What turns an image file into a network's input of ``size`` pixels, JSON-serialisable.

        ``read_image`` at ``load_size``, then bilinear (antialiased) to ``size``, then ``(x / 255 - mean) / std``.
        """
        return {
            "load_size": self.size,
            "size": size,
            "channels": self.channels,
            "mean": [float(m) for m in self.mean],  # unrounded: the deployed network sees the very numbers of training
            "std": [float(s) for s in self.std],
            "resize": (
                "turn upright (EXIF), short side to load_size (Pillow bilinear), centre crop, "
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
    return ImageData(name="digits", classes=classes, **splits, source=source, notes=tuple(notes))


@checked
def load_images(
    path: FilePath,
    *,
    size: Annotated[int, Meta(ge=1, le=16_384)],
    channels: Literal[1, 3] = 3,
    val: Fraction = 0.15,
    test: Fraction = 0.15,
    seed: Seed = 0,
    test_path: FilePath | None = None,
    skip_bad: bool = False,
    max_bytes: Annotated[int, Meta(ge=1)] = MAX_BYTES,
) -> ImageData:
    """Images from a folder or a .zip with one subfolder per class (JPEG, PNG), ``size`` pixels square.

    Subfolders ``train``, ``val`` and ``test`` (with the classes inside) are honoured; whichever of val and test is
    missing is split off, stratified, as fractions ``val`` and ``test`` of all images. ``test_path``: a second folder
    or zip that holds the test images (its ``test`` folder, when it has several). Zips are read in place. Each image
    is turned upright (EXIF), converted to ``channels`` (1: grey, 3: RGB), resized so that its short side is ``size``,
    and cropped to the centre.

    ``max_bytes`` bounds the arrays; the peak is about twice that, while they are divided. ``notes`` of the result
    say what was skipped, dropped or kept together. Raises BadInput, one line each, for a missing path, no or one
    class, an empty class or one too small to split, a class that only val or test has, an image that does not decode
    (unless ``skip_bad``), or arrays beyond ``max_bytes``.
    """
    if val + test >= 1:
        raise BadInput(f"val and test are fractions that leave something to train on, got {val} and {test}")
    found, notes = _found(image_path(path), None if test_path is None else image_path(test_path))
    classes = _classes(found, path)
    needed = sum(len(files) for files in found.values()) * channels * size * size
    if needed > max_bytes:
        raise BadInput(
            f"{path} needs {needed / 2**20:,.1f} MiB at {size} px, allowed are {max_bytes / 2**20:,.1f} MiB; "
            "choose a smaller size, or raise max_bytes"
        )
    parts = {name: _decode(files, classes, size, channels, skip_bad, notes) for name, files in found.items() if files}
    train = parts.pop("train")
    splits, told = divide(train, classes, val=val, test=test, seed=seed, given=parts)
    return ImageData(
        name=Path(path).resolve().stem,
        classes=classes,
        **splits,
        source=str(path) if test_path is None else f"{path}, {test_path}",
        notes=(*notes, *told),
    )


def _found(path: Path, test_path: Path | None) -> tuple[dict[str, list[tuple[str, ImageFile]]], list[str]]:
    """(class, file) pairs by split, always with train, and the notes."""
    images = find_images(path)
    found, ignored = dict(images.splits), list(images.ignored)
    if "train" not in found:
        if len(found) > 1:
            raise BadInput(f"{path} has {' and '.join(sorted(found))} folders but no train folder")
        found = {"train": next(iter(found.values()))}  # a lone test folder, say: all there is
    if test_path is not None:
        if "test" in found:
            raise BadInput(f"{path} has test images of its own; leave out test_path ({test_path}), or give its train")
        extra = find_images(test_path)
        ignored += extra.ignored
        if len(extra.splits) > 1 and "test" not in extra.splits:
            raise BadInput(f"{test_path} has {' and '.join(sorted(extra.splits))} folders but no test folder")
        found["test"] = extra.splits.get("test") or next(iter(extra.splits.values()))
    told = f"{len(ignored)} files that are not .jpg, .jpeg or .png were ignored: {_some(ignored)}"
    return found, [told] if ignored else []


def _classes(found: Mapping[str, Sequence[tuple[str, ImageFile]]], path: Any) -> tuple[str, ...]:
    """The names of the class folders, sorted: those that have training images."""
    classes = tuple(sorted({c for c, _ in found["train"]}))
    if len(classes) < 2:
        raise BadInput(
            f"{path} has {len(classes)} class folder(s) with images, need at least 2 (one subfolder per class)"
        )
    unknown = sorted({c for files in found.values() for c, _ in files} - set(classes))
    if unknown:
        raise BadInput(f"class {unknown[0]!r} has no training images; the training classes are {', '.join(classes)}")
    return classes


def _some(names: Sequence[object]) -> str:
    """The first few of ``names``."""
    return ", ".join(map(str, names[:3])) + (", ..." if len(names) > 3 else "")


def _decode(
    files: Sequence[tuple[str, ImageFile]],
    classes: tuple[str, ...],
    size: int,
    channels: int,
    skip_bad: bool,
    notes: list[str],
) -> Split:
    images = np.empty((len(files), channels, size, size), dtype=np.uint8)
    good = np.ones(len(files), dtype=bool)
    position = {c: i for i, c in enumerate(classes)}

    def decode(row: int) -> None:
        try:
            images[row] = read_image(io.BytesIO(files[row][1].read()), size, channels)
        except (BadInput, OSError, RuntimeError, EOFError, ValueError, struct.error, *_DAMAGED) as error:
            if not skip_bad:
                told = first_line(error)
                raise BadInput(f"{files[row][1].where}: {told}; remove it, or pass skip_bad (--skip-bad)") from None
            good[row] = False

    # warning filters belong to the process, not to a thread, so Pillow's warning (read_image refuses such images
    # itself) is silenced out here
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        for _ in pool.map(decode, range(len(files))):
            pass
    labels = np.array([position[c] for c, _ in files], dtype=np.int64)
    if good.all():  # without the copy
        return Split(images=images, labels=labels)
    bad = [file.where for (_, file), fine in zip(files, good, strict=True) if not fine]
    notes.append(f"{len(bad)} images that do not decode were skipped: {_some(bad)}")
    return Split(images=images, labels=labels).take(np.flatnonzero(good))


def _pixel_mean(images: NDArray[np.uint8], power: int = 1) -> NDArray[np.float64]:
    # in chunks: a float copy of all pixels at once would take eight times the memory
    total = np.zeros(images.shape[1])
    for start in range(0, len(images), 4096):
        total += (images[start : start + 4096].astype(np.float64) ** power).sum(axis=(0, 2, 3))
    return total / (images.size / images.shape[1])
