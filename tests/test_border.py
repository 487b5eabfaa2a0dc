"""Nothing wrong crosses the border: every flag and every public parameter against a table of hostile values, every kind
of file against damaged ones, a disk that is full, two processes in one folder. Each is refused in one line, at once,
and the disk is as it was.

The walks take flags from the parser and parameters from ``nas.__all__``: a new one is covered by existing.
"""

from __future__ import annotations

import argparse
import collections.abc
import contextlib
import errno
import functools
import inspect
import json
import logging
import multiprocessing
import os
import re
import shutil
import sqlite3
import sys
import tempfile
import time
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import numpy as np
import pytest
import small_run
from msgspec import Meta

import nas
import search_spaces
from nas.checks import Batch, Bytes, Count, FilePath, Positive, Seed, Share, Text, check, checked, described, parsed
from nas.cli import app
from nas.errors import BadInput, NasError
from nas.files import file_name, first_line, folder_of, locked, read_json, read_text, replacing, writable, write_text
from nas.on_device.results import kit_id
from nas.tables.shipped import SHIPPED

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
@pytest.mark.parametrize(
    "text", ["", " ", "x", "nan", "inf", "-inf", "1e400", "-1", "٣", "9" * 5000, "0x10", "1_0", "3,5", "1\n2"]
)
def test_texts_that_are_refused(annotation, text):
    with pytest.raises(BadInput) as refused:
        parsed("x", text, annotation)
    assert one_line(str(refused.value))


def test_not_a_number_is_no_number_even_without_a_range():
    with pytest.raises(BadInput):
        parsed("x", "nan", float)


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
    "name",
    ["", ".", "..", "../x", "a/b", "a\\b", "/x", ".hidden", "-x", "x" * 101, "a b", "ä", "٣", "a\0", "a\n", 3, None],
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

    def stopped_half_way() -> None:
        with replacing("new/model.onnx") as temporary:
            assert temporary.suffix == ".onnx"
            temporary.write_text("half of it")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        stopped_half_way()
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


# ---- every public parameter ---------------------------------------------------------------------------------------

ANY_NUMBER = {
    "Choice.values": "alternatives of a gene are what the space's author says",
    "Objective.within": "any two numbers",
}
"""Numbers without a range, each with the reason."""


NOT_OURS = {
    "Supernet.forward": "torch calls it, with what it likes",
    "Supernet.plan": "of positions and blocks that only the space knows",
}
"""Methods that check nothing, each with the reason."""


def _methods(cls: type) -> dict[str, Any]:
    """The public methods of a class and of its bases here, bound to an object that nobody has made: whatever is refused
    is refused before it is looked into. What makes objects is there as it is."""
    ours = [base for base in reversed(cls.__mro__) if base.__module__.split(".")[0] == "nas"]
    kinds = (types.FunctionType, classmethod, staticmethod)
    names = {k for base in ours for k, v in vars(base).items() if isinstance(v, kinds) and not k.startswith("_")}
    return {f"{cls.__name__}.{k}": getattr(cls.__new__(cls), k) for k in sorted(names)}


def _callables() -> dict[str, Any]:
    """Public functions, classes, and the methods of those."""
    found = {name: getattr(nas, name) for name in nas.__all__}
    found = {k: v for k, v in found.items() if callable(v) and not getattr(v, "_is_protocol", False)}
    for made in list(found.values()):
        if isinstance(made, type):
            found |= {} if issubclass(made, BaseException) else _methods(made)
    found = {k: v for k, v in found.items() if k not in NOT_OURS}
    return {k: v for k, v in found.items() if not (isinstance(v, type) and issubclass(v, BaseException))}


CALLABLES = _callables()


def _full_hints(made: Any) -> dict[str, Any]:
    """Annotations with what only type checkers import: a class is there under its public name."""
    function = inspect.unwrap(made.__init__ if isinstance(made, type) else made)
    function = getattr(function, "__func__", function)
    scope = {**vars(typing), **vars(collections.abc), **{n: getattr(nas, n) for n in nas.__all__}}
    hints = {}
    for name, hint in inspect.get_annotations(function).items():
        try:
            hints[name] = eval(hint, {**scope, **function.__globals__}) if isinstance(hint, str) else hint
        except (NameError, TypeError):
            hints[name] = Any
    return hints


PARAMETERS = [
    (name, parameter.name)
    for name, made in CALLABLES.items()
    for parameter in inspect.signature(made).parameters.values()
]


