"""Data sets of other libraries: the same pixels and labels, whatever form they come in."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

import nas
from nas.data.stored import StoredImages
from nas.errors import BadInput, MissingPackage

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 12, 12, 3), dtype=np.uint8)
LABELS = np.arange(60) % 3


class Pairs(Dataset):
    """(image, label) in a form of torch's; no ``__iter__``, and no IndexError at the end."""

    classes = ("ant", "bee", "cow")

    def __init__(self, form, pixels=PIXELS):
        self.form, self.pixels = form, pixels

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, i):
        return self.form(self.pixels[i]), int(LABELS[i])


class Stream(IterableDataset):
    def __iter__(self):
        return iter(Pairs(Image.fromarray)[i] for i in range(60))


def tensor(image):
    return torch.from_numpy(image).permute(2, 0, 1)


def huggingface():
    import datasets

    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=list(Pairs.classes))})
    rows = {"img": [Image.fromarray(image) for image in PIXELS], "label": LABELS.tolist()}
    return datasets.Dataset.from_dict(rows, features=features)


FORMS = {
    "PIL images": lambda: Pairs(Image.fromarray),
    "uint8 tensors": lambda: Pairs(tensor),
    "float tensors": lambda: Pairs(lambda image: tensor(image).float() / 255),
    "uint8 arrays": lambda: Pairs(lambda image: image),
    "double arrays": lambda: Pairs(lambda image: image / 255),
    "numpy labels": lambda: [(image, np.int32(label)) for image, label in zip(PIXELS, LABELS, strict=True)],
    "texts for labels": lambda: [(image, Pairs.classes[label]) for image, label in zip(PIXELS, LABELS, strict=True)],
    "a loader": lambda: DataLoader(Pairs(tensor), batch_size=7),
    "a loader that shuffles": lambda: DataLoader(Subset(Pairs(tensor), range(60)), batch_size=7, shuffle=True, drop_last=True),
    "an iterable": Stream,
    "mappings": lambda: [{"picture": image, "class": label} for image, label in zip(PIXELS, LABELS, strict=True)],
    "Hugging Face": huggingface,
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what datasets imports
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_data(form):
    expected = nas.load_dataset(Pairs(Image.fromarray), val=0.2, test=0.2)
    assert np.array_equal(np.sort(expected.train.images.ravel())[:5], [0] * 5)
    both = np.concatenate([split.images for split in (expected.train, expected.val, expected.test)])
    assert {image.tobytes() for image in both} == {image.transpose(2, 0, 1).tobytes() for image in PIXELS}
    named = form in ("texts for labels", "numpy labels", "an iterable", "mappings")
    data = nas.load_dataset(FORMS[form](), val=0.2, test=0.2, classes=Pairs.classes if named else None)
    assert data.classes == Pairs.classes
    assert data.fingerprint == expected.fingerprint


def test_given_splits_sizes_and_channels(tmp_path):
    data = nas.load_dataset(
        Pairs(tensor, PIXELS[:30]), val=Pairs(tensor, PIXELS[30:45]), test=Pairs(tensor, PIXELS[45:])
    )
    assert [len(split) for split in (data.train, data.val, data.test)] == [30, 15, 15]
    half = nas.load_dataset(Pairs(tensor), test=Pairs(tensor, PIXELS[:9]), size=8, channels=1, name="mine")
    assert (len(half.test), half.channels, half.size, half.name) == (9, 1, 8, "mine")
    assert "9 training images that are also test images" in half.notes[0]
    grey = nas.load_dataset([(torch.full((1, 4, 4), i / 30), i % 2) for i in range(30)])
    assert (grey.channels, grey.size, grey.classes) == (1, 4, ("0", "1"))
    assert sorted(np.concatenate([s.images[:, 0, 0, 0] for s in (grey.train, grey.val, grey.test)])) == [
        round(i * 255 / 30) for i in range(30)
    ]


def test_what_is_too_large_for_memory_is_on_the_disk(tmp_path):
    plain = nas.load_dataset(Pairs(tensor))
    large = nas.load_dataset(Pairs(tensor), max_bytes=2000, cache=tmp_path)
    assert isinstance(large.train.images, StoredImages)
    assert large.fingerprint == plain.fingerprint
    assert len(list(tmp_path.iterdir())) == 1


def test_by_name(monkeypatch):
    pytest.importorskip("datasets")
    rows = huggingface()

    def load(name):
        if name != "someone/animals":
            raise FileNotFoundError("no such\nthing")
        return {"train": rows, "validation": rows.select(range(12))}

    monkeypatch.setattr("datasets.load_dataset", load)
    data = nas.load_dataset("someone/animals")
    assert (data.name, len(data.val), data.classes) == ("animals", 12, Pairs.classes)
    with pytest.raises(BadInput, match=r"no data set .other. to load: no such$"):
        nas.load_dataset("other")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingPackage, match=r"pip install 'nas\[datasets\]'"):
        nas.load_dataset("someone/animals")


