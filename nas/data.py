"""Images as arrays in memory, with an honest train/validation/test split (NumPy and Pillow, no torch).

Training sees ``train``, the search sees ``val``, and ``test`` is for the final table only. Identical images never lie
in two splits.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.errors import BadInput

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
MAX_BYTES = 8 << 30
MAX_PIXELS = 100_000_000  # of one image file: a decompression bomb is refused


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


@dataclass(frozen=True, kw_only=True)
class ImageData:
    """A data set. ``mean`` and ``std (c,)``: of the *training* pixels in [0, 1]. ``notes``: what loading changed."""

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    source: str
    notes: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        return self.train.images.shape[1]

    @property
    def size(self) -> int:
        """Height and width at which the images are stored."""
        return self.train.images.shape[2]

    @cached_property
    def mean(self) -> NDArray[np.float32]:
        return (_pixel_mean(self.train.images) / 255).astype(np.float32)

    @cached_property
    def std(self) -> NDArray[np.float32]:
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

    def preprocessing(self, size: int) -> dict[str, Any]:
        """What turns an image file into a network's input of ``size`` pixels, JSON-serialisable.

        ``read_image`` at ``load_size``, then bilinear (antialiased) to ``size``, then ``(x / 255 - mean) / std``.
        """
        return {
            "load_size": self.size,
            "size": size,
            "channels": self.channels,
            "mean": [round(float(m), 6) for m in self.mean],
            "std": [round(float(s), 6) for s in self.std],
        }


def load_digits(seed: int = 0) -> ImageData:
    """scikit-learn's 1,797 handwritten digits (8x8, grey; UCI Optical Recognition of Handwritten Digits, CC BY 4.0).

    Stratified into 60% train, 20% validation, 20% test.
    """
    from sklearn.datasets import load_digits as embedded

    bunch = embedded()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    return _divided(
        "digits",
        tuple(str(d) for d in range(10)),
        Split(images=images, labels=bunch.target.astype(np.int64)),
        val=0.2,
        test=0.2,
        seed=seed,
        source="scikit-learn load_digits (UCI Optical Recognition of Handwritten Digits)",
    )


def load_images(
    path: str | os.PathLike[str],
    *,
    size: int,
    channels: int = 3,
    val: float = 0.15,
    test: float = 0.15,
    seed: int = 0,
    test_path: str | os.PathLike[str] | None = None,
    skip_bad: bool = False,
    max_bytes: int = MAX_BYTES,
) -> ImageData:
    """Images from a folder or a .zip with one subfolder per class (JPEG, PNG), ``size`` pixels square.

    Subfolders ``train``, ``val`` and ``test`` (with the classes inside) are honoured; whichever of val and test is
    missing is split off, stratified, as fractions ``val`` and ``test`` of all images. ``test_path``: a second folder
    or zip that holds the test images. Zips are read in place. Each image is turned upright (EXIF), converted to
    ``channels`` (1: grey, 3: RGB), resized so that its short side is ``size``, and cropped to the centre.

    Raises BadInput, one line each, for a missing path, no or one class, a class too small to split, an image that
    does not decode (unless ``skip_bad``), or arrays beyond ``max_bytes``.
    """
    if channels not in (1, 3):
        raise BadInput(f"channels is 1 (grey) or 3 (RGB), got {channels}")
    if size < 1 or not (0 < val < 1 and 0 < test < 1 and val + test < 1):
        raise BadInput(f"need size >= 1 and fractions val + test < 1, got size {size}, val {val}, test {test}")
    found = _by_split(_files(Path(path)), Path(path))
    if "train" not in found:  # a lone test folder, say: all there is
        found = {"train": [item for files in found.values() for item in files]}
    if test_path is not None:
        extra = _by_split(_files(Path(test_path)), Path(test_path))
        found["test"] = [item for files in extra.values() for item in files]
    classes = tuple(sorted({c for c, _ in found.get("train", [])}))
    if len(classes) < 2:
        raise BadInput(
            f"{path} has {len(classes)} class folder(s) with images, need at least 2 (one subfolder per class)"
        )
    unknown = sorted({c for files in found.values() for c, _ in files} - set(classes))
    if unknown:
        raise BadInput(f"class {unknown[0]!r} has no training images; the training classes are {', '.join(classes)}")
    needed = sum(len(files) for files in found.values()) * channels * size * size
    if needed > max_bytes:
        raise BadInput(f"{path} needs {needed / 2**30:.1f} GiB at {size} px, allowed are {max_bytes / 2**30:.1f} GiB")
    notes: list[str] = []
    parts = {name: _decode(files, classes, size, channels, skip_bad, notes) for name, files in found.items() if files}
    return _divided(
        Path(path).stem,
        classes,
        parts["train"],
        val=val,
        test=test,
        seed=seed,
        source=str(path) if test_path is None else f"{path}, {test_path}",
        given={name: part for name, part in parts.items() if name != "train"},
        notes=notes,
    )


def read_image(file: str | os.PathLike[str] | io.BytesIO, size: int, channels: int) -> NDArray[np.uint8]:
    """One image file as ``(channels, size, size) uint8``: upright, short side resized to ``size``, centre crop.

    Raises BadInput when it does not decode.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadInput(f"{image.width} x {image.height} pixels, more than {MAX_PIXELS:,}")
            if image.format == "JPEG":
                image.draft("RGB" if channels == 3 else "L", (size, size))  # decodes large photographs faster
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16") or upright.mode == "I":
                upright = upright.point(lambda value: value / 256).convert("L")
            elif upright.mode in ("P", "PA", "LA", "La", "RGBa"):
                upright = upright.convert("RGBA")
            plain = upright.convert("RGB" if channels == 3 else "L")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadInput(f"does not decode as an image: {str(error).splitlines()[0]}") from None
    scale = size / min(plain.size)
    resized = plain.resize(
        (max(size, round(plain.width * scale)), max(size, round(plain.height * scale))), Image.Resampling.BILINEAR
    )
    left, top = (resized.width - size) // 2, (resized.height - size) // 2
    pixels = np.asarray(resized.crop((left, top, left + size, top + size)))
    return np.ascontiguousarray(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1))


