"""Image files on disk or in a zip: finding them by class and split, and decoding one (NumPy and Pillow, no torch)."""

from __future__ import annotations

import functools
import io
import os
import stat
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from nas.checks import shown
from nas.errors import BadInput
from nas.files import first_line

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
MAX_FILE_BYTES = 512 << 20  # of one entry of a zip, unpacked
Fit = Literal["crop", "pad", "squash"]
"""How a rectangular image becomes a square: the centre of it, all of it with grey bars, or all of it distorted."""


@dataclass(frozen=True)
class ImageFile:
    """An image somewhere: ``where`` is its path below the data's root, ``read`` gives its bytes.

    ``stamp``: another one when the file has changed: its size and when it was written, or a checksum. It can be pickled.
    """

    where: PurePosixPath
    read: Callable[[], bytes]
    stamp: tuple[int, int]


@dataclass(frozen=True)
class Found:
    """``splits``: (class, file) pairs under train, val and test, all under train when the data is not split.

    ``ignored``: the other files (not .jpg, .jpeg or .png) in the class folders.
    """

    splits: dict[str, list[tuple[str, ImageFile]]]
    ignored: tuple[PurePosixPath, ...]


def image_path(path: str | os.PathLike[str]) -> Path:
    """``path``, when something is there. Raises BadInput otherwise, also for "" and for names too long for a file."""
    try:
        there = bool(os.fspath(path)) and (Path(path).is_dir() or Path(path).is_file())  # /dev/zero never ends
    except (OSError, TypeError, ValueError):
        there = False
    if not there:
        raise BadInput(f"{shown(path)} does not exist; give a folder or .zip with one subfolder of images per class")
    return Path(path)


def find_images(path: Path) -> Found:
    """The images of a folder or .zip with one subfolder per class, possibly inside train, val and test.

    A single folder around everything is looked through. Hidden files, ``__MACOSX`` and zip entries that point outside
    the zip are ignored. Raises BadInput, one line each, for a missing path, no images, images outside class folders,
    an empty class folder, and folders that lie beside train, val and test.
    """
    files, folders = _in_folder(path) if path.is_dir() else _in_zip(path)
    images = [f for f in files if f.where.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise BadInput(
            f"{path} holds no images ({', '.join(IMAGE_SUFFIXES)}); expected one subfolder of images per class"
        )
    around = _around(images)
    images = [ImageFile(f.where.relative_to(around), f.read, f.stamp) for f in images]
    folders = {f.relative_to(around) for f in folders if f.is_relative_to(around)}
    nested = _is_split(images, path)
    depth = 2 if nested else 1  # of a class folder
    for f in images:
        if len(f.where.parts) <= depth:
            raise BadInput(f"{path}: {f.where} lies in no class folder; expected one subfolder of images per class")
    filled = {f.where.parts[:depth] for f in images}
    for folder in sorted(folders):
        # val and test may lack a class; that is judged where all splits are known
        train = not nested or SPLIT_NAMES.get(folder.parts[0].lower()) == "train"
        if train and len(folder.parts) == depth and folder.parts not in filled:
            raise BadInput(f"{path}: class folder {folder} holds no images ({', '.join(IMAGE_SUFFIXES)}); remove it")
    splits: dict[str, list[tuple[str, ImageFile]]] = {}
    for f in images:
        split = SPLIT_NAMES[f.where.parts[0].lower()] if nested else "train"
        splits.setdefault(split, []).append((f.where.parts[depth - 1], f))
    whole = len(around.parts) + depth
    others = (f.where for f in files if f.where.suffix.lower() not in IMAGE_SUFFIXES)
    return Found(splits, tuple(where for where in others if len(where.parts) > whole))


def square_pixels(file: str | os.PathLike[str] | io.BytesIO, size: int, channels: int, fit: str) -> NDArray[np.uint8]:
    """One image file as ``(channels, size, size) uint8``: turned upright, then as ``fitted``.

    Deployed bundles carry a copy of this function, so it uses numpy and Pillow only. Raises whatever Pillow does.
    """
    # .jpg files of the web are often GIF, BMP or WebP; other formats stay shut (EPS would start ghostscript)
    with Image.open(file, formats=("JPEG", "PNG", "GIF", "BMP", "WEBP")) as image:
        scale = size / min(image.size)
        wide, high = (max(size, round(side * scale)) for side in image.size)
        if max(image.width * image.height, wide * high) > 80_000_000:  # a decompression bomb, or a thread-like image
            raise ValueError(f"{image.width} x {image.height} pixels are too many at {size} px (limit: 80,000,000)")
        if image.format == "JPEG":
            image.draft("RGB" if channels == 3 else "L", (size, size))  # decodes large photographs faster
        return fitted(ImageOps.exif_transpose(image), size, channels, fit)


def fitted(image: Image.Image, size: int, channels: int, fit: str) -> NDArray[np.uint8]:
    """A decoded image as ``(channels, size, size) uint8``.

    ``fit``: "crop" resizes the short side to ``size`` and keeps the centre; "pad" resizes the long side and puts grey
    (128) around; "squash" resizes both. Deployed bundles carry a copy of this function, too.
    """
    if image.mode.startswith("I"):  # 16 bits per pixel
        image = image.point(lambda value: value / 256).convert("L")
    elif image.mode in ("P", "PA", "LA", "La", "RGBa"):
        image = image.convert("RGBA")
    plain = image.convert("RGB" if channels == 3 else "L")
    scale = size / (max if fit == "pad" else min)(plain.size)
    wide, high = (size, size) if fit == "squash" else (max(1, round(side * scale)) for side in plain.size)
    resized = plain.resize((wide, high), Image.Resampling.BILINEAR)
    left, top = (wide - size) // 2, (high - size) // 2
    if fit == "pad":
        square = Image.new(resized.mode, (size, size), (128,) * channels if channels == 3 else 128)
        square.paste(resized, (-left, -top))
    else:
        square = resized.crop((left, top, left + size, top + size))
    pixels = np.asarray(square)
    return np.ascontiguousarray(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1))