def _kinds(annotation: Any) -> list[tuple[Any, Meta | None]]:
    """The alternatives of an annotation, each with its range."""
    base, *about = typing.get_args(annotation) if typing.get_origin(annotation) is Annotated else (annotation,)
    meta = next((m for m in about if isinstance(m, Meta)), None)
    if typing.get_origin(base) in (Union, types.UnionType):
        return [(kind, own or meta) for a in typing.get_args(base) for kind, own in _kinds(a)]
    return [(base, meta)]


def _standin(annotation: Any, folder: Path) -> Any:
    """A value of that type, good enough to be bound; whatever is refused is refused before it is looked into."""
    base, meta = _kinds(annotation)[0]
    origin = typing.get_origin(base)
    if base in (int, float):
        low = (meta.ge if meta.ge is not None else meta.gt + 1 if meta.gt is not None else 1) if meta else 1
        return base(low)
    if base is bool or base is type(None):
        return False if base is bool else None
    if origin is Literal:
        return typing.get_args(base)[0]
    if base is str:
        return str(folder / "text")
    if origin in (collections.abc.Mapping, dict):
        return {}
    if origin in (list, tuple, collections.abc.Sequence, collections.abc.Iterable):
        inside = [a for a in typing.get_args(base) if a is not Ellipsis]
        return origin(()) if origin is tuple and len(inside) > 1 else [_standin(inside[0], folder)]
    if base is np.ndarray or origin is np.ndarray:
        return np.zeros((1, 1))
    if isinstance(base, type) and base not in (object, Any) and not getattr(base, "_is_protocol", False):
        return base.__new__(base)
    return Anything() if base is not Any else None


def _hostile(annotation: Any) -> list[Any]:
    """Values that are wrong for the type, whatever its range: a table by kind, not the code under test."""
    kinds = _kinds(annotation)
    bases = [typing.get_origin(k) or k for k, _ in kinds]
    if any(b is Any or b is object or (isinstance(b, type) and getattr(b, "_is_protocol", False)) for b in bases):
        return []
    wrong: list[Any] = [Anything()]
    numbers = [(b, m) for b, m in kinds if b in (int, float)]
    if not numbers and bool not in bases and not any(b is Literal for b in bases):
        wrong += [-1, NAN]
    if numbers:
        wrong += [NAN, INF, -INF, 10**400] if str not in bases else [NAN, INF]
        wrong += [10**30 for b, _ in numbers if b is int]
        wrong += [-1e-9 if b is float else -1 for b, m in numbers if m and (m.ge == 0 or m.gt == 0)]
        wrong += [0 for b, m in numbers if m and m.ge is not None and m.ge > 0]
    if str not in bases and not any(b is Literal for b in bases):
        wrong += ["", "three", "\u0663"]
    if any(b is Literal for b in bases):
        wrong += ["no such thing", NAN]
    if bool in bases and len(bases) == 1:
        wrong += [2, NAN, "yes"]
    if any(b in (list, tuple, collections.abc.Sequence) for b in bases):
        wrong += [[Anything()], *([] if numbers else [3])]
    if type(None) not in bases:
        wrong.append(None)
    if os.PathLike in bases or any(typing.get_origin(k) is os.PathLike for k, _ in kinds):
        wrong += ["", "x\0y"]
    return wrong


@pytest.mark.parametrize(("function", "parameter"), PARAMETERS, ids=lambda x: str(x))
def test_a_number_states_its_range(function, parameter):
    if f"{function}.{parameter}" in ANY_NUMBER or parameter.startswith("_"):
        return
    for base, meta in _kinds(_full_hints(CALLABLES[function]).get(parameter, Any)):
        inside = typing.get_args(base) if typing.get_origin(base) in (list, tuple, collections.abc.Sequence) else ()
        for kind, within in [(base, meta), *(k for a in inside if a is not Ellipsis for k in _kinds(a))]:
            if kind in (int, float):
                assert within is not None, f"{function}({parameter}: {kind.__name__}) states no range"
                assert {within.ge, within.gt} != {None}, f"{function}({parameter}) has no lower bound"


