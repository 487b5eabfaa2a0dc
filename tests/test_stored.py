"""Images that are too many for memory: the cache, what is left after a crash, and the same training from anywhere."""

from __future__ import annotations

import errno
import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from test_data import data_of, folder_of, picture, zipped

from nas.blocks import Head, Stem
from nas.data import cache
from nas.data.decoding import ImageFiles
from nas.data.feed import feed
from nas.data.images import ImageData, load_images
from nas.data.stored import PixelFile, StoredImages
from nas.errors import BadInput
from nas.modules import Network
from nas.training.augment import Augment
from nas.training.evaluate import validation_accuracy
from nas.training.loop import fit, supervised
from nas.training.recipe import Recipe
from nas.training.weights import Checkpoint


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    root = folder_of(tmp_path_factory.mktemp("photos") / "x", each=30)
    for i in range(4):  # copies across classes, so that dividing has something to find
        (root / "dog" / f"copy{i}.png").write_bytes((root / "cat" / f"{i}.png").read_bytes())
    (root / "eel" / "bad.png").write_bytes(b"not an image")
    return root


def loaded(photos: Path, kind: str, folder: Path, monkeypatch=None, **settings) -> ImageData:
    """The same data ``kind`` of way: kept in memory, in the cache, or decoded whenever it is read."""
    settings = {"size": 12, "skip_bad": True, "cache": folder} | settings
    if kind == "memory":
        return load_images(photos, **settings)
    with pytest.MonkeyPatch.context() as patch:
        if kind == "files":
            patch.setattr(cache, "_free", lambda folder: 1000)
        return load_images(photos, **settings, max_bytes=1000)


def source_of(data: ImageData) -> type:
    return type(data.train.images.source) if isinstance(data.train.images, StoredImages) else np.ndarray


@pytest.mark.parametrize(("kind", "source"), [("cache", PixelFile), ("files", ImageFiles)])
def test_images_are_the_same_wherever_they_are(photos, tmp_path, kind, source):
    plain, other = loaded(photos, "memory", tmp_path), loaded(photos, kind, tmp_path)
    assert (source_of(plain), source_of(other)) == (np.ndarray, source)
    assert other.fingerprint == plain.fingerprint
    assert other.notes == plain.notes
    for statistic in ("mean", "std"):
        assert np.array_equal(getattr(other, statistic), getattr(plain, statistic))
    for name in ("train", "val", "test"):
        mine, its = getattr(other, name), getattr(plain, name)
        assert np.array_equal(np.asarray(mine.images), its.images)
        assert np.array_equal(mine.images[3:7], its.images[3:7])
        assert np.array_equal(mine.images[np.array([5, 0, 1, 2])], its.images[[5, 0, 1, 2]])
        assert np.array_equal(mine.images[-1], its.images[-1])
        assert np.array_equal(mine.take(np.array([4, 2])).images[:], its.images[[4, 2]])
        assert np.array_equal(mine.labels, its.labels)
        assert mine.hashes == its.hashes
        assert repr(mine) == repr(its)


def test_the_cache_is_found_again_until_an_image_changes(photos, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="nas")
    first = loaded(photos, "cache", tmp_path / "c")
    assert f"go into the cache {first.train.images.source.path}" in caplog.text
    decoded = ImageFiles.chunks
    monkeypatch.setattr(ImageFiles, "chunks", lambda *_: pytest.fail("decoded again"))
    again = loaded(photos, "cache", tmp_path / "c")
    assert again.fingerprint == first.fingerprint
    assert again.notes == first.notes
    assert "come from the cache" in caplog.text
    monkeypatch.setattr(ImageFiles, "chunks", decoded)
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", photos, copy], check=True)
    other = loaded(copy, "cache", tmp_path / "c")
    picture(7777).save(copy / "cat" / "5.png")
    assert loaded(copy, "cache", tmp_path / "c").fingerprint != other.fingerprint == first.fingerprint
    assert loaded(copy, "cache", tmp_path / "c", fit="squash").fingerprint != first.fingerprint
    assert len(list((tmp_path / "c").glob("*.u8"))) == 4


@pytest.mark.parametrize("damage", ["no index", "index", "short pixels"])
def test_a_damaged_cache_is_made_again(photos, tmp_path, damage):
    first = loaded(photos, "cache", tmp_path)
    (pixels,), (index,) = tmp_path.glob("*.u8"), tmp_path.glob("*.npz")
    if damage == "no index":
        index.unlink()
    elif damage == "index":
        index.write_bytes(index.read_bytes()[:200])
    else:
        os.truncate(pixels, 1000)
        with pytest.raises(BadInput, match="it is too short"):
            first.train.images[:]
    assert np.array_equal(
        loaded(photos, "cache", tmp_path).train.images[:], loaded(photos, "memory", tmp_path).train.images
    )


def test_a_zip_is_cached_and_read_by_processes(photos, tmp_path):
    path = zipped(photos, tmp_path / "x.zip")
    plain = loaded(path, "memory", tmp_path)
    assert loaded(path, "cache", tmp_path).fingerprint == plain.fingerprint
    files = loaded(path, "files", tmp_path / "other")
    rows = [torch.arange(8), torch.tensor([3, 60, 1])]
    for mine, chosen in zip(feed(files.train, "cpu")(rows), rows, strict=True):
        assert np.array_equal(mine.numpy(), plain.train.images[chosen.numpy()])