def read_image(
    file: str | os.PathLike[str] | io.BytesIO, size: int, channels: int, fit: Fit = "crop"
) -> NDArray[np.uint8]:
    """``square_pixels``, ``(channels, size, size)``, but raises BadInput, one line, when the file does not decode."""
    try:
        return square_pixels(file, size, channels, fit)
    except UnidentifiedImageError:
        raise BadInput("does not decode as an image: it is neither JPEG nor PNG") from None
    except Exception as error:  # on damaged files Pillow's decoders raise nearly every kind there is
        raise BadInput(f"does not decode as an image: {first_line(error)}") from None


def _in_folder(path: Path) -> tuple[list[ImageFile], set[PurePosixPath]]:
    """All files and all folders below ``path``; links are followed, each folder once per way that leads to it."""
    files, folders = [], set()
    for place in _walk(path, ()):
        where = PurePosixPath(place.relative_to(path).as_posix())
        if place.is_dir():
            folders.add(where)
        elif place.is_file():
            about = place.stat()
            files.append(ImageFile(where, place.read_bytes, (about.st_size, about.st_mtime_ns)))
    return files, folders


def _walk(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    above = (*above, folder.resolve())
    try:
        places = sorted(folder.iterdir())
    except OSError as error:
        raise BadInput(f"{folder} cannot be read: {error.strerror}") from None
    for place in places:
        if _hidden(PurePosixPath(place.name)):
            continue
        yield place
        if place.is_dir() and place.resolve() not in above:  # a link to a folder above would never end
            yield from _walk(place, above)


def _in_zip(path: Path) -> tuple[list[ImageFile], set[PurePosixPath]]:
    try:
        archive = zipfile.ZipFile(path)
    except Exception:  # a damaged directory of entries fails in many ways
        raise BadInput(f"{path} is neither a folder nor a readable .zip") from None
    files, folders = {}, set()
    for entry in archive.infolist():
        where = PurePosixPath(entry.filename.replace("\\", "/"))  # some Windows tools write backslashes
        link = stat.S_ISLNK(entry.external_attr >> 16)
        if _hidden(where) or where.is_absolute() or ":" in where.parts[0] or link:
            continue
        if entry.filename.endswith(("/", "\\")):
            folders.add(where)
            continue
        if entry.flag_bits & 1:
            raise BadInput(f"{path}: {where} is encrypted; unpack the zip and give the folder")
        files[where] = ImageFile(where, functools.partial(_unpacked, path, entry), (entry.file_size, entry.CRC))
    return [files[where] for where in sorted(files)], folders


def _unpacked(path: Path, entry: zipfile.ZipInfo) -> bytes:
    if entry.file_size > MAX_FILE_BYTES:
        raise BadInput(f"unpacks to {entry.file_size >> 20:,} MiB, more than {MAX_FILE_BYTES >> 20} MiB")
    there = path.stat()
    return _archive(path, os.getpid(), (there.st_ino, there.st_mtime_ns, there.st_size)).read(entry)


@functools.lru_cache(maxsize=4)
def _archive(path: Path, process: int, stamp: tuple[int, ...]) -> zipfile.ZipFile:
    """The opened zip of this process, one for all its threads: a forked one would move the position of its parent."""
    return zipfile.ZipFile(path)


def _hidden(where: PurePosixPath) -> bool:
    """Dotfiles, ``..`` in a zip, the Mac's resource forks, and the empty path."""
    return not where.parts or any(part.startswith((".", "__MACOSX")) for part in where.parts)


def _around(images: list[ImageFile]) -> PurePosixPath:
    """The folders that lie around everything, as long as a class folder remains below them."""
    around: list[str] = []
    paths = [f.where.parts for f in images]
    while all(len(p) > len(around) + 2 for p in paths) and len({p[len(around)] for p in paths}) == 1:
        top = paths[0][len(around)]
        if top.lower() in SPLIT_NAMES:
            break
        around.append(top)
    return PurePosixPath(*around)


def _is_split(images: list[ImageFile], path: Path) -> bool:
    """Whether the top folders are train, val and test."""
    tops = sorted({f.where.parts[0] for f in images if len(f.where.parts) > 2})
    names = [top for top in tops if top.lower() in SPLIT_NAMES]
    other = [top for top in tops if top not in names]
    if other and any(SPLIT_NAMES[name.lower()] == "train" for name in names):
        raise BadInput(f"{path}: {other[0]!r} lies beside {', '.join(map(repr, names))} and is no split; move it away")
    return bool(names) and not other
