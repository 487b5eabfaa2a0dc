"""Image files as pixels: decoded into memory, or decoded anew whenever they are read (NumPy and Pillow)."""

from __future__ import annotations

import io
import lzma
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nas.data.image_files import Fit, ImageFile, read_image
from nas.data.stored import CHUNK
from nas.device import cores
from nas.errors import BadInput
from nas.files import first_line
from nas.progress import bar

_DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError)  # what entries of a zip raise


@dataclass(frozen=True, kw_only=True)
class ImageFiles:
    """``files`` as square images of ``size`` pixels; ``fit`` as ``nas.data.image_files.fitted`` has it."""

    files: tuple[ImageFile, ...]
    size: int
    channels: int
    fit: Fit

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.channels, self.size, self.size)

    @property
    def nbytes(self) -> int:
        """Of all images, decoded."""
        return len(self.files) * self.channels * self.size * self.size

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """``(n, c, h, h)``, decoded now. Raises BadInput, naming the file, for one that does not decode."""
        images = np.empty((len(rows), *self.shape), dtype=np.uint8)
        for image, row in zip(images, rows.tolist(), strict=True):
            image[:] = self._decoded(row)
        return images

    def chunks(self, skip_bad: bool) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
        """All images in order, decoded by threads: ``(n, c, h, h)`` and which of them are ``good (n,)``.

        Raises BadInput, naming the file, for one that does not decode, unless ``skip_bad``: those are not good.
        """
        # warning filters belong to the process, not to a thread, so Pillow's warning (read_image refuses such images
        # itself) is silenced out here
        with (
            warnings.catch_warnings(),
            ThreadPoolExecutor(cores()) as pool,
            bar(None, desc="decode", unit="image", total=len(self.files)) as shown,
        ):
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            for start in range(0, len(self.files), CHUNK):
                rows = range(start, min(start + CHUNK, len(self.files)))
                images = np.zeros((len(rows), *self.shape), dtype=np.uint8)
                good = np.ones(len(rows), dtype=bool)

                def decode(
                    at: int, images: NDArray[Any] = images, good: NDArray[Any] = good, start: int = start
                ) -> None:
                    try:
                        images[at] = self._decoded(start + at)
                    except BadInput as error:
                        if not skip_bad:
                            raise BadInput(f"{error}; remove it, or pass skip_bad (--skip-bad)") from None
                        good[at] = False

                list(pool.map(decode, range(len(rows))))
                shown.update(len(rows))
                yield images, good

    def _decoded(self, row: int) -> NDArray[np.uint8]:
        file = self.files[row]
        try:
            return read_image(io.BytesIO(file.read()), self.size, self.channels, self.fit)
        except (BadInput, OSError, RuntimeError, EOFError, ValueError, struct.error, *_DAMAGED) as error:
            raise BadInput(f"{file.where}: {first_line(error)}") from None


def in_memory(files: ImageFiles, skip_bad: bool) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """All images ``(n, c, h, h)``, and which of them are good ``(n,)``. Raises as ``ImageFiles.chunks`` does."""
    images = np.empty((len(files.files), *files.shape), dtype=np.uint8)
    good, at = np.ones(len(images), dtype=bool), 0
    for chunk, fine in files.chunks(skip_bad):
        images[at : at + len(chunk)], good[at : at + len(chunk)] = chunk, fine
        at += len(chunk)
    return images, good
