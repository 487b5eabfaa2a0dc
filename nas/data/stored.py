"""Images that stay on disk behind the face of an array, and what is known of each without reading it again (NumPy).

Rows are read when they are asked for, by ordinary reads and not through a memory map: so the pixels are the system's
page cache and not this process' memory, a file that was cut short is one line and not a SIGBUS, and a pickle of a data
set (for a worker process) holds a path and not its pixels.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nas.errors import BadInput

CHUNK = 256
"""Images that are worked on at a time where all of them are passed through."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """``digests (n, 16) uint8``: equal for identical images; ``sums (n, 2, c) int64``: of the pixels, of their squares."""

    digests: NDArray[np.uint8]
    sums: NDArray[np.int64]

    def take(self, rows: NDArray[Any] | slice) -> Facts:
        """Of the given rows ``(n,)``."""
        return Facts(digests=self.digests[rows], sums=self.sums[rows])


class Source(Protocol):
    """Where rows come from; ``shape``: (c, h, h) of an image."""

    @property
    def shape(self) -> tuple[int, int, int]: ...

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """``(n, c, h, h)``, the images of these rows."""
        ...


def facts_of(images: NDArray[np.uint8] | StoredImages) -> Facts:
    """Of ``images (n, c, h, h)``, a chunk at a time."""
    if isinstance(images, StoredImages):
        return images.facts
    parts = [_facts(images[start : start + CHUNK]) for start in range(0, len(images), CHUNK)]
    return joined(parts, images.shape[1])


def joined(parts: Sequence[Facts], channels: int) -> Facts:
    """The facts of consecutive images as one."""
    return Facts(
        digests=np.concatenate([np.empty((0, 16), np.uint8), *(p.digests for p in parts)]),
        sums=np.concatenate([np.empty((0, 2, channels), np.int64), *(p.sums for p in parts)]),
    )


@dataclass(frozen=True, kw_only=True)
class PixelFile:
    """A file of nothing but pixels, image after image."""

    path: Path
    shape: tuple[int, int, int]

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """``(n, c, h, h)``. Raises BadInput when the file is gone or too short."""
        images = np.empty((len(rows), *self.shape), dtype=np.uint8)
        each = images[0].nbytes if len(rows) else 0
        firsts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)  # neighbours are read at once
        try:
            # opened anew: that takes microseconds, and leaves nothing to share with threads and forked processes
            with open(self.path, "rb", buffering=0) as file:
                for start, stop in itertools.pairwise([*firsts.tolist(), len(rows)]):
                    file.seek(int(rows[start]) * each)
                    _fill(file, images[start:stop].data.cast("B"))
        except OSError as error:
            raise BadInput(f"cannot read {self.path}: {error.strerror}; load the images again") from None
        return images


class StoredImages:
    """``(n, c, h, h) uint8`` that are read when they are indexed: by a number, a slice, or an array of rows."""

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, source: Source, facts: Facts, rows: NDArray[np.int64] | None = None) -> None:
        """``facts``: of all images of ``source``; ``rows (n,)``: those that these are (default: all)."""
        self.source = source
        self._facts = facts
        self.rows = np.arange(len(facts.digests)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, c, h, h)."""
        return (len(self), *self.source.shape)

    @property
    def facts(self) -> Facts:
        """Of these rows."""
        return self._facts.take(self.rows)

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        rows = self.rows[key]
        return self.source.read(rows) if rows.ndim else self.source.read(rows[None])[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:].astype(dtype or np.uint8, copy=False)

    def take(self, rows: NDArray[Any] | slice) -> StoredImages:
        """The given rows ``(n,)``, still unread."""
        return StoredImages(self.source, self._facts, self.rows[rows])


def _facts(images: NDArray[np.uint8]) -> Facts:
    digests = [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images]
    sums = np.empty((len(images), 2, images.shape[1]), dtype=np.int64)
    for row, image in zip(sums, images, strict=True):  # one at a time: this much wider copy stays small
        wide = image.reshape(len(image), -1).astype(np.uint32)
        row[0], row[1] = wide.sum(1, dtype=np.int64), (wide * wide).sum(1, dtype=np.int64)
    return Facts(digests=np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 16), sums=sums)


def _fill(file: Any, buffer: memoryview) -> None:
    """Raises OSError at the end of the file."""
    while buffer:
        if not (n := file.readinto(buffer)):
            raise OSError(0, f"it is too short ({os.fstat(file.fileno()).st_size:,} bytes)")
        buffer = buffer[n:]