def test_a_full_disk_is_one_line_and_leaves_nothing(photos, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("posix_fallocate", "fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(BadInput, match=r"cannot write the cache .*No space left.*--cache") as refused:
                loaded(photos, "cache", tmp_path / "c")
        assert "\n" not in str(refused.value)
        assert not [p for p in (tmp_path / "c").iterdir() if p.suffix != ".npz"]
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="is a file; name a folder"):
        loaded(photos, "cache", tmp_path / "file")


KILLED = """
import sys, time
from nas.data import decoding, images
read = decoding.read_image
def slow(*a):
    time.sleep(0.02)
    return read(*a)
decoding.read_image, decoding.CHUNK = slow, 8
print("begins", flush=True)
images.load_images(sys.argv[1], size=12, skip_bad=True, cache=sys.argv[2], max_bytes=1000)
print("ends", flush=True)
"""


def test_a_killed_decode_leaves_nothing_half_and_another_process_is_waited_for(photos, tmp_path):
    def begun():
        process = subprocess.Popen([sys.executable, "-c", KILLED, photos, tmp_path], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "begins\n"
        while not list(tmp_path.glob(".*.part")):
            assert process.poll() is None
            time.sleep(0.005)
        return process

    plain = loaded(photos, "memory", tmp_path)
    killed = begun()
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert [p.suffix for p in tmp_path.iterdir()] == [".part"]  # nothing that looks whole
    working = begun()
    assert loaded(photos, "cache", tmp_path).fingerprint == plain.fingerprint  # waits
    assert working.communicate()[0] == "ends\n"
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".npz", ".u8"]
    (tmp_path / ".other.u8.part").write_bytes(b"of a process that is gone")
    loaded(photos, "cache", tmp_path)
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".npz", ".u8"]


def trained(data: ImageData, checkpoint=None, on_step=None) -> tuple[list[float], list[torch.Tensor], float]:
    torch.manual_seed(0)
    network = Network([Stem(in_ch=3, out_ch=8, size=12), Head(in_ch=8, hidden=8, out_ch=3, size=6)])
    recipe = Recipe(epochs=2, batch_size=16)
    kept = {"checkpoint": checkpoint, "on_step": on_step, "augment": Augment(), "progress": False}
    rows = fit(network, data, recipe, supervised(recipe), size=12, **kept)
    return list(rows["loss"]), list(network.state_dict().values()), validation_accuracy(network, data)


def train_until_killed(photos: str, folder: str) -> None:
    """Of another process: from the cache, killed in the second epoch."""

    def kill(step):
        if step["epoch"] == 2 and step["step"] % 5 == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    identity = {"data": (data := loaded(Path(photos), "cache", Path(folder))).fingerprint}
    trained(data, Checkpoint(path=Path(folder) / "checkpoint.pt", identity=identity), kill)


def test_a_training_from_the_cache_that_was_killed_goes_on_to_the_bit(photos, tmp_path):
    call = f"import test_stored; test_stored.train_until_killed({str(photos)!r}, {str(tmp_path)!r})"
    process = subprocess.run([sys.executable, "-c", call], cwd=Path(__file__).parent, check=False)
    assert process.returncode == -signal.SIGKILL
    data = loaded(photos, "cache", tmp_path)
    checkpoint = Checkpoint(path=tmp_path / "checkpoint.pt", identity={"data": data.fingerprint}, resume=True)
    steps = []
    losses, weights, accuracy = trained(data, checkpoint, lambda step: steps.append(step["epoch"]))
    assert set(steps) == {2}
    unbroken = trained(loaded(photos, "memory", tmp_path))
    assert (losses, accuracy) == (unbroken[0], unbroken[2])
    assert all(torch.equal(a, b) for a, b in zip(weights, unbroken[1], strict=True))


@pytest.mark.parametrize("balance", [False, True])
def test_training_is_the_same_to_the_bit_wherever_the_images_are(photos, tmp_path, balance):
    losses, weights, accuracy = trained(loaded(photos, "memory", tmp_path, balance=balance))
    for kind in ("cache",) if balance else ("cache", "files"):
        torch.rand(3)  # another state of everybody's generator
        data = pickle.loads(pickle.dumps(loaded(photos, kind, tmp_path, balance=balance)))
        mine = trained(data)
        assert mine[0] == losses
        assert all(torch.equal(a, b) for a, b in zip(mine[1], weights, strict=True))
        assert mine[2] == accuracy


def test_an_image_that_goes_while_processes_read_it_is_one_line(tmp_path):
    root = folder_of(tmp_path / "x")
    data = loaded(root, "files", tmp_path / "c")
    for file in root.rglob("*.png"):
        file.write_bytes(b"gone")
    with pytest.raises(BadInput, match=r"\.png: does not decode") as refused:
        list(feed(data.train, "cpu")([torch.arange(4)]))
    assert "\n" not in str(refused.value)


def test_a_pickle_holds_no_pixels_and_an_epoch_takes_no_memory(tmp_path):
    n, shape = 2000, (3, 64, 64)
    pixels = np.random.default_rng(0).integers(0, 256, (n // 10, *shape), dtype=np.uint8)
    images = cache.spilled((np.roll(pixels, i, axis=-1) for i in range(10)), folder=tmp_path, shape=shape)
    assert images.shape == (n, *shape)
    assert len(pickle.dumps(images)) < 0.02 * images.source.path.stat().st_size
    data = data_of()
    split = type(data.train)(images=images, labels=np.zeros(n, int))
    before = psutil.Process().memory_info().rss
    for batch in feed(split, "cpu")(torch.randperm(n).split(50)):
        assert batch.shape == (50, *shape)
    assert psutil.Process().memory_info().rss - before < 12e6  # of 24.6 MB
    assert np.array_equal(images[205], np.roll(pixels, 1, axis=-1)[5])
