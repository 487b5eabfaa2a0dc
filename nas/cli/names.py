"""Names on the command line become objects here, and nowhere else.

``space`` and ``images`` are what a run folder records, to make its space and data again.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from nas.blocks import Pixels
from nas.checks import FilePath, Seed, Text, checked, shown
from nas.data.image_files import Fit
from nas.data.images import ImageData
from nas.errors import BadInput
from nas.space import SearchSpace

if TYPE_CHECKING:
    from nas.measuring.energy import Meter
    from nas.modules import Network

DIGITS = "digits"
SUITED = ((29, "mobilenet_v3.digits"), (57, "mobilenet_v3.cifar"), (1 << 31, "mobilenet_v2.photos"))
"""Spaces for images whose short side is below so many pixels. Those for ImageNet take days without a GPU: by name only."""
_COLOURS = {1: "grey", 3: "RGB"}

SPACE = "mobilenet_v3.digits"
"""What is searched unless something else is said."""

RunDir = Annotated[FilePath, "run folder"]
Resume = Annotated[bool, "go on with what the folder already holds"]
Pretrained = Annotated[
    Text | None,
    "instead of a space: the networks around a pretrained one, such as efficientnet_lite0 or a weights file",
]
Around = Annotated[
    FilePath | None, "instead of a space: the networks around a finished one, such as runs/x/candidates/c03"
]


@checked
def space(
    *,
    space: Annotated[
        Text | None,
        f"search space; a wrong name lists them (default: for your images, one that fits them, else {SPACE})",
    ] = None,
    pretrained: Pretrained = None,
    around: Around = None,
    size: Annotated[Pixels | None, "pixels of the pretrained network's images (default: its own)"] = None,
    classes: Annotated[int | None, Meta(ge=2, le=100_000), "number of classes (default: the space's own)"] = None,
    channels: Annotated[int | None, Meta(ge=1, le=1024), "input channels (default: the space's own)"] = None,
) -> SearchSpace:
    """The search space of a name, or the one around a network: its largest member.

    Raises BadInput that lists the names when there is no such space, and as ``network`` does.
    """
    import search_spaces

    source = network(pretrained=pretrained, around=around, space=space, size=size, classes=classes)
    if source is None:
        sizes = {"classes": classes, "in_channels": channels}
        made: SearchSpace = search_spaces.named(space or SPACE, **{k: v for k, v in sizes.items() if v is not None})
        return made
    name = f"around_{Path(pretrained or around or '').stem}"
    if channels not in (None, source.input_shape[0]):
        raise BadInput(f"{name} takes images of {source.input_shape[0]} channels, not {channels}")
    from nas.space_around import around as space_around

    return space_around(source, name=name)


def network(
    *,
    pretrained: str | None,
    around: str | os.PathLike[str] | None,
    space: str | None = None,
    size: int | None = None,
    classes: int | None = None,
) -> Network | None:
    """The network that a search starts from, with so many classes; None where it starts from none.

    Raises BadInput when there is no such network, when two of ``pretrained``, ``around`` and ``space`` are given, and for a
    ``size`` without ``pretrained``.
    """
    ways = {"space": space, "pretrained": pretrained, "around": around}
    if len(given := [name for name, value in ways.items() if value is not None]) > 1:
        raise BadInput(f"{' and '.join(given)} both say what is searched; give one of them")
    if pretrained is not None:
        from nas.layouts import pretrained as taught

        return taught(pretrained, classes=classes, size=size)
    if size is not None:
        raise BadInput("size is that of a pretrained network's images; without one the space has its own")
    if around is None:
        return None
    from nas.layouts import with_classes
    from nas.runs.candidates import load_candidate

    found = load_candidate(Path(around))
    return found if classes in (None, found.describe()[-1].out_ch) else with_classes(found, classes)


@checked
def images(
    *,
    data: Annotated[Text, f"'{DIGITS}', or a folder or .zip with one subfolder of images per class"] = DIGITS,
    test_data: Annotated[Text | None, "a second folder or .zip that holds the test images"] = None,
    size: Annotated[
        int | None,
        Meta(ge=4, le=4096),
        "pixels at which images are stored (default: as the space, or the network to start from, and they need)",
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
    pretrained: Pretrained = None,
    around: Around = None,
) -> ImageData:
    """Images of a folder or .zip, or scikit-learn's digits, normalised as the network was taught that a search starts from.

    Raises BadInput as ``load_images`` and ``network`` do.
    """
    from nas.data.images import load_digits, load_images

    source = network(pretrained=pretrained, around=around)
    if data == DIGITS:
        own = {"test_data": test_data, "size": size, "groups": groups, "cache": cache, "fit": fit != "crop" or None}
        for name, value in (own | {"balance": balance or None, "skip_bad": skip_bad or None}).items():
            if value is not None:
                raise BadInput(f"{name} goes with --data of your own; the digits are what they are")
        return load_digits().normalised_as(source)
    shape: Any = source.input_shape if source else (3, 0, 32)  # what older runs recorded none for
    loaded = load_images(
        data,
        size=size or shape[2],
        channels=channels or shape[0],
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
    return loaded.normalised_as(source)


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
