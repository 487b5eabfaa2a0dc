"""Images decoded once, into a file of pixels that later calls find again (NumPy; no torch).

``<key>.u8`` holds the pixels, ``<key>.npz`` what is known of each image; the key is a digest of how and from what they
were made. Both get their names when they are whole, the pixels last. What is being written ends in ``.part`` and is
locked while its process lives: what a killed one left is taken away by the next call.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL
from numpy.typing import NDArray

from nas.checks import shown
from nas.data.decoding import ImageFiles
from nas.data.stored import Facts, PixelFile, StoredImages, facts_of, joined
from nas.errors import Unwritable
from nas.files import first_line, folder_of, lies_at

FORMAT = 1
_log = logging.getLogger("nas")
Chunks = Iterable[tuple[NDArray[np.uint8], NDArray[np.bool_]]]


def cache_folder(chosen: str | os.PathLike[str] | None) -> Path:
    """The ``chosen`` folder, else ``nas`` in the user's cache folder. Raises BadInput where no folder can be."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return folder_of(Path(home, "nas") if chosen is None else chosen, "cache folder")


def stored(files: ImageFiles, *, folder: Path, skip_bad: bool, name: str) -> tuple[StoredImages, NDArray[np.bool_]]:
    """The images of ``files`` on disk, and which of them are good ``(n,)``: from the cache, or decoded into it now.

    Where the disk has no room for the pixels, they are passed through once, and decoded anew whenever they are read.
    Raises BadInput as ``ImageFiles.chunks`` does, and when the cache cannot be written.
    """
    key = _key(files, skip_bad)
    pixels, index = folder / f"{key}.u8", folder / f"{key}.npz"
    _clear(folder)
    size = f"{files.nbytes / 2**30:,.2f} GiB"
    if pixels.is_file() or _free(folder) > 1.05 * files.nbytes:
        if (known := _known(pixels, index, files)) is None:
            _log.info(
                "%s: %s of decoded images go into the cache %s; it may be deleted at any time", name, size, pixels
            )
            known = _written(files.chunks(skip_bad), files, pixels, index)
        else:
            _log.info("%s: %s of decoded images come from the cache %s", name, size, pixels)
        return StoredImages(PixelFile(path=pixels, shape=files.shape), known[0]), known[1]
    _log.info(
        "%s: no room in %s for a cache of %s, so images are decoded anew in every epoch; choose a folder with more by cache (--cache)",
        name, folder, size,
    )  # fmt: skip
    known = _known(None, index, files)
    if known is None:
        known = _gathered(files.chunks(skip_bad), files.channels, None)
        with contextlib.suppress(Unwritable):  # it only saves time
            _save(index, *known)
    return StoredImages(files, known[0]), known[1]


def spilled(chunks: Iterable[NDArray[np.uint8]], *, folder: Path, shape: tuple[int, int, int]) -> StoredImages:
    """``chunks (n, c, h, h)`` of unknown origin as a file of the cache, which is named by their content.

    Raises BadInput when the cache cannot be written.
    """
    _clear(folder)
    begun = folder / f"{os.getpid()}-{id(chunks):x}.u8"
    with _new(begun) as file:
        facts, _ = _gathered(((c, np.ones(len(c), dtype=bool)) for c in chunks), shape[0], file)
        pixels = folder / f"{hashlib.sha256(facts.digests.tobytes()).hexdigest()[:24]}.u8"
        _finish(file, begun, pixels)
    _log.info("%.2f GiB of decoded images went into the cache %s", pixels.stat().st_size / 2**30, pixels)
    return StoredImages(PixelFile(path=pixels, shape=shape), facts)


def _key(files: ImageFiles, skip_bad: bool) -> str:
    how = (FORMAT, PIL.__version__, files.size, files.channels, files.fit, skip_bad)
    digest = hashlib.sha256(repr(how).encode())
    for file in files.files:
        digest.update(repr((str(file.where), file.stamp, _origin(file.read))).encode(errors="surrogatepass"))
    return digest.hexdigest()[:24]


