"""Names on the command line become objects here, and nowhere else.

``space`` and ``images`` are what a run folder records, to make its space and data again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from nas.checks import FilePath, Seed, Text, checked, shown
from nas.data.image_files import Fit
from nas.data.images import ImageData
from nas.errors import BadInput
from nas.space import SearchSpace

if TYPE_CHECKING:
    from nas.measuring.energy import Meter

DIGITS = "digits"
SUITED = ((29, "mobilenet_v3.digits"), (57, "mobilenet_v3.cifar"), (1 << 31, "mobilenet_v2.photos"))
"""Spaces for images whose short side is below so many pixels. Those for ImageNet take days without a GPU: by name only."""
_COLOURS = {1: "grey", 3: "RGB"}

RunDir = Annotated[FilePath, "run folder"]
Resume = Annotated[bool, "go on with what the folder already holds"]


@checked
def space(
    *,
    space: Annotated[
        Text, "search space, such as mobilenet_v3.cifar; a wrong name lists them; for your images, one that fits them"
    ] = "mobilenet_v3.digits",
    classes: Annotated[int | None, Meta(ge=2, le=100_000), "number of classes (default: the space's own)"] = None,
    channels: Annotated[int | None, Meta(ge=1, le=1024), "input channels (default: the space's own)"] = None,
) -> SearchSpace:
    """The search space of a name. Raises BadInput that lists the names when there is no such space."""
    import search_spaces

    sizes = {"classes": classes, "in_channels": channels}
    made: SearchSpace = search_spaces.named(space, **{k: v for k, v in sizes.items() if v is not None})
    return made


@checked
def images(
    *,
    data: Annotated[Text, f"'{DIGITS}', or a folder or .zip with one subfolder of images per class"] = DIGITS,
    test_data: Annotated[Text | None, "a second folder or .zip that holds the test images"] = None,
    size: Annotated[
        int | None, Meta(ge=4, le=4096), "pixels at which images are stored (default: as the space and they need)"
    ] = None,
    channels: Annotated[Literal[1, 3] | None, "1: grey, 3: RGB (default: as the images are)"] = None,
    fit: Annotated[Fit, "how images become square: the centre, all with grey bars, or all distorted"] = "crop",
    groups: Annotated[
        Text | None, "regular expression: files in which it matches the same text stay in one split"
    ] = None,
    balance: Annotated[bool, "train on every class equally often"] = False,
    skip_bad: Annotated[bool, "skip images that do not decode"] = False,
    cache: Annotated[
        FilePath | None, "folder for decoded images that memory has no room for (default ~/.cache/nas)"
    ] = None,
    seed: Seed = 0,
) -> ImageData:
    """Images of a folder or .zip, or scikit-learn's digits. Raises BadInput as ``load_images`` does."""
    from nas.data.images import load_digits, load_images

    if data == DIGITS:
        own = {"test_data": test_data, "size": size, "groups": groups, "cache": cache, "fit": fit != "crop" or None}
        for name, given in (own | {"balance": balance or None, "skip_bad": skip_bad or None}).items():
            if given is not None:
                raise BadInput(f"{name} goes with --data of your own; the digits are what they are")
        return load_digits()
    loaded = load_images(
        data,
        size=size or 32,  # what older runs recorded none for
        channels=channels or 3,
        fit=fit,
        seed=seed,
        groups=groups,
        balance=balance,
        test_path=test_data,
        skip_bad=skip_bad,
        cache=cache,
    )
    for note in loaded.notes:
        logging.getLogger("nas").info("note: %s", note)
    return loaded


def suited(data: str, named: str | None, size: int | None, channels: int | None) -> tuple[str, int, int]:
    """Space, size and channels for the images of ``data``: as given, else as a look at the images says, told in a line.

    Raises BadInput for a wrong name, or when there are no images.
    """
    from nas.data.folders import look_at
    from nas.data.image_files import image_path

    seen = look_at(image_path(data))
    name = named or next(name for below, name in SUITED if (size or seen.side) < below)
    largest = max(block.size for block in space(space=name).slot_options(0))
    chosen = name, size or max(4, min(largest, seen.side)), channels or seen.channels
    if None in (named, size, channels):
        logging.getLogger("nas").info(
            "%s: %s images of %d classes, mostly %d px (short side) or more, %s: space %s, images stored at %d px as %s; "
            "choose with --space, --size and --channels (a pretrained start: --pretrained)",
            data, f"{seen.images:,}", seen.classes, seen.side, _COLOURS[seen.channels], *chosen[:2], _COLOURS[chosen[2]],
        )  # fmt: skip
    return chosen


def one_of(what: str, name: str, known: Iterable[str]) -> str:
    """``name``, when it is among the ``known``. Raises BadInput that lists them when it is not."""
    known = list(known)
    if name not in known:
        raise BadInput(f"there is no {what} {shown(name)}; there are {', '.join(known)}")
    return name


def meter(name: str | None) -> Meter | None:
    """The meter of a name, or of a file that holds µW. Raises BadInput when there is no such meter."""
    from nas.measuring.energy import Later, Nvml, Rapl, SysfsPower, jetson_power

    if name is None:
        return None
    known: dict[str, Callable[[], Meter]] = {"rapl": Rapl, "nvml": Nvml, "jetson": jetson_power, "later": Later}
    if name in known:
        return known[name]()
    try:
        there = Path(name).is_file()
    except (OSError, ValueError):  # too long, or a zero byte
        there = False
    if not there:
        raise BadInput(f"there is no meter {shown(name)}; there are {', '.join(known)}, or a file that holds µW")
    return SysfsPower(Path(name))
