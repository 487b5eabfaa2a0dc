"""Nothing wrong crosses the border: every flag and every public parameter against a table of hostile values, every kind
of file against damaged ones, a disk that is full, two processes in one folder. Each is refused in one line, at once,
and the disk is as it was.

The walks take flags from the parser and parameters from ``nas.__all__``: a new one is covered by existing.
"""

from __future__ import annotations

import argparse
import collections.abc
import errno
import inspect
import json
import math
import multiprocessing
import os
import time
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import numpy as np
import pytest
from msgspec import Meta

import nas
from nas.checks import Batch, Bytes, Count, FilePath, Positive, Seed, Share, Text, check, checked, described, hints_of, parsed
from nas.errors import BadInput, NasError
from nas.files import file_name, first_line, folder_of, locked, read_json, read_text, replacing, writable, write_text

NAN, INF = float("nan"), float("inf")
PATIENCE_S = 2.0


class Anything:
    """Of no type that any parameter takes."""

    def __repr__(self) -> str:
        return "<\nanything\n>"


def one_line(text: str) -> bool:
    return bool(text.strip()) and "\n" not in text.strip() and "Traceback" not in text


# ---- ranges ----------------------------------------------------------------------------------------------------

REFUSED = {
    Count: [0, -1, 1.5, NAN, INF, -INF, 10**30, True, "3", "", None, [3], Anything(), np.array([1, 2]), np.float64(2)],
    Seed: [-1, 2**32, NAN, 0.5, "0"],
    Share: [1, 1.0, -0.1, NAN, INF, "0.5", None, True],
    Positive: [0, -1, NAN, INF, 10**400, 1e13, "1"],
    Batch: [0, 65_537],
    Bytes: [0, -1, 2**51, 1.5, "256KB"],
    Text: ["", None, 3, b"x"],
    FilePath: ["", None, 3, Anything()],
    Literal["a", "b"]: ["c", "", None, 1, Anything()],
    Literal[1, 3]: [2, "1", None],
    bool: [0, "yes", None, 1.0],
    Count | None: [0, "none", NAN],
    list[Count]: [3, [0], ["a"], "12", None, [[1]]],
    tuple[Count, ...]: [(0,), 3],
    tuple[int, str]: [(1, 2), (1,), (1, "a", 2)],
    dict[str, Positive]: [{1: 2.0}, {"a": -1.0}, [], None],
    Path: ["x", 3],
    collections.abc.Callable[[int], int]: [3, "len"],
    collections.abc.Sequence[Path]: [Path("x"), ["x"], "x"],
}
ACCEPTED = [
    (Count, np.int64(3)), (Share, np.float32(0.5)), (Share, 0), (Positive, 3), (Seed, 2**32 - 1), (Count | None, None),
    (Literal["a", "b"], "b"), (FilePath, Path("x")), (list[Count], [1, 2]), (dict[str, Positive], {"a": 1}),
    (tuple[int, str], (1, "a")), (collections.abc.Callable[[int], int], abs), (Any, Anything()), (Bytes, 2**50),
]  # fmt: skip


@pytest.mark.parametrize(("annotation", "value"), [(a, v) for a, values in REFUSED.items() for v in values], ids=repr)
def test_a_value_outside_its_annotation_is_one_line(annotation, value):
    with pytest.raises(BadInput) as refused:
        check("the setting", value, annotation)
    text = str(refused.value)
    assert text.startswith(f"the setting is {described(annotation)}, got ")
    assert one_line(text)
    assert len(text) < 300


@pytest.mark.parametrize(("annotation", "value"), ACCEPTED, ids=repr)
def test_a_value_in_its_annotation_passes(annotation, value):
    check("the setting", value, annotation)


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("12", Count, 12), ("0.5", Share, 0.5), ("1e-3", Positive, 0.001), ("256KB", Bytes, 262_144),
        ("1.5 MB", Bytes | None, 1_572_864), ("7", Bytes, 7), ("none", Count | None, None), ("b", Literal["a", "b"], "b"),
        ("3", Literal[1, 3], 3), ("größe", Text, "größe"), ("a/b", FilePath, "a/b"), ("5", Annotated[Count | None, "x"], 5),
    ],
)  # fmt: skip
def test_texts_of_the_command_line(text, annotation, value):
    assert parsed("x", text, annotation) == value


@pytest.mark.parametrize("annotation", [Count, Seed, Share, Positive, Bytes, Literal["a"], Count | None, Bytes | None])
@pytest.mark.parametrize("text", ["", " ", "x", "nan", "inf", "-inf", "1e400", "-1", "٣", "9" * 5000, "0x10", "1_0", "3,5", "1\n2"])
def test_texts_that_are_refused(annotation, text):
    with pytest.raises(BadInput) as refused:
        parsed("x", text, annotation)
    assert one_line(str(refused.value))


def test_python_and_the_command_line_say_the_same():
    for annotation, value in ((Count, 0), (Share, 1.5), (Positive | None, -2.0)):
        with pytest.raises(BadInput) as python:
            check("epochs", value, annotation)
        with pytest.raises(BadInput) as command_line:
            parsed("epochs", str(value), annotation)
        assert str(python.value) == str(command_line.value).replace("'", "")


