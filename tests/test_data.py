"""Loading images: layouts, formats, honest splits, bad input."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED
from PIL import Image

import nas
from nas.cli.app import main
from nas.data.folders import look_at
from nas.data.images import ImageData, load_digits, load_images, read_image
from nas.data.splits import Split
from nas.errors import BadInput
from nas.runs.artefacts import read_config


def picture(seed: int, size=(20, 16), mode="RGB") -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def folder_of(root: Path, classes=("cat", "dog", "eel"), each=12, suffix=".png") -> Path:
    for c, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(each):
            picture(1000 * c + i).save(root / name / f"{i}{suffix}")
    return root


def zipped(folder: Path, target: Path, prefix="") -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for p in sorted(folder.rglob("*")):
            if p.is_file():
                archive.write(p, prefix + p.relative_to(folder).as_posix())
        archive.writestr("__MACOSX/._x.png", b"junk")
        archive.writestr(".DS_Store", b"junk")
    return target


def rows(split) -> set[bytes]:
    return {image.tobytes() for image in split.images}


def test_digits_are_split_honestly():
    data = load_digits()
    sizes = [len(s) for s in (data.train, data.val, data.test)]
    assert sum(sizes) == 1797
    assert [round(n / 1797, 2) for n in sizes] == [0.6, 0.2, 0.2]
    assert not rows(data.train) & rows(data.test)
    assert not rows(data.val) & rows(data.test)
    assert not rows(data.train) & rows(data.val)
    for split in (data.train, data.val, data.test):
        share = np.bincount(split.labels) / len(split)
        assert np.abs(share - 0.1).max() < 0.015
    assert load_digits().fingerprint == data.fingerprint != load_digits(seed=1).fingerprint
    pixels = data.train.images / 255
    assert data.mean == pytest.approx(pixels.mean(), abs=1e-5)
    assert data.std == pytest.approx(pixels.std(), abs=1e-4)


@pytest.mark.parametrize("kind", ["folder", "zip", "zip with a folder around"])
def test_layouts_give_the_same_data(tmp_path, kind):
    root = folder_of(tmp_path / "flowers")
    path = {
        "folder": lambda: root,
        "zip": lambda: zipped(root, tmp_path / "flowers.zip"),
        "zip with a folder around": lambda: zipped(root, tmp_path / "flowers.zip", "flowers/"),
    }[kind]()
    data = load_images(path, size=8, val=0.25, test=0.25)
    assert data.classes == ("cat", "dog", "eel")
    assert [len(s) for s in (data.train, data.val, data.test)] == [18, 9, 9]
    assert np.bincount(data.val.labels).tolist() == [3, 3, 3]
    assert data.train.images.shape == (18, 3, 8, 8)
    assert data.fingerprint == load_images(root, size=8, val=0.25, test=0.25).fingerprint
    assert not rows(data.train) & (rows(data.val) | rows(data.test))


def test_given_splits_are_honoured(tmp_path):
    folder_of(tmp_path / "x" / "train")
    folder_of(tmp_path / "x" / "test", each=5)  # the same pictures as the first five in train
    data = load_images(tmp_path / "x", size=8, val=0.2)
    assert len(data.test) == 15
    assert not rows(data.train) & rows(data.test)
    assert any("15 training images that are also test images" in note for note in data.notes)
    folder_of(tmp_path / "more", each=3)
    again = load_images(tmp_path / "x" / "train", size=8, test_path=tmp_path / "more")
    assert len(again.test) == 9


def test_given_validation_and_test_are_kept_whole_but_share_nothing(tmp_path):
    folder_of(tmp_path / "x" / "train")
    for split, first in (("val", 8), ("test", 10)):  # val shares 8 to 11 with train, of which test has 10 and 11
        for c, name in enumerate(("cat", "dog", "eel")):
            (tmp_path / "x" / split / name).mkdir(parents=True)
            for i in range(first, first + 6):
                picture(1000 * c + i).save(tmp_path / "x" / split / name / f"{i}.png")
    data = load_images(tmp_path / "x", size=8)
    assert [len(s) for s in (data.train, data.val, data.test)] == [24, 6, 18]
    assert len(rows(data.train) | rows(data.val) | rows(data.test)) == 48
    assert len(data.notes) == 3


def test_mean_and_deviation_are_of_the_training_images_only(tmp_path):
    for split, shade in (("train", 50), ("val", 200), ("test", 250)):
        for c in range(2):
            (tmp_path / split / str(c)).mkdir(parents=True)
            Image.new("L", (8, 8), shade + c).save(tmp_path / split / str(c) / "x.png")
    data = load_images(tmp_path, size=8, channels=1)
    assert data.mean == pytest.approx(50.5 / 255)
    assert data.std == pytest.approx(0.5 / 255, abs=1e-3)


@pytest.mark.parametrize("size", [0, 8.0, True, "8"])
def test_a_size_is_a_whole_number(tmp_path, size):
    with pytest.raises(BadInput, match="size is a whole number from 1"):
        load_images(tmp_path, size=size)


def test_identical_images_stay_in_one_split(tmp_path):
    root = folder_of(tmp_path / "x", each=10)
    for i in range(10):
        (root / "cat" / f"copy{i}.png").write_bytes((root / "cat" / f"{i}.png").read_bytes())
    data = load_images(root, size=8, val=0.3, test=0.3)
    assert sum(len(s) for s in (data.train, data.val, data.test)) == 40
    for a, b in ((data.train, data.val), (data.train, data.test), (data.val, data.test)):
        assert not rows(a) & rows(b)
    assert data.notes == ("10 images that are copies of others were put into the same split as the first",)
    (root / "dog" / "copy.png").write_bytes((root / "cat" / "0.png").read_bytes())
    again = load_images(root, size=8, val=0.3, test=0.3)
    assert again.notes[1] == "1 of these copies lie in another class than the first"
    for a, b in ((again.train, again.val), (again.train, again.test), (again.val, again.test)):
        assert not rows(a) & rows(b)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "LA", "1", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_of_image_is_read(tmp_path, mode, channels):
    plain = picture(0, (30, 30))
    if mode == "I;16":
        Image.fromarray(np.asarray(plain.convert("L")).astype(np.uint16) * 256).save(tmp_path / "x.png")
    else:
        plain.convert(mode).save(tmp_path / "x.png")
    pixels = read_image(tmp_path / "x.png", 30, channels)
    assert pixels.shape == (channels, 30, 30)
    if mode in ("L", "I;16", "LA"):
        expected = np.asarray(plain.convert("L"))
        assert np.abs(pixels[0].astype(int) - expected).max() <= 1


def test_crop_is_central_and_exif_is_honoured(tmp_path):
    wide = Image.new("RGB", (30, 10))
    wide.paste((255, 0, 0), (10, 0, 20, 10))
    wide.save(tmp_path / "wide.png")
    assert (read_image(tmp_path / "wide.png", 10, 3)[0] == 255).all()
    image = Image.new("L", (20, 20))
    image.paste(255, (0, 0, 20, 10))  # white above, but the camera lay on its side
    exif = image.getexif()
    exif[0x0112] = 3  # turn by 180 degrees
    image.save(tmp_path / "turned.jpg", exif=exif, quality=100)
    pixels = read_image(tmp_path / "turned.jpg", 20, 1)[0]
    assert pixels[:8].max() < 30
    assert pixels[12:].min() > 220


def encrypted(path: Path) -> Path:
    """The zip with the flags of encrypted entries."""
    data = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(signature)
        while at >= 0:
            data[at + flags] |= 1
            at = data.find(signature, at + 1)
    path.write_bytes(data)
    return path


def test_odd_entries_of_a_zip_are_ignored(tmp_path):
    root = folder_of(tmp_path / "x")
    picture_bytes = (root / "cat" / "0.png").read_bytes()
    with zipfile.ZipFile(zipped(root, tmp_path / "x.zip"), "a") as archive:
        for name in ("../up/1.png", "a/../../up/1.png", "/top/1.png", "C:/top/1.png", "__MACOSX/cat/._1.png"):
            entry = zipfile.ZipInfo("x")
            entry.filename = name  # the constructor would clean it
            archive.writestr(entry, picture_bytes)
        link = zipfile.ZipInfo("cat/link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    assert load_images(tmp_path / "x.zip", size=8).fingerprint == load_images(root, size=8).fingerprint
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x", "x.zip"]  # nothing was extracted


def test_zips_of_windows_tools_are_read(tmp_path):
    root = folder_of(tmp_path / "x")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for p in sorted(root.rglob("*.png")):
            archive.write(p, str(p.relative_to(root)).replace("/", "\\"))
    assert load_images(tmp_path / "x.zip", size=8).fingerprint == load_images(root, size=8).fingerprint


def test_linked_class_folders_are_followed_but_not_in_circles(tmp_path):
    folder_of(tmp_path / "x", classes=("cat",))
    folder_of(tmp_path / "elsewhere", classes=("ant", "dog"))  # other pictures than the cats
    (tmp_path / "x" / "dog").symlink_to(tmp_path / "elsewhere" / "dog")
    (tmp_path / "x" / "cat" / "loop").symlink_to(tmp_path / "x")
    data = load_images(tmp_path / "x", size=8)
    assert data.classes == ("cat", "dog")
    assert len(data.train) + len(data.val) + len(data.test) == 24


def test_every_spelling_of_the_suffixes_is_read_and_the_rest_is_counted(tmp_path):
    for i, suffix in enumerate((".jpg", ".JPG", ".jpeg", ".JPEG", ".png", ".PNG")):
        for c in ("cat", "dog"):
            (tmp_path / "x" / c).mkdir(parents=True, exist_ok=True)
            picture(10 * i + (c == "dog")).save(tmp_path / "x" / c / f"{i}{suffix}")
    (tmp_path / "x" / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "x" / "LICENSE").write_text("beside the classes")
    data = load_images(tmp_path / "x", size=8)
    assert len(data.train) + len(data.val) + len(data.test) == 12
    assert data.notes == ("1 files that are not .jpg, .jpeg or .png were ignored: cat/notes.txt",)


def test_only_the_test_folder_of_a_second_path_is_used(tmp_path):
    folder_of(tmp_path / "a")
    for name, start in (("train", 40), ("test", 50)):
        for c in ("cat", "dog", "eel"):
            (tmp_path / "b" / name / c).mkdir(parents=True)
            for i in range(4):
                picture(start * 100 + i + ord(c[0]) * 7).save(tmp_path / "b" / name / c / f"{i}.png")
    data = load_images(tmp_path / "a", size=8, test_path=tmp_path / "b")
    theirs = load_images(tmp_path / "b", size=8)
    assert len(data.test) == 12
    assert rows(data.test) == rows(theirs.test)
    with pytest.raises(BadInput, match="has test images of its own"):
        load_images(tmp_path / "b", size=8, test_path=tmp_path / "a")


def test_huge_images_are_refused_before_they_are_decoded(tmp_path):
    Image.new("1", (9500, 9500)).save(tmp_path / "bomb.png")
    with pytest.raises(BadInput, match="does not decode"):
        read_image(tmp_path / "bomb.png", 8, 1)
    Image.new("L", (2_000_000, 1)).save(tmp_path / "thread.png")  # small, but 8 billion pixels once resized
    with pytest.raises(BadInput, match="2000000 x 1 pixels are too many at 64 px"):
        read_image(tmp_path / "thread.png", 64, 1)
    root = folder_of(tmp_path / "x")
    (tmp_path / "bomb.png").rename(root / "cat" / "bomb.png")
    with pytest.raises(BadInput, match=r"cat/bomb.png: .* pixels are too many"):  # and no warning of Pillow's
        load_images(root, size=8)


def test_preprocessing_is_json_and_exact():
    data = load_digits()
    record = json.loads(json.dumps(data.preprocessing(16)))
    assert (record["load_size"], record["size"], record["channels"]) == (8, 16, 1)
    assert np.array_equal(np.float32(record["mean"]), data.mean)
    assert np.array_equal(np.float32(record["std"]), data.std)


def some(n=12, seed=0, **changed):
    """A split of ``n`` random images of three classes; ``changed`` replaces images or labels."""
    images = np.random.default_rng(seed).integers(0, 256, (n, 3, 8, 8), dtype=np.uint8)
    return Split(**{"images": images, "labels": np.arange(n) % 3} | changed)


def data_of(**changed):
    splits = {name: some(seed=i) for i, name in enumerate(("train", "val", "test"))}
    return ImageData(**{"name": "mine", "classes": ("ant", "bee", "cow")} | splits | changed)


def test_own_arrays_make_data_that_print_in_a_line():
    data = data_of(train=some(1200, labels=(np.arange(1200) % 3).astype(np.uint8)))
    assert data.train.labels.dtype == np.int64
    assert repr(data) == "ImageData('mine': 3 classes, images 1,200 train, 12 val, 12 test, 3 x 8 x 8)"
    assert repr(data.val) == "Split(12 images of 3 x 8 x 8)"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: some(images=np.random.default_rng(0).random((12, 3, 8, 8))), r"uint8, black 0 .*, got float64 from 0\.\d+ to"),
        (lambda: some(images=np.zeros((12, 3, 8, 8), np.int64)), "uint8, .*, got int64 from 0 to 0"),
        (lambda: some(images=[[1]]), "a numpy array of uint8"),
        (lambda: some(images=np.zeros((12, 8, 8, 3), np.uint8)), r"shape \(n, channels, size, size\), got \(12, 8, 8, 3\)"),
        (lambda: some(images=np.zeros((12, 8, 8), np.uint8)), "have shape"),
        (lambda: some(images=np.zeros((12, 0, 8, 8), np.uint8)), "have shape"),
        (lambda: some(labels=np.zeros(11, int)), r"of shape \(12,\), one for each image, got int64 of shape \(11,\)"),
        (lambda: some(labels=np.zeros(12)), "whole numbers"),
        (lambda: data_of(train=some(labels=np.arange(12) % 4)), "labels of train go from 0 to 3, but 3 classes have labels 0 to 2"),
        (lambda: data_of(test=some(seed=9, labels=np.arange(12) % 3 - 1)), "labels of test go from -1 to 1"),
        (lambda: data_of(val=some(0)), "no images in val"),
        (lambda: data_of(val=some(images=np.zeros((12, 1, 8, 8), np.uint8))), r"images of val have shape \(1, 8, 8\), of train"),
        (lambda: data_of(test=some(5, seed=1)), "5 images of val are also in test"),
        (lambda: data_of(test=some(images=np.repeat(some(1).images, 12, 0))), "12 images of test are also in train|1 images of train"),
        (lambda: data_of(classes=("ant", "ant", "cow")), "at least two different names"),
        (lambda: data_of(classes="abc"), "classes is a tuple, each a text"),
        (lambda: data_of(val=np.zeros(3)), "val is"),
    ],
)  # fmt: skip
def test_wrong_arrays_are_one_line(make, message):
    with pytest.raises(BadInput, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["a" * 300, "a\0b", "/dev/zero"])
def test_paths_that_lead_to_no_images_are_one_line(path):
    with pytest.raises(BadInput, match=r"does not exist; give a folder|path that is not empty"):
        load_images(path, size=8)
    with pytest.raises(BadInput, match="path is"):
        load_images("", size=8)


@pytest.mark.parametrize("setting", [{"channels": 2}, {"val": 0.0}, {"test": float("nan")}, {"val": 0.6, "test": 0.5}, {"seed": -1}, {"max_bytes": 0}])  # fmt: skip
def test_settings_out_of_range_are_one_line(tmp_path, setting):
    with pytest.raises(BadInput, match=next(iter(setting))):
        load_images(folder_of(tmp_path / "x"), **{"size": 8} | setting)


def test_damaged_zips_are_one_line_or_skipped(tmp_path):
    whole = zipped(folder_of(tmp_path / "x"), tmp_path / "x.zip").read_bytes()
    rng, refused = np.random.default_rng(0), []
    for i in range(30):
        content = bytearray(whole)
        for at in rng.integers(0, len(content), 20):
            content[at] = rng.integers(256)
        (tmp_path / "damaged.zip").write_bytes(content[: rng.integers(1, len(content))] if i % 3 == 0 else content)
        for skip in (False, True):
            try:
                load_images(tmp_path / "damaged.zip", size=8, skip_bad=skip)
            except BadInput as error:
                refused.append(str(error))
    assert refused
    assert not any("\n" in text for text in refused)
    (tmp_path / "outer.zip").unlink(missing_ok=True)
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
        archive.write(tmp_path / "x.zip", "inner/x.zip")
    with pytest.raises(BadInput, match="holds no images"):
        load_images(tmp_path / "outer.zip", size=8)


def damaged_image(root):
    (root / "cat" / "bad.png").write_bytes(b"\x89PNG\r\n not really")


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda p: p / "nowhere", "does not exist"),
        (lambda p: (p / "x.zip").write_bytes(b"zip?") and p / "x.zip", "neither a folder nor a readable .zip"),
        (lambda p: (p / "empty").mkdir() or p / "empty", "holds no images"),
        (lambda p: folder_of(p / "one", classes=("cat",)), "1 class folder"),
        (lambda p: folder_of(p / "few", each=2), "too few to split"),
        (lambda p: (folder_of(p / "x"), picture(0).save(p / "x" / "loose.png"))[0], "loose.png lies in no class folder"),
        (lambda p: (folder_of(p / "x"), damaged_image(p / "x"))[0], "cat/bad.png: does not decode"),
        (lambda p: (folder_of(p / "x/train"), folder_of(p / "x/test", classes=("cow",)))[0].parent, "'cow' has no training"),
        (lambda p: (folder_of(p / "x"), (p / "x/fox").mkdir())[0], "class folder fox holds no images"),
        (lambda p: (folder_of(p / "x/train"), (p / "x/train/fox").mkdir())[0].parent, "class folder train/fox holds no"),
        (lambda p: (folder_of(p / "x/train"), folder_of(p / "x/extra"))[0].parent, "'extra' lies beside 'train'"),
        (lambda p: (folder_of(p / "x/val"), folder_of(p / "x/test"))[0].parent, "test and val folders but no train"),
        (lambda p: encrypted(zipped(folder_of(p / "x"), p / "x.zip")), "cat/0.png is encrypted"),
        (lambda p: (folder_of(p / "x"), (p / "x/cat/0.png").write_bytes(b""))[0], "cat/0.png: does not decode"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(tmp_path, prepare, message):
    with pytest.raises(BadInput, match=message) as caught:
        load_images(prepare(tmp_path), size=8)
    assert "\n" not in str(caught.value)


def test_bad_images_are_skipped_on_request_and_counted(tmp_path):
    root = folder_of(tmp_path / "x")
    damaged_image(root)
    data = load_images(root, size=8, skip_bad=True)
    assert sum(len(s) for s in (data.train, data.val, data.test)) == 36
    assert data.notes == ("1 images that do not decode were skipped: cat/bad.png",)


def test_truncated_files_are_bad_input():
    buffer = io.BytesIO()
    picture(0, (200, 200)).save(buffer, "JPEG")
    with pytest.raises(BadInput, match="does not decode"):
        read_image(io.BytesIO(buffer.getvalue()[:1000]), 8, 3)


@pytest.mark.skipif(not (SHARED / "cifar10").exists(), reason="CIFAR-10 is not in ../shared/data")
def test_cifar_as_a_zip():
    data = load_images(SHARED / "cifar10" / "test.zip", size=32)
    assert len(data.classes) == 10
    assert len(data.train) + len(data.val) + len(data.test) == 10_000
    assert data.train.images.shape[1:] == (3, 32, 32)


# ---- rectangles, groups, uneven classes --------------------------------------------------------------------------


def test_a_rectangle_is_cropped_padded_or_squashed(tmp_path):
    wide = Image.new("RGB", (30, 10), (255, 0, 0))
    wide.paste((0, 0, 255), (10, 0, 20, 10))
    wide.save(tmp_path / "wide.png")
    crop, pad, squash = (read_image(tmp_path / "wide.png", 12, 3, fit) for fit in ("crop", "pad", "squash"))
    assert (crop[2, :, 1:-1] == 255).all()  # the blue middle
    assert (pad[:, :4] == 128).all()
    assert (pad[:, 8:] == 128).all()
    for image in (pad[:, 4:8], squash):
        assert (image[0, :, :3] == 255).all()
        assert (image[2, :, 5:7] == 255).all()
        assert (image[0, :, -3:] == 255).all()
    tall = tmp_path / "tall.png"
    wide.transpose(Image.Transpose.TRANSPOSE).save(tall)
    assert np.array_equal(read_image(tall, 12, 3, "pad"), pad.transpose(0, 2, 1))
    assert read_image(tall, 40, 1, "pad")[0, :, :10].tolist() == [[128] * 10] * 40


def test_photos_of_one_object_stay_in_one_split(tmp_path):
    for c, name in enumerate(("cat", "dog")):
        (tmp_path / "x" / name).mkdir(parents=True)
        for i in range(60):
            picture(100 * c + i).save(tmp_path / "x" / name / f"animal{i // 5}_{i % 5}.png")  # 12 animals, both classes
    root = tmp_path / "x"

    def animals(data, split):
        pixels = {image.tobytes() for image in getattr(data, split).images}
        return {p.name.split("_")[0] for p in root.rglob("*.png") if read_image(p, 8, 3).tobytes() in pixels}

    for groups in (r"(animal\d+)_", lambda where: where.name.split("_")[0]):
        data = load_images(root, size=8, val=0.2, test=0.2, groups=groups)
        sets = [animals(data, split) for split in ("train", "val", "test")]
        assert sum(map(len, sets)) == len(set.union(*sets)) == 12
        assert 20 <= len(data.test) <= 40
    mixed = load_images(root, size=8, val=0.2, test=0.2)
    assert sum(len(animals(mixed, split)) for split in ("train", "val", "test")) > 12  # what groups are for
    given = tmp_path / "given"
    (given / "test").mkdir(parents=True)
    root.rename(given / "train")
    for c, name in enumerate(("cat", "dog")):
        (given / "test" / name).mkdir()
        picture(5000 + c).save(given / "test" / name / "animal3_9.png")  # another photo of animal 3
    data = load_images(given, size=8, groups=r"animal\d+")
    assert len(data.train) + len(data.val) == 110
    assert data.notes[0] == (
        "10 training images that are also test images (or of a group that has some there) were dropped from training"
    )
    with pytest.raises(BadInput, match="groups 'zebra' matches none of the files, such as"):
        load_images(given, size=8, groups="zebra")
    with pytest.raises(BadInput, match=r"groups is a regular expression, got '\(': missing"):
        load_images(given, size=8, groups="(")


def test_files_without_a_match_are_by_themselves(tmp_path):
    root = folder_of(tmp_path / "x")
    for name in ("cat", "dog", "eel"):
        (root / name / "0.png").rename(root / name / "same_0.png")
    data = load_images(root, size=8, groups="same")
    assert [len(s) for s in (data.train, data.val, data.test)] != [36, 0, 0]
    assert len(np.unique(np.concatenate([s.groups for s in (data.train, data.val, data.test)]))) == 34


def test_groups_that_are_in_two_splits_are_refused():
    apart = {"train": np.arange(12), "val": np.arange(12, 24), "test": np.arange(24, 36)}
    splits = {name: some(seed=i, groups=groups) for i, (name, groups) in enumerate(apart.items())}
    data_of(**splits)
    with pytest.raises(BadInput, match="12 images of val are also in test"):
        data_of(**splits | {"test": some(seed=2, groups=np.arange(12, 24))})


def test_uneven_classes_are_told_and_can_be_balanced(tmp_path):
    root = folder_of(tmp_path / "x", classes=("cat", "dog"), each=60)
    for i in range(10, 60):
        (root / "dog" / f"{i}.png").unlink()
    plain, data = load_images(root, size=8), load_images(root, size=8, balance=True)
    assert plain.notes[0].startswith("classes are uneven, from 7 training images (dog) to 42 (cat): balance")
    rng = np.random.default_rng(0)
    assert sorted(plain.epoch_rows(rng)) == list(range(49))
    rows = data.epoch_rows(rng)
    times = np.bincount(rows, minlength=49)
    assert sorted(np.bincount(data.train.labels[rows])) == [24, 25]
    assert set(times[data.train.labels == 1]) <= {3, 4}  # every dog as often as the others
    assert times[data.train.labels == 0].max() == 1
    assert data.fingerprint != plain.fingerprint
    assert not load_images(folder_of(tmp_path / "even"), size=8).notes


def test_balanced_accuracy_does_not_speak_for_the_large_class():
    import torch

    class AlwaysAnt(torch.nn.Module):
        input_shape = (3, 8, 8)

        def forward(self, x):
            return torch.tensor([1.0, 0.0, 0.0]).expand(len(x), 3)

    data = data_of(test=some(seed=2, labels=np.array([0] * 9 + [1, 1, 2])))
    assert nas.balanced_accuracy(AlwaysAnt(), data.test, data) == pytest.approx(1 / 3)
    two = data_of(test=some(seed=2, labels=np.array([0] * 9 + [1] * 3)))  # a class without images counts for nothing
    assert nas.balanced_accuracy(AlwaysAnt(), two.test, two) == pytest.approx(1 / 2)


# ---- what fits the images ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "mode", "flags", "chosen"),
    [
        (20, "L", [], ("mobilenet_v3.digits", 20, 1)),
        (36, "RGB", [], ("mobilenet_v3.cifar", 36, 3)),
        (300, "RGB", [], ("mobilenet_v2.photos", 96, 3)),
        (300, "L", ["--channels", "3"], ("mobilenet_v2.photos", 96, 3)),
        (300, "RGB", ["--size", "40"], ("mobilenet_v3.cifar", 40, 3)),
        (300, "RGB", ["--space", "mobilenet_v2.digits"], ("mobilenet_v2.digits", 32, 3)),
    ],
)  # fmt: skip
def test_a_space_that_fits_the_images(tmp_path, monkeypatch, capsys, side, mode, flags, chosen):
    root = tmp_path / "photos"
    for c, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for i in range(4):
            picture(10 * c + i, (side + i, side), mode).save(root / name / f"{i}.png")
    monkeypatch.setattr("nas.runs.stages._do", lambda stage, job: None)
    assert main(["train", "--run-dir", str(tmp_path / "run"), "--data", str(root), *flags]) == 0
    config = read_config(tmp_path / "run")
    space, data = config.space.made_by.arguments, config.data.made_by.arguments
    assert (space["space"], data["size"], data["channels"]) == chosen
    assert space["classes"] == 2
    told = [line for line in capsys.readouterr().out.splitlines() if "8 images of 2 classes" in line]
    assert len(told) == 1
    assert f"space {chosen[0]}, images stored at {chosen[1]} px" in told[0]


def test_a_look_reads_headers_only(tmp_path):
    root = folder_of(tmp_path / "x")
    (root / "cat" / "0.png").write_bytes((root / "cat" / "0.png").read_bytes()[:60])  # a header, and hardly more
    (root / "cat" / "1.png").write_bytes(b"nothing")
    seen = look_at(root)
    assert (seen.images, seen.classes, seen.side, seen.channels) == (36, 3, 16, 3)
