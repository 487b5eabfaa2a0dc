"""Any data set of (image, label): of torch, a DataLoader, of Hugging Face, or a plain list (torch where it is one of torch's)."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from PIL import Image

from nas.checks import FilePath, Seed, Text, checked, shown
from nas.data.cache import cache_folder, spilled
from nas.data.image_files import SPLIT_NAMES, Fit, fitted
from nas.data.images import ImageData, Pixels, memory_for_images
from nas.data.splits import Split, divide, uneven
from nas.data.stored import CHUNK, StoredImages
from nas.errors import BadInput, MissingPackage
from nas.files import first_line

IMAGE_COLUMNS = ("image", "img", "picture", "pixel_values")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target")


@checked
def load_dataset(
    train: Any,
    *,
    val: Any = 0.15,
    test: Any = 0.15,
    classes: Sequence[Text] | None = None,
    size: Pixels | None = None,
    channels: Literal[1, 3] | None = None,
    fit: Fit = "crop",
    columns: tuple[Text, Text] | None = None,
    name: Text = "dataset",
    seed: Seed = 0,
    balance: bool = False,
    max_bytes: Annotated[int, Meta(ge=1)] | None = None,
    cache: FilePath | None = None,
) -> ImageData:
    """Images of a ``torch.utils.data.Dataset`` or ``DataLoader``, a Hugging Face data set or its name, or a list.

    Each gives (image, label) pairs, or mappings with both under ``columns``. An image is a PIL image, or a tensor or
    array ``(c, h, w)``, ``(h, w, c)`` or ``(h, w)``: uint8, or floats in [0, 1], not normalised. A label is the number of
    a class, or one of the texts in ``classes`` (default: the data set's own names). ``val`` and ``test`` are data sets of
    the same kind, or the fractions of ``train`` to split off, honestly: identical images stay together.
    ``size``: pixels at which images are stored (default: theirs, where all are square and alike). The others are as
    ``nas.load_images`` has them. All is read once, here; beyond ``max_bytes`` the pixels go into ``cache``.

    Raises BadInput, one line each, for what holds no such pairs, images of another kind or range, images that differ when
    they are read again (random changes belong to the training); MissingPackage for a name without the extra "datasets".
    """
    given: dict[str, Any] = {"train": train, "val": val, "test": test}
    if isinstance(train, str):
        given = _by_name(train, val, test)
        name = train.rpartition("/")[2] if name == "dataset" else name
    parts = {part: source for part, source in given.items() if not _is_fraction(source, part)}
    if parts.keys() == {"train"} and given["val"] + given["test"] >= 1:
        raise BadInput(f"val and test are fractions that leave something to train on, got {val} and {test}")
    names = tuple(classes) if classes is not None else _names_of(parts["train"], columns)
    if cache is not None:
        cache_folder(cache)  # refused before images are read
    limit = memory_for_images() if max_bytes is None else max_bytes
    how = _Reading(names, columns, size, channels, fit)
    splits = {part: how.split(source, part, limit, cache) for part, source in parts.items()}
    if names is None:
        most = max(int(split.labels.max()) for split in splits.values())
        names = tuple(str(i) for i in range(most + 1))
    shares = {part: given[part] if part not in parts else 0.5 for part in ("val", "test")}
    divided, notes = divide(splits.pop("train"), names, **shares, seed=seed, given=splits)
    return ImageData(
        name=name,
        classes=names,
        train=divided["train"],
        val=divided["val"],
        test=divided["test"],
        source=f"{type(train).__module__}.{type(train).__qualname__}" if name != train else name,
        notes=(*notes, *uneven(divided["train"], names)),
        fit=fit,
        balance=balance,
    )


class _Reading:
    """How the pairs of a data set become a split; the first image says what is not given."""

    def __init__(
        self,
        classes: tuple[str, ...] | None,
        columns: tuple[str, str] | None,
        size: int | None,
        channels: int | None,
        fit: Fit,
    ) -> None:
        self.classes, self.columns, self.size, self.channels, self.fit = classes, columns, size, channels, fit
        self.must_be: tuple[int, int] | None = None  # width and height, where no size is given

    def split(self, source: Any, part: str, limit: int, cache: Any) -> Split:
        """All of ``source``: in memory up to ``limit`` bytes, else in the cache."""
        labels: list[int] = []
        chunks, kept, held = self._chunks(source, part, labels), list[NDArray[np.uint8]](), 0
        for chunk in chunks:
            kept.append(chunk)
            held += chunk.nbytes
            if held > limit:
                break
        if not kept:
            raise BadInput(f"{part} holds no images")
        images: NDArray[np.uint8] | StoredImages
        if held > limit:
            images = spilled(itertools.chain(kept, chunks), folder=cache_folder(cache), shape=kept[0].shape[1:])
        else:
            images = np.concatenate(kept)
        return Split(images=images, labels=np.array(labels, dtype=np.int64))

    def _chunks(self, source: Any, part: str, labels: list[int]) -> Iterator[NDArray[np.uint8]]:
        batch: list[NDArray[np.uint8]] = []
        for i, (image, label) in enumerate(_pairs(source, part, self.columns)):
            what = f"{part}[{i}]"
            batch.append(self._pixels(_picture(image, what), what))
            labels.append(self._label(label, what))
            if len(batch) == CHUNK:
                yield np.stack(batch)
                batch = []
        if batch:
            yield np.stack(batch)

    def _pixels(self, picture: Image.Image, what: str) -> NDArray[np.uint8]:
        if self.channels is None:
            self.channels = 1 if picture.mode in ("1", "L", "LA") or picture.mode.startswith("I") else 3
        if self.size is None:
            if picture.width != picture.height:
                raise BadInput(
                    f"{what} is {picture.width} x {picture.height} pixels; say at which size to store images"
                )
            self.size, self.must_be = picture.width, picture.size
        if self.must_be and picture.size != self.must_be:
            raise BadInput(
                f"{what} is {picture.width} x {picture.height} pixels, others are {self.size} x {self.size}; say at which "
                "size to store images"
            )
        return fitted(picture, self.size, self.channels, self.fit)

    def _label(self, label: Any, what: str) -> int:
        if isinstance(label, str) and self.classes and label in self.classes:
            return self.classes.index(label)
        try:
            return operator.index(label.item() if hasattr(label, "item") else label)
        except (TypeError, ValueError, RuntimeError):
            raise BadInput(f"the label of {what} is the number of a class, got {shown(label)}") from None


def _is_fraction(source: Any, part: str) -> bool:
    if part == "train" or not isinstance(source, int | float):
        return False
    if isinstance(source, bool) or not 0 < source < 1:
        raise BadInput(f"{part} is a data set, or a fraction above 0 to below 1, got {shown(source)}")
    return True


def _by_name(name: str, val: Any, test: Any) -> dict[str, Any]:
    """The splits of a Hugging Face data set; ``val`` and ``test`` as they were given where it has none."""
    try:
        from datasets import load_dataset as load
    except ImportError:
        raise MissingPackage("datasets", "datasets") from None
    try:
        found = load(name)
    except Exception as error:  # of the network, the hub, the file system, the data set's own
        raise BadInput(f"there is no data set {shown(name)} to load: {first_line(error)}") from None
    splits = {SPLIT_NAMES.get(split.lower(), split): rows for split, rows in found.items()}
    if "train" not in splits:
        raise BadInput(f"{name} has no train split; it has {', '.join(found)}")
    return {"train": splits["train"], "val": splits.get("val", val), "test": splits.get("test", test)}


def _names_of(source: Any, columns: tuple[str, str] | None) -> tuple[str, ...] | None:
    """The class names that a data set knows itself, also where it is a part of one, or in a loader."""
    for _ in range(8):
        features = getattr(source, "features", None)
        if isinstance(features, Mapping):
            labels = (columns[1],) if columns else LABEL_COLUMNS
            return next((tuple(features[k].names) for k in labels if hasattr(features.get(k), "names")), None)
        known = getattr(source, "classes", None)
        if isinstance(known, Sequence) and not isinstance(known, str) and all(isinstance(c, str) for c in known):
            return tuple(known)
        source = getattr(source, "dataset", None)
    return None


# ---- pairs -------------------------------------------------------------------------------------------------------


def _pairs(source: Any, part: str, columns: tuple[str, str] | None) -> Iterator[tuple[Any, Any]]:
    """(image, label) of everything in ``source``, in its order."""
    from torch.utils.data import DataLoader

    if isinstance(source, DataLoader):
        for batch in _in_order(source):
            images, labels = _pair(batch, part, columns)
            yield from zip(images, labels, strict=True)
        return
    if hasattr(source, "__len__") and hasattr(source, "__getitem__"):
        if len(source) and not _same(_pair(source[0], part, columns)[0], _pair(source[0], part, columns)[0]):
            raise BadInput(
                f"{part}[0] is another image when it is read again; leave random changes out, training makes its own"
            )
        yield from (_pair(source[i], part, columns) for i in range(len(source)))
    elif isinstance(source, Iterable) and not isinstance(source, str | bytes):
        yield from (_pair(item, part, columns) for item in source)
    else:
        raise BadInput(f"{part} is a data set or DataLoader of (image, label), got {shown(source)}")


def _in_order(loader: Any) -> Iterable[Any]:
    """The batches of a loader, without the shuffling of one that is made for training."""
    from torch.utils.data import DataLoader, RandomSampler

    if not isinstance(loader.sampler, RandomSampler):
        return loader
    return DataLoader(
        loader.dataset, batch_size=loader.batch_size, num_workers=loader.num_workers, collate_fn=loader.collate_fn
    )


def _pair(item: Any, part: str, columns: tuple[str, str] | None) -> tuple[Any, Any]:
    if isinstance(item, Mapping):
        image, label = (
            next((k for k in known if k in item), None)
            for known in (((columns[0],), (columns[1],)) if columns else (IMAGE_COLUMNS, LABEL_COLUMNS))
        )
        if image is None or label is None:
            raise BadInput(f"{part} has columns {', '.join(map(str, item))}; say which by columns=(image, label)")
        return item[image], item[label]
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise BadInput(f"{part} is of (image, label) pairs, got {shown(item)}")
    return item[0], item[1]


def _same(one: Any, other: Any) -> bool:
    return np.asarray(one).tobytes() == np.asarray(other).tobytes()


# ---- images ------------------------------------------------------------------------------------------------------


def _picture(image: Any, what: str) -> Image.Image:
    if isinstance(image, Image.Image):
        from PIL import ImageOps

        return ImageOps.exif_transpose(image)
    if not hasattr(image, "__array__"):
        raise BadInput(f"{what} is a PIL image, a tensor or an array, got {shown(image)}")
    pixels = np.asarray(image.detach().cpu() if hasattr(image, "detach") else image)
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3) and (hasattr(image, "detach") or pixels.shape[2] not in (1, 3)):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if not (pixels.size and (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4)))):
        raise BadInput(
            f"{what} is (channels, h, w), (h, w, channels) or (h, w) with 1 or 3 channels, got {pixels.shape}"
        )
    return Image.fromarray(np.ascontiguousarray(_bytes(pixels, what)))


def _bytes(pixels: NDArray[Any], what: str) -> NDArray[np.uint8]:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind != "f":
        raise BadInput(f"{what} is of uint8, or of floats in [0, 1], got {pixels.dtype}")
    low, high = float(pixels.min()), float(pixels.max())
    if not 0 <= low <= high <= 1:
        raise BadInput(
            f"{what} is of floats from {low:.4g} to {high:.4g}, not in [0, 1]; leave out Normalize, training makes its own"
        )
    return np.round(pixels.astype(np.float32) * 255).astype(np.uint8)
