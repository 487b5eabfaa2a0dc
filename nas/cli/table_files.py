"""Paths and names on the command line to latency tables and their spaces."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import BadInput

if TYPE_CHECKING:
    from nas.space import SearchSpace
    from nas.tables.table import LatencyTable

PLACES = ("latency_tables", "runs")
"""Where tables are looked for when no path is given."""

Found = list[tuple[Path, "LatencyTable"]]


def space_of(table: LatencyTable) -> tuple[SearchSpace | None, str]:
    """The space a table says it was made for, or None and why it cannot be made from its name."""
    from nas.blocks import Head, Stem
    from search_spaces import EfficientNet, FBNet, MobileNetV2, MobileNetV3, OnceForAll

    makers: dict[str, Callable[..., SearchSpace]] = {
        **{f"mobilenet_v2_{size}": getattr(MobileNetV2, size) for size in ("digits", "imagenet")},
        **{f"mobilenet_v3_{size}": getattr(MobileNetV3, size) for size in ("digits", "cifar", "imagenet")},
        **{f"efficientnet_{size}": getattr(EfficientNet, size) for size in ("digits", "imagenet")},
        "proxyless_nas": OnceForAll.proxyless_nas,
        "fbnet_cifar100": FBNet.cifar100,
    }
    name = table.space.get("name", "")
    stems = [b for b in table.blocks if isinstance(b, Stem)]
    heads = [b for b in table.blocks if isinstance(b, Head)]
    if not stems or not heads:
        return None, f"{table.name} has no stem or no head, so it is not of a whole space"
    sizes: dict[str, Any] = {"classes": heads[0].out_ch, "in_channels": stems[0].in_ch}
    width = name.removeprefix("ofa_mobilenet_v3_w")
    if width != name and width.replace(".", "", 1).isdecimal():
        images = tuple(sorted({b.size for b in stems}))
        space = OnceForAll.mobilenet_v3(width=float(width), resolutions=images, **sizes)
    elif name in makers:
        space = makers[name](**sizes)
    else:
        return None, f"this command knows no space {name!r}"
    if table.space.get("fingerprint", space.fingerprint) != space.fingerprint:
        return None, f"{name} is another space now than when {table.name} was made"
    return space, ""


def stems(paths: Sequence[str]) -> list[Path]:
    """Tables (without their ending) in the files and folders given; whole-network tables keep theirs, .csv.gz."""
    places = [Path(p) for p in paths] or [Path(p) for p in PLACES if Path(p).is_dir()]
    found: list[Path] = []
    for place in places:
        if place.is_dir():
            found += sorted({_stem(p) for p in place.rglob("*.json") if is_table(p)})
            found += sorted(p for p in place.rglob("*.csv.gz") if is_whole(p))
        else:
            found.append(_stem(place))
    if not found:
        raise BadInput(f"no latency tables in {', '.join(paths) or ' and '.join(PLACES)}; nas measure makes one")
    return list(dict.fromkeys(found))


def is_table(path: Path) -> bool:
    return path.with_suffix(".csv").exists() and '"calibration"' in path.read_text(errors="replace")


def is_whole(path: Path) -> bool:
    """Whether it is a table of whole networks, such as NAS-Bench-201's."""
    return path.name.endswith(".csv.gz") and about_of(path).exists()


def about_of(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".csv.gz") + ".json")


def _stem(path: Path) -> Path:
    return path.with_suffix("") if path.suffix in (".csv", ".json") else path


def load(paths: Sequence[str]) -> Found:
    from nas.tables.table import LatencyTable

    found = [stem for stem in stems(paths) if not is_whole(stem)]
    if not found:
        raise BadInput(f"{', '.join(paths)}: tables of whole networks have no blocks; nas tables heatmap takes them")
    return [(stem, LatencyTable.load(stem)) for stem in found]


def loadable(paths: Iterable[Path]) -> dict[Path, LatencyTable]:
    from nas.tables.table import LatencyTable

    tables = {}
    for stem in paths:
        try:
            tables[stem] = LatencyTable.load(stem)
        except BadInput:
            continue  # the caller says so
    return tables


def readable(paths: Sequence[str]) -> tuple[Found, list[Path]]:
    """Tables, and tables of whole networks; damaged ones in folders are named on stderr and left out."""
    from nas.tables.table import LatencyTable

    found, whole = [], []
    for stem in stems(paths):
        if is_whole(stem):
            whole.append(stem)
            continue
        try:
            found.append((stem, LatencyTable.load(stem)))
        except BadInput as error:
            if str(stem) in paths or (len(paths) == 1 and _stem(Path(paths[0])) == stem):
                raise
            print(f"note: left out: {error}", file=sys.stderr)
    return found, whole


def sisters(stem: Path, table: LatencyTable | None, besides: Sequence[Path] = ()) -> list[LatencyTable]:
    """The tables of the same space beside ``stem``, to compare with."""
    if table is None or not table.space:
        return []
    beside = {_stem(p) for p in stem.parent.glob("*.json") if is_table(p)} - {stem, *besides}
    return [t for t in loadable(sorted(beside)).values() if t.space == table.space]