@pytest.mark.parametrize(("function", "parameter"), PARAMETERS, ids=lambda x: str(x))
def test_a_wrong_argument_is_one_line(function, parameter, place):
    made, before = CALLABLES[function], disk(place)
    hints, there = _full_hints(made), inspect.signature(made).parameters
    assert parameter in hints, f"{function}({parameter}) has no annotation"
    others = {
        n: _standin(hints.get(n, Any), place)
        for n, p in there.items()
        if n != parameter and p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }
    for value in _hostile(hints[parameter]):
        kind = there[parameter].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            continue
        bound = inspect.signature(made).bind_partial()
        bound.arguments |= others | {parameter: (value,) if kind is inspect.Parameter.VAR_POSITIONAL else value}
        bound.arguments = {n: bound.arguments[n] for n in there if n in bound.arguments}
        started = time.monotonic()
        try:
            made(*bound.args, **bound.kwargs)
        except Exception as error:
            if not isinstance(error, NasError) or not one_line(str(error)):
                pytest.fail(f"{function}({parameter}={value!r}) raises {type(error).__name__}: {error}")
        else:
            pytest.fail(f"{function}({parameter}={value!r}) is accepted")
        assert time.monotonic() - started < PATIENCE_S
    assert disk(place) == before


# ---- every flag ----------------------------------------------------------------------------------------------------


class Reached(Exception):
    """The work itself would have begun."""


BASE = {
    "quickstart": ["--run-dir", "new"],
    "measure": ["--run-dir", "new", "--precision", "fp32"],
    "fit": ["--space", "mobilenet_v2.digits", "--channels", "1", "--timings", "timings.csv", "--device-name", "x", "--run-dir", "new"],
    "train": ["--run-dir", "new"],
    "search": ["--run-dir", "trained"],
    "compress": ["--run-dir", "run", "--resume"],
    "export": ["--run-dir", "run", "--candidate", "c00", "--output", "out.onnx"],
    "report": ["--run-dir", "run"],
    "spaces": ["mobilenet_v2.digits"],
    "completion": ["bash"],
    "sweep": ["--run-dir", "new"],
    "tables list": ["table.json"],
    "tables show": ["table.json"],
    "tables compare": ["table.json", "other.json"],
    "tables validate": ["table.json"],
    "tables heatmap": ["table.json", "other.json"],
}  # fmt: skip
"""For each command, arguments with which it gets to work."""

WITH = {
    "ssh_option": ["--remote", "b@c"],
    "tool_path": ["--remote", "b@c"],
    "remote_python": ["--remote", "b@c"],
    "system_config": ["--runtime", "ethos-u", "--precision", "int8"],
    "memory_mode": ["--runtime", "ethos-u", "--precision", "int8"],
    "vela_config": ["--runtime", "ethos-u", "--precision", "int8"],
    "accelerator": ["--runtime", "ethos-u", "--precision", "int8"],
    "test_data": ["--data", "images"],
    "size": ["--data", "images"],
    "groups": ["--data", "images"],
    "cache": ["--data", "images"],
    "fit": ["--data", "images"],
    "choose": [],
    "board": [],
}
"""What a flag goes with, besides the base arguments."""

FREE_TEXT = {
    "device_name": "what the user calls a device",
    "runtime_version": "likewise, of nas fit",
    "tool_path": "a path on another machine",
    "remote_python": "a path on another machine",
    "fit.runtime": "what the user calls a runtime that timed networks",
}
"""Flags that take any text but an empty one, with the reason."""

MORE = {
    "run_dir": ["file"],
    "export.output": ["/", "folder"],
    "optuna": ["/", "folder"],
    "kit": ["file"],
    "energy_log": ["folder", "file", "no such thing"],
    "import_kit": ["file", "folder", "no such thing"],
    "table": ["file", "folder"],
    "like": ["file", "folder", "no such thing"],
    "timings": ["file", "folder", "no such thing"],
    "run": ["file", "folder", "no such thing"],
    "vela_config": ["file", "folder", "no such thing"],
    "data": ["file", "folder"],
    "groups": ["(", "*"],
    "test_data": ["file"],
    "remote": ["-oProxyCommand=x", "a b", "user@"],
    "ssh_option": ["StrictHostKeyChecking=no", "x", "=", "Port"],
    "candidate": ["c99", "../../file"],
    "device": ["cuda:99", "foo", "meta"],
}
"""Beyond what the kind of a flag says: what is wrong with this one."""


def _commands() -> dict[str, argparse.ArgumentParser]:
    from nas.cli.app import parser

    def below(one: argparse.ArgumentParser, name: str) -> dict[str, argparse.ArgumentParser]:
        subs = [a for a in one._actions if isinstance(a, argparse._SubParsersAction)]
        if not subs:
            return {name: one}
        return {
            k: p for sub in subs for n, s in sub.choices.items() for k, p in below(s, f"{name} {n}".strip()).items()
        }

    return below(parser(), "")


COMMANDS = _commands()
PARSER = functools.cache(app.parser)
"""Made once for each command, not for each of 1,300 values."""