# --------------------------------------------------------------------------------------------------------------
# Finding files


@dataclass(frozen=True)
class _File:
    """An image somewhere: ``where`` is its path below the data's root, ``read`` gives its bytes."""

    where: PurePosixPath
    read: Callable[[], bytes]


def _files(path: Path) -> list[_File]:
    if path.is_dir():
        paths = sorted(p for p in path.rglob("*") if p.is_file())
        found = [_File(PurePosixPath(p.relative_to(path).as_posix()), p.read_bytes) for p in paths]
    elif path.is_file():
        found = _zip_files(path)
    else:
        raise BadInput(f"{path} does not exist; give a folder or .zip with one subfolder of images per class")
    found = [f for f in found if f.where.suffix.lower() in IMAGE_SUFFIXES and not _hidden(f.where)]
    if not found:
        raise BadInput(
            f"{path} holds no images ({', '.join(IMAGE_SUFFIXES)}); expected one subfolder of images per class"
        )
    # a single folder around everything is looked through
    while len({f.where.parts[0] for f in found}) == 1 and all(len(f.where.parts) > 2 for f in found):
        if found[0].where.parts[0].lower() in SPLIT_NAMES:
            break
        found = [_File(PurePosixPath(*f.where.parts[1:]), f.read) for f in found]
    return found


def _zip_files(path: Path) -> list[_File]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError):
        raise BadInput(f"{path} is neither a folder nor a readable .zip") from None
    names = sorted(i.filename for i in archive.infolist() if not i.is_dir())
    return [_File(PurePosixPath(name), lambda name=name: archive.read(name)) for name in names]  # type: ignore[misc]


def _hidden(where: PurePosixPath) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in where.parts)


