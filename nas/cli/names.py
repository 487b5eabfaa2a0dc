"""Names on the command line become objects here, and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from nas.checks import FilePath, Seed, Text, checked
from nas.errors import BadInput

if TYPE_CHECKING:
    from nas.data.images import ImageData
    from nas.measuring.energy import Meter
    from nas.space import SearchSpace

DIGITS = "digits"

Channels = Literal[1, 3]
RunDir = Annotated[FilePath, "run folder"]
Resume = Annotated[bool, "go on with what the folder already holds"]


@checked
@dataclass(frozen=True, kw_only=True)
class SpaceFlags:
    """A search space by name."""

    space: Annotated[Text, "search space, such as mobilenet_v3.cifar; a wrong name lists them"] = "mobilenet_v3.digits"
    classes: Annotated[int | None, Meta(ge=2, le=100_000), "number of classes, instead of the space's own"] = None
    channels: Annotated[int | None, Meta(ge=1, le=1024), "input channels, instead of the space's own"] = None

    def make(self) -> SearchSpace:
        """Raises BadInput that lists the names when there is no such space."""
        import search_spaces

        sizes = {"classes": self.classes, "in_channels": self.channels}
        return search_spaces.named(self.space, **{k: v for k, v in sizes.items() if v is not None})


@checked
@dataclass(frozen=True, kw_only=True)
class DataFlags:
    """Images by path, or scikit-learn's digits."""

    data: Annotated[Text, f"'{DIGITS}', or a folder or .zip with one subfolder of images per class"] = DIGITS
    test_data: Annotated[Text | None, "a second folder or .zip that holds the test images"] = None
    size: Annotated[int | None, Meta(ge=4, le=4096), "pixels at which images are stored (default 32)"] = None
    channels: Annotated[Channels | None, "1: grey, 3: RGB (default 3; digits are grey)"] = None
    skip_bad: Annotated[bool, "skip images that do not decode"] = False
    seed: Annotated[Seed, "of everything random"] = 0


def meter(name: str | None) -> Meter | None:
    """The meter of a name, or of a file that holds µW. Raises BadInput when there is no such meter."""
    from nas.measuring.energy import Later, Nvml, Rapl, SysfsPower, jetson_power

    if name is None:
        return None
    known = {"rapl": Rapl, "nvml": Nvml, "jetson": jetson_power, "later": Later}
    if name in known:
        return known[name]()
    if not Path(name).is_file():
        raise BadInput(f"there is no meter {name!r}; there are {', '.join(known)}, or a file that holds µW")
    return SysfsPower(Path(name))