def test_checked_looks_at_every_argument_before_anything_runs():
    ran = []

    @checked
    def work(first: Count, *rest: Count, path: FilePath = "x", kind: Literal["a", "b"] = "a", **more: Share) -> None:
        ran.append(first)

    for arguments, keywords in (
        ((0,), {}), ((1, 0), {}), ((1,), {"path": ""}), ((1,), {"kind": "c"}), ((1,), {"other": 2.0}),
    ):  # fmt: skip
        with pytest.raises(BadInput):
            work(*arguments, **keywords)
    assert not ran
    work(1, 2, path="y", other=0.5)
    assert ran == [1]
    assert list(inspect.signature(work).parameters) == ["first", "rest", "path", "kind", "more"]


# ---- paths and names -------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with a file, a folder with something in it, and a link to itself; it is the current one."""
    (tmp_path / "file").write_text("content")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").write_text("content")
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def disk(folder: Path) -> dict[str, object]:
    """What lies in a folder: names, kinds and contents."""
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else p.is_dir() for p in sorted(folder.rglob("*"))
    }


NO_PATHS: list[Any] = [
    "", "a\0b", "loop/x", "file/x", "x" * 300, "x/" + "y" * 300 + "/z", "\ud800", "/proc/nas/x", 3, None, b"x",
]  # fmt: skip
"""Where neither a file nor a folder can be."""


@pytest.mark.parametrize("path", [*NO_PATHS, "folder", "/", "new/", "loop", "/dev/null"], ids=ascii)
def test_files_that_cannot_be_written(place, path):
    before = disk(place)
    with pytest.raises(BadInput) as refused:
        write_text(path, "text")
    assert one_line(str(refused.value))
    if path != "/proc/nas/x":  # the kernel says so only when asked to make it
        with pytest.raises(BadInput):
            writable(path)
    assert disk(place) == before


@pytest.mark.parametrize("path", [*NO_PATHS, "folder", "/", "nothing", "loop", "/dev/zero"], ids=ascii)
def test_files_that_cannot_be_read(place, path):
    with pytest.raises(BadInput) as refused:
        read_text(path)
    assert one_line(str(refused.value))


@pytest.mark.parametrize("path", [p for p in NO_PATHS if p != "/proc/nas/x"] + ["file", "loop"], ids=ascii)
def test_folders_that_cannot_be(place, path):
    before = disk(place)
    with pytest.raises(BadInput) as refused:
        folder_of(path)
    assert one_line(str(refused.value))
    assert disk(place) == before


def test_paths_that_can(place):
    assert folder_of("folder") == Path("folder")
    assert folder_of("new/deeper") == Path("new/deeper")
    assert writable("file") == Path("file")
    write_text("new/deeper/text", "größer")
    assert read_text("new/deeper/text") == "größer"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a\\b", "/x", ".hidden", "-x", "x" * 101, "a b", "ä", "٣", "a\0", "a\n", 3, None]
)
def test_names_that_are_no_file_names(name):
    with pytest.raises(BadInput) as refused:
        file_name(name, "the precision")
    assert str(refused.value).startswith("the precision becomes a file name")
    assert one_line(str(refused.value))


@pytest.mark.parametrize("name", ["c03p", "table_int8", "a=1,b=0.5", "x" * 100, "user@host"])
def test_names_that_are(name):
    assert file_name(name, "x") == name


def test_the_first_line_of_an_error():
    assert first_line(ValueError("\n\n  what \t was  wrong\nand more")) == "what was wrong"
    assert first_line(KeyError()) == "KeyError"


# ---- a disk that is full, or read-only ---------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES])
@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_a_full_disk_is_one_line_and_leaves_what_was_there(place, monkeypatch, code, function):
    before = disk(place)

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, function, refuse)
    for path in ("file", "new/deeper/file"):
        with pytest.raises(BadInput, match=os.strerror(code)) as refused:
            write_text(path, "other")
        assert one_line(str(refused.value))
    monkeypatch.undo()
    assert disk(place) == before


def test_an_error_in_the_block_leaves_nothing(place):
    before = disk(place)
    with pytest.raises(RuntimeError), replacing("new/model.onnx") as temporary:
        assert temporary.suffix == ".onnx"
        temporary.write_text("half of it")
        raise RuntimeError
    assert disk(place) == before


# ---- one process at a time ---------------------------------------------------------------------------------------


def _hold(folder: Path, held: Any, release: Any) -> None:
    with locked(folder):
        held.set()
        release.wait()


def test_the_second_process_is_refused_with_the_number_of_the_first_and_a_crash_releases(place):
    before = disk(place)
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    first = context.Process(target=_hold, args=(place / "run", held, release))
    first.start()
    try:
        assert held.wait(60)
        with pytest.raises(BadInput, match=rf"pid {first.pid}\)") as refused, locked(place / "run"):
            pytest.fail("both are at work")
        assert one_line(str(refused.value))
    finally:
        first.kill()
        first.join()
    with locked(place / "run"), locked(place / "run"):  # the same process may come back
        assert (place / "run").is_dir()
    assert disk(place) == before | {"run": True}  # the crashed one's


def test_what_was_made_under_a_lock_stays(place):
    with locked(place / "run"):
        write_text(place / "run" / "made", "x")
    assert disk(place / "run") == {"made": b"x"}