def _flags() -> list[tuple[str, str]]:
    return [
        (command, (action.option_strings or [action.dest])[-1])
        for command, one in COMMANDS.items()
        for action in one._actions
        if not isinstance(action, argparse._HelpAction | argparse._StoreTrueAction)
    ]


def _wrong_texts(command: str, action: argparse.Action) -> list[str]:
    """What is wrong for a flag of this kind: a table by kind, and what ``MORE`` says of this one."""
    annotation = getattr(action.type, "annotation", action.type or str)
    kinds = _kinds(annotation)
    bases = {typing.get_origin(k) or k for k, _ in kinds}
    name = f"{command}.{action.dest}"
    more = MORE.get(name, MORE.get(action.dest, [])) if name not in FREE_TEXT else []
    if action.choices or bases & {int, float, Literal}:
        metas = [m for _, m in kinds if m]
        low = ["-1"] + ["0" for m in metas if (m.ge or 0) > 0 or m.gt == 0]
        if any((m.extra or {}).get("unit") for m in metas):
            low += ["1TBB", "KB"]
        return ["", " ", "x", "nan", "inf", "-inf", "1e400", "\u0663", "9" * 30, *low, *more]
    if FilePath in (annotation, *(typing.get_args(annotation))) or os.PathLike in bases:
        return [*(p for p in NO_PATHS if isinstance(p, str) and p != "\ud800" and "/proc" not in p), *more]
    if {action.dest, name} & set(FREE_TEXT):
        return [""]
    return ["", "no such thing", "loop/x", "file/x", "x" * 300, "x\0y", "x\ny", "../" * 30 + "no/such", *more]


WORK = (
    "nas.runs.stages._do",
    "nas.measuring.campaign.plan",
    "nas.measuring.kit.plan",
    "nas.measuring.ssh._connected",
    "nas.tables.fit.whole_network.fit_blocks",
    "nas.sweeps.sweep.import_ray",
    "nas.runs.candidates.load_weights",
    "nas.report.page.write_page",
    "nas.cli.tables.print_rows",
    "nas.cli.lists.print_rows",
    "nas.cli.completion.script",
    "nas.tables.check.check_saved",
    "nas.report.heat_map.write_heat_map",
)
"""What takes long, or leaves this process: for a command to come there is to accept what it was given."""


@pytest.fixture
def before_work(monkeypatch):
    def reached(*_: object, **__: object) -> None:
        raise Reached

    for target in WORK:
        monkeypatch.setattr(target, reached)


def _candidate(architecture: str, blocks: Any) -> Any:
    from nas.runs.artefacts import Candidate, MadeFrom, StepRecord

    sizes = {"macs": 1, "params": 1, "size_bytes": 4}
    return Candidate(
        id="c00",
        architecture=architecture,
        made_from=MadeFrom(genes=(0,), finetune_epochs=1, qat_epochs=1, prune=0.0, seed=0),
        input_shape=(1, 8, 8),
        pruned=0.0,
        fp32_step="extract",
        blocks=tuple(b.key for b in blocks),
        steps=(StepRecord(step="extract", precision="fp32", accuracy=0.5, **sizes),),
    )


@pytest.fixture(scope="module")
def ready(tmp_path_factory) -> Path:
    """What the base arguments name: a run folder that could be searched, a table, timings of networks; and what is
    hostile in ``place``."""
    from nas.cli.app import main
    from nas.runs.artefacts import CANDIDATES, FAILURE, SEARCH, SUMMARY, Failure, Search, write_record
    from nas.training.names import SUPERNET

    folder = tmp_path_factory.mktemp("ready")
    (folder / "file").write_text("content")
    (folder / "folder").mkdir()
    (folder / "folder" / "inside").write_text("content")
    (folder / "loop").symlink_to("loop")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nas.runs.stages._do", lambda stage, job: None)
        assert main(["train", "--run-dir", str(folder / "run"), "--space", "mobilenet_v2.digits"]) == 0
    (folder / "run" / SUPERNET).write_bytes(b"weights")
    shutil.copytree(folder / "run", folder / "trained")
    (folder / "run" / "evaluations.db").touch()
    write_record(folder / "run" / SEARCH, Search(objectives=(), budget=10**6, evaluations=1, stopped="x"))
    space = search_spaces.named("mobilenet_v2.digits")
    sampled = space.sample(20, np.random.default_rng(0))
    archs = space.describe(sampled)
    made = _candidate(archs[0], space.networks(sampled[:1])[0])
    write_record(folder / "run" / CANDIDATES / "c00" / SUMMARY, made)
    failure = Failure(id="c08", architecture=archs[1], made_from=made.made_from, error="broken")
    write_record(folder / "run" / CANDIDATES / "c08" / FAILURE, failure)
    rows = "".join(f'"{arch}",1.0\n' for arch in archs)
    (folder / "timings.csv").write_text(f"architecture,ms\n{rows}")
    for ending in (".json", ".csv"):
        shutil.copy(SHIPPED / f"gold-6240_fbnet_b1{ending}", folder / f"table{ending}")
        shutil.copy(SHIPPED / f"raspi4_fbnet_b1{ending}", folder / f"other{ending}")
    return folder