def _by_split(files: Sequence[_File], path: Path) -> dict[str, list[tuple[str, _File]]]:
    """Files as (class, file) under train, val and test; all under train when there are no such folders."""
    tops = {f.where.parts[0].lower() for f in files if len(f.where.parts) > 2}
    nested = bool(tops) and tops <= set(SPLIT_NAMES)
    depth = 3 if nested else 2
    loose = [f for f in files if len(f.where.parts) < depth]
    if loose:
        raise BadInput(f"{path}: {loose[0].where} lies in no class folder; expected one subfolder of images per class")
    split: dict[str, list[tuple[str, _File]]] = {}
    for f in files:
        name = SPLIT_NAMES[f.where.parts[0].lower()] if nested else "train"
        split.setdefault(name, []).append((f.where.parts[depth - 2], f))
    return split


def _decode(
    files: Sequence[tuple[str, _File]],
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
        except (BadInput, zipfile.BadZipFile, OSError) as error:
            if not skip_bad:
                raise BadInput(f"{files[row][1].where}: {error}; remove it, or pass skip_bad (--skip-bad)") from None
            good[row] = False

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(decode, range(len(files)), chunksize=64):
            pass
    if not good.all():
        notes.append(f"{(~good).sum()} images that do not decode were skipped")
    labels = np.array([position[c] for c, _ in files], dtype=np.int64)
    return Split(images=images, labels=labels).take(np.flatnonzero(good))


# --------------------------------------------------------------------------------------------------------------
# Splitting


def _divided(
    name: str,
    classes: tuple[str, ...],
    everything: Split,
    *,
    val: float,
    test: float,
    seed: int,
    source: str,
    given: Mapping[str, Split] | None = None,
    notes: Iterable[str] = (),
) -> ImageData:
    """Split off what is not ``given``; identical images stay together, and leave train where a given split has them."""
    notes = list(notes)
    splits = dict(given or {})
    hashes = _hashes(everything)
    for part in ("test", "val"):
        if part not in splits:
            continue
        seen = set(_hashes(splits[part]))
        clash = np.array([h in seen for h in hashes])
        if clash.any():
            notes.append(f"{clash.sum()} training images that are also {part} images were dropped from training")
            keep = np.flatnonzero(~clash)
            everything, hashes = everything.take(keep), [hashes[i] for i in keep]
    if {"test", "val"} <= set(splits):
        seen = set(_hashes(splits["test"]))
        keep = np.array([h not in seen for h in _hashes(splits["val"])])
        if not keep.all():
            notes.append(f"{(~keep).sum()} validation images that are also test images were dropped from validation")
            splits["val"] = splits["val"].take(np.flatnonzero(keep))
    total = len(everything)
    for part, share in (("test", test), ("val", val)):
        if part not in splits:
            # fractions are of all images, so the second cut takes a larger share of what the first one left
            chosen = _stratified(everything, hashes, share * total / len(everything), classes, seed)
            splits[part] = everything.take(np.flatnonzero(chosen))
            keep = np.flatnonzero(~chosen)
            everything, hashes = everything.take(keep), [hashes[i] for i in keep]
    splits["train"] = everything
    for part, split in splits.items():
        missing = sorted(set(range(len(classes))) - set(split.labels.tolist()))
        if missing and part != "test":
            raise BadInput(f"{name}: class {classes[missing[0]]!r} has no images left for {part}; it needs more images")
    return ImageData(
        name=name,
        classes=classes,
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
        source=source,
        notes=tuple(notes),
    )


def _stratified(
    split: Split, hashes: Sequence[bytes], share: float, classes: tuple[str, ...], seed: int
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


def _hashes(split: Split) -> list[bytes]:
    return [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in split.images]


def _pixel_mean(images: NDArray[np.uint8], power: int = 1) -> NDArray[np.float64]:
    # in chunks: a float copy of all pixels at once would take eight times the memory
    total = np.zeros(images.shape[1])
    for start in range(0, len(images), 4096):
        total += (images[start : start + 4096].astype(np.float64) ** power).sum(axis=(0, 2, 3))
    return total / (images.size / images.shape[1])