def noise(image):
    return torch.rand(3, 12, 12)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda: Pairs(lambda image: (tensor(image) - 127.0) / 60), r"train\[0\] is of floats from -2\.\d+ to .*leave out Normalize"),
        (lambda: Pairs(lambda image: tensor(image).float()), r"floats from 0 to 25\d, not in \[0, 1\]"),
        (lambda: Pairs(lambda image: image.astype(int)), "of uint8, or of floats in .*, got int64"),
        (lambda: Pairs(lambda image: np.full((3, 4, 4), np.nan)), "floats from nan"),
        (lambda: Pairs(lambda image: np.zeros((5, 4, 5))), r"got \(5, 4, 5\)"),
        (lambda: Pairs(lambda image: np.zeros((3, 0, 4))), "with 1 or 3 channels"),
        (lambda: Pairs(lambda image: "a.png"), "a PIL image, a tensor or an array, got 'a.png'"),
        (lambda: Pairs(noise), "another image when it is read again"),
        (lambda: [(PIXELS[0], 0.5)] * 9, "the label of .* is the number of a class, got 0.5"),
        (lambda: [(PIXELS[0], torch.zeros(3))] * 9, "the number of a class, got tensor"),
        (lambda: [(PIXELS[0], "fox")] * 9, "the number of a class, got 'fox'"),
        (lambda: [(PIXELS[0], 0, 1)] * 9, r"\(image, label\) pairs"),
        (lambda: [{"x": PIXELS[0], "y": 0}] * 9, "has columns x, y; say which by columns"),
        (lambda: [(PIXELS[0][:9], 0)] * 9, "is 12 x 9 pixels; say at which size"),
        (lambda: [(PIXELS[0], 0), (PIXELS[0][:8, :8], 1)], r"train\[1\] is 8 x 8 pixels, others are 12 x 12"),
        (lambda: [], "train holds no images"),
        (lambda: 3, "a data set or DataLoader of"),
        (lambda: Pairs(Image.fromarray, PIXELS[:4]), "too few to split"),
    ],
)  # fmt: skip
def test_what_is_no_data_set_of_images_is_one_line(source, message):
    with pytest.raises(BadInput, match=message) as refused:
        nas.load_dataset(source())
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "wrong", [{"val": 0}, {"test": 1.5}, {"val": True}, {"val": 0.6, "test": 0.6}, {"classes": "abc"}]
)
def test_wrong_fractions_and_names_are_one_line(wrong):
    with pytest.raises(BadInput, match=next(iter(wrong))):
        nas.load_dataset(Pairs(tensor), **wrong)


def test_an_error_of_the_data_set_is_its_own(tmp_path: Path):
    def broken(image):
        raise LookupError("of the user")

    with pytest.raises(LookupError, match="of the user"):
        nas.load_dataset(Pairs(broken))