def said(argv: list[str], capfd: Any) -> tuple[int, str, str]:
    from nas.cli.app import main

    capfd.readouterr()
    try:
        code = main(argv)
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    out, err = capfd.readouterr()
    return code, out, err


def _with(command: str, action: argparse.Action, value: str) -> list[str]:
    """The base arguments of a command with another value of one flag."""
    base = list(BASE[command])
    others = ["--timings"] if action.dest in ("choose", "board") else []
    for flag in {*action.option_strings, *others} & set(base):
        at = base.index(flag)
        del base[at : at + 2]
    if not action.option_strings:
        return [*command.split(), f"{value}"] if value.startswith("-") else [*command.split(), value]
    base += WITH.get(action.dest, []) if action.option_strings[-1] not in WITH.get(action.dest, []) else []
    return [*command.split(), *base, f"{action.option_strings[-1]}={value}"]


@pytest.fixture
def at_work(ready, before_work, monkeypatch) -> Path:
    monkeypatch.chdir(ready)
    monkeypatch.setattr("nas.cli.app.parser", PARSER)
    return ready


@pytest.mark.parametrize("command", BASE)
def test_the_base_arguments_get_to_work(command, at_work, capfd):
    before = disk(at_work)
    with pytest.raises(Reached):
        said([*command.split(), *BASE[command]], capfd)
    shutil.rmtree(at_work / "new", ignore_errors=True)
    changed = {k for k, v in disk(at_work).items() if before.get(k) != v}
    assert changed <= {
        f"{run}/{name}.json" for run in ("run", "trained") for name in ("config", "stages")
    }  # a folder's settings are as they were last asked for


@pytest.mark.parametrize(("command", "flag"), _flags(), ids=lambda x: str(x))
def test_a_wrong_value_of_a_flag_is_one_line(command, flag, at_work, capfd):
    action = next(a for a in COMMANDS[command]._actions if flag in (*a.option_strings, a.dest))
    for value in _wrong_texts(command, action):
        argv, before = _with(command, action, value), disk(at_work)
        seen = f"nas {' '.join(argv)!r:.200}"
        started = time.process_time()
        try:
            code, out, err = said(argv, capfd)
        except Reached:
            shutil.rmtree(at_work / "new", ignore_errors=True)
            pytest.fail(f"{seen} is accepted")
        except Exception as error:
            pytest.fail(f"{seen} raises {type(error).__name__}: {error}")
        spent = time.process_time() - started
        assert code == 2, f"{seen} ends with {code}: {out}"
        assert out == "", f"{seen} prints {out!r}"
        assert one_line(err), f"{seen} says {err!r}"
        assert err.startswith("nas: ")
        assert disk(at_work) == before, f"{seen} changes the disk"
        assert spent < PATIENCE_S, f"{seen} takes {spent:.1f} s"


def test_every_flag_that_takes_any_text_is_there():
    dests = {a.dest for one in COMMANDS.values() for a in one._actions}
    assert {name.rpartition(".")[2] for name in [*FREE_TEXT, *MORE]} <= dests


# ---- files that are damaged ----------------------------------------------------------------------------------------

DEEP = "[" * 100_000 + "]" * 100_000


def _readers() -> dict[str, Any]:
    """File of ``ready`` -> what reads it. A number behind the name: a line of the file; a name: a row of that table."""
    from nas.measuring.kit import import_kit
    from nas.runs import artefacts
    from nas.sweeps import folder as sweeps

    return {
        "run/config.json": lambda root: artefacts.read_config(root / "run"),
        "run/stages.json": lambda root: artefacts.read_seconds(root / "run"),
        "run/search.json": lambda root: read_json(root / "run" / "search.json", artefacts.Search),
        "run/candidates/c00/summary.json": lambda root: artefacts.read_candidate(root / "run" / "candidates" / "c00"),
        "run/candidates/c08/failure.json": lambda root: artefacts.read_failures(root / "run"),
        "table.json": lambda root: nas.LatencyTable.load(root / "table"),
        **dict.fromkeys(
            ("kit/manifest.json", *(f"kit/results.jsonl {line}" for line in range(4))),
            lambda root: import_kit(root / "kit", run_dir=tempfile.mkdtemp(dir=root)),
        ),
        **dict.fromkeys(
            ("searched/evaluations.db meta", "searched/evaluations.db evaluations"),
            lambda root: nas.SearchResult.load(root / "searched", small_run.space()),
        ),
        "sweep/sweep.json": lambda root: sweeps.read_sweep_record(root / "sweep"),
        "sweep/trials/seed=1/settings.json": lambda root: sweeps.read_sweep(root / "sweep"),
        "sweep/trials/seed=1/done.json": lambda root: sweeps.read_sweep(root / "sweep"),
    }