def _origin(read: Any) -> str:
    """The file that a ``read`` reads."""
    return os.path.abspath(read.args[0] if hasattr(read, "args") else read.__self__)


def _free(folder: Path) -> int:
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    return shutil.disk_usage(there).free


def _known(pixels: Path | None, index: Path, files: ImageFiles) -> tuple[Facts, NDArray[np.bool_]] | None:
    """What the cache knows of the images; None where it is not there, or not whole."""
    if pixels is not None and not (pixels.is_file() and pixels.stat().st_size == files.nbytes):
        return None
    try:
        with open(index, "rb") as file, np.load(file, allow_pickle=False) as read:
            facts, good = Facts(digests=read["digests"], sums=read["sums"]), read["good"]
    except Exception:  # not there, or damaged in one of many ways
        return None
    n = len(files.files)
    whole = facts.digests.shape == (n, 16) and facts.sums.shape == (n, 2, files.channels) and good.shape == (n,)
    return (facts, good) if whole else None


def _written(chunks: Chunks, files: ImageFiles, pixels: Path, index: Path) -> tuple[Facts, NDArray[np.bool_]]:
    """Decode into the cache, once: a process that is at it already is waited for."""
    with _new(pixels) as file:
        if (known := _known(pixels, index, files)) is not None:  # made while this process waited
            return known
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, files.nbytes)  # a disk that is full says so now
        facts, good = _gathered(chunks, files.channels, file)
        _save(index, facts, good)
        _finish(file, pixels)
    return facts, good


def _gathered(chunks: Chunks, channels: int, file: BinaryIO | None) -> tuple[Facts, NDArray[np.bool_]]:
    """The facts of all images, whose pixels go into ``file``."""
    facts, good = [], [np.empty(0, dtype=bool)]
    for images, fine in chunks:
        facts.append(facts_of(images))
        good.append(fine)
        if file is not None:
            file.write(np.ascontiguousarray(images).data)
    return joined(facts, channels), np.concatenate(good)


def _save(index: Path, facts: Facts, good: NDArray[np.bool_]) -> None:
    with _new(index) as file:
        np.savez(file, digests=facts.digests, sums=facts.sums, good=good)
        _finish(file, index)


# ---- a file while it is written ----------------------------------------------------------------------------------


@contextlib.contextmanager
def _new(path: Path) -> Iterator[BinaryIO]:
    """An empty file that is this process' alone and becomes ``path`` by ``_finish``, or nothing.

    Raises BadInput for an operating system's refusal in the block.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _claimed(part) as file:
            try:
                yield file
            finally:
                if lies_at(part, file):
                    part.unlink()
    except OSError as error:
        raise Unwritable(
            f"cannot write the cache {shown(str(path.parent))}: {error.strerror or first_line(error)}; "
            "choose another folder by cache (--cache)"
        ) from None


def _finish(file: BinaryIO, path: Path, final: Path | None = None) -> None:
    file.flush()
    os.fsync(file.fileno())
    os.replace(path.with_name(f".{path.name}.part"), final or path)


@contextlib.contextmanager
def _claimed(part: Path) -> Iterator[BinaryIO]:
    while True:
        with open(os.open(part, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
            try:
                _lock(file)
            except BlockingIOError:
                _log.info("another process makes %s; waiting for it", part.name[1:].removesuffix(".part"))
                _lock(file, wait=True)
            if not lies_at(part, file):
                continue  # its last owner finished it, or took it away
            file.truncate(0)
            yield file
            return


def _lock(file: Any, *, wait: bool = False) -> None:
    """Raises BlockingIOError when another process has it, unless this one is to ``wait``."""
    with contextlib.suppress(ImportError):  # Windows
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def _clear(folder: Path) -> None:
    """Take away what killed processes had begun."""
    for part in folder.glob(".*.part"):
        with contextlib.suppress(OSError), open(part, "rb") as file:
            _lock(file)  # refused while its process lives
            part.unlink()
