"""The classes, splits and groups of image files, as their folders and names say (NumPy, no decoding)."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nas.checks import shown
from nas.data.image_files import ImageFile, find_images
from nas.errors import BadInput
from nas.files import first_line


def files_of(path: Path, test_path: Path | None) -> tuple[dict[str, list[tuple[str, ImageFile]]], list[str]]:
    """(class, file) pairs by split, always with train, and the notes. Raises BadInput where splits do not fit together."""
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
    told = f"{len(ignored)} files that are not .jpg, .jpeg or .png were ignored: {some(ignored)}"
    return found, [told] if ignored else []


def class_names(found: Mapping[str, Sequence[tuple[str, ImageFile]]], path: Any) -> tuple[str, ...]:
    """The names of the class folders, sorted: those that have training images. Raises BadInput for fewer than two."""
    classes = tuple(sorted({c for c, _ in found["train"]}))
    if len(classes) < 2:
        raise BadInput(
            f"{path} has {len(classes)} class folder(s) with images, need at least 2 (one subfolder per class)"
        )
    unknown = sorted({c for files in found.values() for c, _ in files} - set(classes))
    if unknown:
        raise BadInput(f"class {unknown[0]!r} has no training images; the training classes are {', '.join(classes)}")
    return classes


def group_numbers(files: Sequence[ImageFile], groups: str | Callable[[PurePosixPath], object]) -> NDArray[np.int64]:
    """A number for each file ``(n,)``, equal for those of one group: as a function of the path, or a pattern in it, says.

    Files without a match (None) are by themselves. Raises BadInput for a pattern that is none or matches nowhere.
    """
    key = _matched(groups) if isinstance(groups, str) else groups
    numbers: dict[object, int] = {}
    found = [key(file.where) for file in files]
    if all(k is None for k in found):
        raise BadInput(f"groups {shown(groups)} matches none of the files, such as {files[0].where}")
    # a file without a match is a group of its own, which no other file can name
    return np.array([numbers.setdefault(("", i) if k is None else (k,), len(numbers)) for i, k in enumerate(found)])


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a look at a data set's files says. ``side``: pixels of the short side of half of the images or more.

    ``channels``: 1 where all of those looked at are grey.
    """

    images: int
    classes: int
    side: int
    channels: Literal[1, 3]


def look_at(path: Path, most: int = 200) -> Look:
    """A look at the headers of ``most`` images, evenly chosen; nothing is decoded. Raises BadInput as ``find_images`` does."""
    found, _ = files_of(path, None)
    every = [pair for pairs in found.values() for pair in pairs]
    sides, grey = list[int](), True
    for _, file in every[:: -(-len(every) // most)]:
        with contextlib.suppress(Exception), warnings.catch_warnings():  # loading tells of those that are damaged
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(file.read())) as image:
                sides.append(min(image.size))
                grey = grey and (image.mode in ("1", "L", "LA") or image.mode.startswith("I"))
    return Look(
        images=len(every),
        classes=len({c for c, _ in every}),
        side=int(np.median(sides)) if sides else 1,
        channels=1 if grey and sides else 3,
    )


def some(names: Sequence[object]) -> str:
    """The first few of ``names``."""
    return ", ".join(map(str, names[:3])) + (", ..." if len(names) > 3 else "")


def _matched(pattern: str) -> Callable[[PurePosixPath], object]:
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise BadInput(f"groups is a regular expression, got {shown(pattern)}: {first_line(error)}") from None

    def key(where: PurePosixPath) -> object:
        found = compiled.search(str(where))
        return None if found is None else found[1] if compiled.groups else found[0]

    return key