READERS = _readers()

ANYTHING_GOES = {
    "run/config.json": {"made_by.arguments", "made_by", "memory_gb"},
    "table.json": {"notes", "validation", "kendall_tau"},
    # what is no text becomes one in a column of texts
    "searched/evaluations.db meta": {"searcher", "searcher.seed", "searcher.known", "stopped"},
    "searched/evaluations.db evaluations": {"error"},
    "sweep/sweep.json": {"settings", "samples", "seed"},
    "sweep/trials/seed=1/settings.json": {"seed", "searcher"},
    "sweep/trials/seed=1/done.json": {"hypervolume", "evaluated"},
}
"""Fields whose values may be of several kinds."""


def _document(path: Path, part: str) -> str:
    """A file, or a part of it, as JSON."""
    if path.suffix == ".jsonl":
        return path.read_text().splitlines()[int(part)]
    if path.suffix != ".db":
        return path.read_text()
    with contextlib.closing(sqlite3.connect(path)) as db:
        rows = db.execute(f"SELECT * FROM {part}")
        row = dict(zip([c[0] for c in rows.description], rows.fetchone(), strict=True))
    texts = {"identity": json.loads, "objectives": json.loads, "arch": bytes.hex}
    return json.dumps({k: texts.get(k, lambda v: v)(v) for k, v in row.items()})


def _write(path: Path, part: str, text: str) -> None:
    """Puts a part back as it may have been damaged: a manifest as if it were made so, a table without its constraints."""
    try:
        document = json.loads(text)
    except RecursionError:
        document = {}
    if path.name == "manifest.json" and isinstance(document, dict) and isinstance(document.get("kit"), str):
        text = json.dumps({**document, "kit": kit_id(document)})
    if path.suffix == ".jsonl":
        lines = path.read_text().splitlines()
        text = "".join(f"{line}\n" for line in [*lines[: int(part)], text, *lines[int(part) + 1 :]])
    if path.suffix != ".db":
        path.write_text(text)
    else:
        with contextlib.closing(sqlite3.connect(path)) as db:
            columns = [c[0] for c in db.execute(f"SELECT * FROM {part}").description]
            db.execute(f"CREATE TABLE damaged ({', '.join(columns)})")
            db.execute(f"INSERT INTO damaged SELECT * FROM {part}")
            whole = document if isinstance(document, dict) and document else dict.fromkeys(columns, text)
            for name, value in whole.items():
                value = bytes.fromhex(value) if name == "arch" and re.fullmatch("([0-9a-f]{2})+", str(value)) else value
                value = json.dumps(value) if isinstance(value, dict | list | bool) else value
                with contextlib.suppress(sqlite3.OperationalError):  # no such column
                    db.execute(f"UPDATE damaged SET {name} = ? WHERE rowid = 1", [value])
            db.execute(f"DROP TABLE {part}")
            db.execute(f"ALTER TABLE damaged RENAME TO {part}")
            db.commit()


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something is in a JSON document: the whole, every field, the first of every list."""
    inside = value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else ()
    return [path, *(place for key, one in inside for place in _places(one, (*path, key)))]


def _at(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


def _replaced(document: Any, path: tuple[Any, ...], new: str) -> str:
    """The document's text with ``new``, as it stands, at a place."""
    if not path:
        return new
    copy = json.loads(json.dumps(document))
    _at(copy, path[:-1])[path[-1]] = "\u2603"
    return json.dumps(copy).replace('"\\u2603"', new)


@pytest.fixture(scope="module")
def with_sweep(ready) -> Path:
    (ready / "run" / "stages.json").write_text(json.dumps({"supernet": 1.5}))
    trial = ready / "sweep" / "trials" / "seed=1"
    trial.mkdir(parents=True)
    (ready / "sweep" / "sweep.json").write_text(json.dumps({"settings": {"seed": [1, 2]}, "samples": 1}))
    (trial / "settings.json").write_text(json.dumps({"seed": 1, "searcher": "random"}))
    (trial / "done.json").write_text(json.dumps({"hypervolume": 0.5, "evaluated": 10}))
    return ready


@pytest.fixture(scope="module")
def with_files(with_sweep) -> Path:
    """Also a kit that has run, its models empty, and the ledger of a search."""
    from nas.measuring import kit

    space = small_run.space()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kit, "_model", lambda *_: b"model")
        kit.export_kit(space, with_sweep / "kit", calibrate=8, validate=2)
    manifest = json.loads((with_sweep / "kit" / "manifest.json").read_text())
    timed = {"ms": 1.0, "p10_ms": 0.9, "p90_ms": 1.1, "runs": 9, "begin": 1.0, "end": 2.0, "watts": 3.0, "at": 5.0}
    lines = [
        {"kit": manifest["kit"], "tool": "onnxruntime", "version": "1", "threads": 1, "name": "board", "chip": "chip"},
        {"conditions": {"time": "now", "cpus": 4, "load": 0.1, "mhz": 1000, "governor": "performance"}},
        {"reference": 1.0, "among": "block", "disturbed": False},
        *({"file": m["file"], "sha256": m["sha256"], **timed} for m in manifest["models"]),
    ]
    (with_sweep / "kit" / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    objectives = [nas.macs(space), nas.Objective(name="noise", fn=lambda a: a.sum(axis=1), cheap=False, within=(0, 99))]
    nas.search(space, objectives, nas.RandomSearch(space), budget=2, run_dir=with_sweep / "searched")
    return with_sweep


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_one_line(name, with_files):
    file, _, part = name.partition(" ")
    path, read = with_files / file, READERS[name]
    good, document = path.read_bytes(), json.loads(_document(path, part))
    read(with_files)
    wrong = {"null": type(None), '"text"': str, "-1e300": float, "1e400": None, "[]": list, "{}": dict, "true": bool}
    try:
        for place in _places(document):
            for new, kind in {**wrong, DEEP: None}.items():
                path.write_bytes(good)
                _write(path, part, _replaced(document, place, new))
                about = f"{name}: {'.'.join(map(str, place)) or 'the whole'} = {new[:20]}"
                try:
                    read(with_files)
                except Exception as error:
                    if not isinstance(error, NasError) or not one_line(str(error)):
                        pytest.fail(f"{about} raises {type(error).__name__}: {error}")
                else:
                    was = _at(document, place)
                    free = was is None or {*place, ".".join(map(str, place[-2:]))} & ANYTHING_GOES.get(name, set())
                    assert free or kind is type(was) or (not place and kind is dict), f"{about} is read"
        cut = good[: len(good) // 2] if path.suffix == ".db" else good[:-20]
        for damaged in (b"", b"\xff\xfe", b"{", cut, b"\0" * 100):
            path.write_bytes(damaged)
            with pytest.raises(BadInput) as refused:
                read(with_files)
            assert one_line(str(refused.value))
            assert any(place in str(refused.value) for place in (path.name, path.stem, f"{path.parent} is unfinished"))
    finally:
        path.write_bytes(good)


# ---- how a command ends --------------------------------------------------------------------------------------------


def _ends(error: BaseException, at_work: Path, monkeypatch: Any, capfd: Any) -> tuple[int, str, str]:
    def work(*_: object) -> None:
        raise error

    monkeypatch.setattr("nas.runs.stages._do", work)
    return said(["search", "--run-dir", "trained"], capfd)


def test_an_interrupt_is_one_line_that_says_how_to_go_on(at_work, monkeypatch, capfd):
    code, out, err = _ends(KeyboardInterrupt(), at_work, monkeypatch, capfd)
    assert (code, out) == (130, "")
    assert one_line(err)
    assert "--resume" in err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES])
def test_a_disk_that_refuses_is_one_line(number, at_work, monkeypatch, capfd):
    code, out, err = _ends(OSError(number, os.strerror(number), "run/x"), at_work, monkeypatch, capfd)
    assert (code, out) == (2, "")
    assert err == f"nas: run/x: {os.strerror(number)}\n"


def test_a_message_of_several_lines_becomes_one(at_work, monkeypatch, capfd):
    code, _, err = _ends(BadInput("first\n  second\n"), at_work, monkeypatch, capfd)
    assert (code, err) == (2, "nas: first second\n")


@pytest.mark.parametrize("bug", [ZeroDivisionError("x"), KeyError("x"), OSError(errno.EBADF, "x"), ValueError("x")])
def test_a_bug_keeps_its_traceback(bug, at_work, monkeypatch, capfd):
    with pytest.raises(type(bug)):
        _ends(bug, at_work, monkeypatch, capfd)


def test_what_nas_logs_is_printed_once_and_only_during_a_command(at_work, monkeypatch, capfd):
    logger = logging.getLogger("nas")
    handlers, level = list(logger.handlers), logger.level

    def work(*_: object) -> None:
        logger.info("one %s", "step")
        logger.debug("nobody asked")
        raise BadInput("enough")

    monkeypatch.setattr("nas.runs.stages._do", work)
    for _ in range(2):
        code, out, err = said(["search", "--run-dir", "trained"], capfd)
        assert (code, out, err) == (2, "one step\n", "nas: enough\n")
    assert (list(logger.handlers), logger.level) == (handlers, level)


# ---- flags are derived -----------------------------------------------------------------------------------------------


@checked
@dataclass(frozen=True, kw_only=True)
class Made:
    """Of every kind."""

    count: Annotated[Count, "how many"] = 7
    rate: Annotated[Positive | None, "how fast, in %"] = None
    kinds: Annotated[list[Literal["a", "b"]], "which"] = field(default_factory=list)
    size: Annotated[Bytes | None, "how large"] = None
    quiet: Annotated[bool, "say nothing"] = False
    neat: Annotated[bool, "tidy up"] = True
    name: Annotated[Text, "what it is called"]


def _made(*given_: str) -> Any:
    from nas.cli.flags import Parser, add_flags, given

    one = Parser(prog="nas made")
    add_flags(one, Made)
    return given(one.parse_args(list(given_)), Made), one.format_help()


def test_flags_have_the_names_ranges_helps_and_defaults_of_a_dataclass(capsys):
    values, text = _made("--name", "x")
    assert values == {"name": "x"}  # what is not given has its one default where it is written
    assert "how many (default 7)" in text
    assert "how fast, in %" in text
    assert "{a,b}" in text
    values, _ = _made(
        *("--name", "x", "--count", "3", "--rate", "0.5", "--kinds", "a", "b", "--size", "2KB", "--quiet", "--no-neat")
    )
    assert values == {
        "name": "x", "count": 3, "rate": 0.5, "kinds": ["a", "b"], "size": 2048, "quiet": True, "neat": False,
    }  # fmt: skip
    assert Made(**values).count == 3
    assert _made("--name", "x", "--rate", "none")[0] == {"name": "x", "rate": None}  # a limit that is taken back
    for wrong in (["--count", "3"], ["--name", "x", "--count", "0"], ["--name", "x", "--kinds", "c"], ["--nam", "x"]):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            _made(*wrong)
        assert ended.value.code == 2
        assert one_line(capsys.readouterr().err)


def test_the_command_line_and_python_refuse_with_the_same_line(capsys):
    for name, value in (("count", 0), ("size", 0), ("name", "")):
        with pytest.raises(BadInput) as python:
            Made(**{"name": "x", name: value})
        capsys.readouterr()
        with pytest.raises(SystemExit):
            _made("--name", "x", f"--{name}", str(value))
        assert capsys.readouterr().err.replace("'", "") == f"nas: --{python.value}\n".replace("'", "")


def test_what_a_folder_was_made_from_is_recorded_so_that_it_is_made_again(ready):
    from nas.runs.artefacts import read_config
    from nas.runs.folder import reopen

    config = read_config(ready / "run")
    said = {name: value for name, value in config.space.made_by.arguments.items() if value is not None}
    assert said == {"space": "mobilenet_v2.digits", "classes": 10, "channels": 1}
    assert config.data.made_by.arguments["data"] == "digits"
    again = reopen(ready / "run")
    assert again.space.fingerprint == config.space.fingerprint
    assert again.data.fingerprint == config.data.fingerprint
    with pytest.raises(BadInput, match=r"was made with space mobilenet_v2\.digits, not mobilenet_v3\.digits"):
        reopen(ready / "run", space={"space": "mobilenet_v3.digits"})


def test_a_line_is_printed_once_whatever_libraries_do_to_the_root_logger(capfd):
    from nas.cli import app

    other = logging.StreamHandler(sys.stderr)
    logging.getLogger().addHandler(other)
    try:
        with app._logged(app.COMMANDS["tables"]):
            logging.getLogger("nas").info("once")
    finally:
        logging.getLogger().removeHandler(other)
    assert "".join(capfd.readouterr()).count("once") == 1
