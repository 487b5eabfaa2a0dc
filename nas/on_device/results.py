"""What a campaign reads and writes: ``manifest.json``, the models to time, and a log such as ``results.jsonl``.

Both are read by schema, here and where a table is made of them. The log is appended to, so that a kill loses nothing
that is finished.
"""

# ruff: noqa: UP006, UP035 - Python 3.8
from __future__ import annotations

import hashlib
import json
import math
import os
import re
import time
from typing import Any, Callable, Dict, List, Sequence, Tuple

from .device import Json
from .outputs import Problem

Check = Tuple[str, Callable[[Any], bool]]


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number of 400 digits
        return False


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


TEXT: Check = ("a text", lambda v: isinstance(v, str))
NUMBER: Check = ("a finite number", _is_number)
AMOUNT: Check = ("a number of at least 0", lambda v: _is_number(v) and v >= 0)
POSITIVE: Check = ("a positive number", lambda v: _is_number(v) and v > 0)
WHOLE: Check = ("a whole number", _is_whole)
COUNT: Check = ("a whole number of at least 1", lambda v: _is_whole(v) and v >= 1)
NAME: Check = ("a plain name", lambda v: isinstance(v, str) and bool(re.match(r"[A-Za-z0-9_][\w.+-]{0,60}\Z", v)))
FILE: Check = (
    "blocks/NUMBER or networks/NUMBER",
    lambda v: isinstance(v, str) and bool(re.match(r"(blocks|networks)/\d{5,9}(\.(onnx|tflite))?\Z", v)),
)
FLAG: Check = ("true or false", lambda v: isinstance(v, bool))
ROLES = ("block", "calibrate", "validate")

# a name that ends in ? may be missing; a list is of any number of its only element
MANIFEST: Json = {
    "kit": TEXT,
    "space": {"name": TEXT, "fingerprint": TEXT},
    "plan": {"calibrate": COUNT, "validate": COUNT, "seed": WHOLE},
    "tools": [NAME],
    "format": NAME,
    "precision": NAME,
    "batch": COUNT,
    "threads": COUNT,
    "machine": ("a text or null", lambda v: v is None or isinstance(v, str)),
    "reference": FILE,
    "models": [
        {
            "file": FILE,
            "role": ("one of " + ", ".join(ROLES), lambda v: v in ROLES),
            "key": TEXT,
            "blocks?": [WHOLE],
            "input": [COUNT],
            "bytes": COUNT,
            "sha256": TEXT,
        }
    ],
}
HEADER: Json = {"kit": TEXT, "tool": NAME, "version": TEXT, "threads": COUNT, "name": TEXT, "chip": TEXT}
CONDITIONS: Json = {
    **{f"{name}?": AMOUNT for name in ("cpus", "load", "mhz", "max_mhz", "throttled", "gpu_mhz")},
    "hottest_c?": NUMBER,
    **{f"{name}?": TEXT for name in ("time", "governor", "nvpmodel")},
}
TIMING: Json = {"ms": POSITIVE, "p10_ms": POSITIVE, "p90_ms": POSITIVE, "runs": COUNT, "watts?": NUMBER}
WINDOW: Json = {"begin": NUMBER, "end": NUMBER}


def wrong(value: Any, schema: Any, name: str) -> str:
    """What in ``value`` does not fit, '' when all does."""
    if isinstance(schema, tuple):
        return "" if schema[1](value) else f"{name} is {schema[0]}, got {repr(value)[:60]}"
    if isinstance(schema, list):
        if not isinstance(value, list):
            return f"{name} is a list, got {repr(value)[:60]}"
        return next((said for v in value for said in [wrong(v, schema[0], name)] if said), "")
    if not isinstance(value, dict):
        return f"{name} is an object, got {repr(value)[:60]}"
    for field, inner in schema.items():
        key = field.rstrip("?")
        said = wrong(value[key], inner, key) if key in value else "" if key != field else f"{name} has no {key}"
        if said:
            return said
    return ""


def parsed(text: str) -> Any:
    """JSON without its extensions. Raises ValueError."""

    def no_number(word: str) -> Any:
        raise ValueError(f"{word} is not a number")

    try:
        return json.loads(text, parse_constant=no_number)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def kit_id(manifest: Json) -> str:
    """16 hex digits that change with anything in the manifest."""
    plain = {k: v for k, v in manifest.items() if k != "kit"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def load_manifest(folder: str) -> Json:
    """Raises Problem when it is missing, damaged, or not as it was written."""
    path = os.path.join(folder, "manifest.json")
    try:
        with open(path, encoding="utf-8") as file:
            manifest: Json = parsed(file.read())
    except FileNotFoundError:
        raise Problem(f"{path} does not exist; it belongs beside run.py") from None
    except (OSError, ValueError) as error:
        raise Problem(f"{path} is not the manifest of a kit: {error}") from None
    said = wrong(manifest, MANIFEST, "it") or _inconsistent(manifest)
    if said:
        raise Problem(f"{path} is not the manifest of a kit: {said}")
    if manifest["kit"] != kit_id(manifest):
        raise Problem(f"{path} was changed after the kit was made; copy the kit again")
    return manifest


def _inconsistent(manifest: Json) -> str:
    models = manifest["models"]
    blocks = [m["file"] for m in models if m["role"] == "block"]
    if manifest["reference"] not in blocks:
        return f"the reference {manifest['reference']} is not one of its blocks"
    if len({m["file"] for m in models}) < len(models):
        return "a file is listed twice"
    if any(m["role"] != "block" and not m.get("blocks") for m in models):
        return "a network has no blocks"
    if any(b >= len(blocks) for m in models for b in m.get("blocks", [])):
        return "a network has a block that is not there"
    return ""


class Results:
    """A log's lines: a header, then a line per finished thing.

    ``timed``, ``again``: file -> {ms, p10_ms, p90_ms, runs, ...}, the first and the second look. ``failed``: file -> why;
    ``skipped``: networks with a failed block. ``references``: how the reference block did in each group.
    """

    def __init__(self, name: str, models: Sequence[Json], lines: Sequence[Json] = ()) -> None:
        self.name = name
        self.digest = {m["file"]: m.get("sha256") for m in models}
        self.header: Json = {}
        self.timed: Dict[str, Json] = {}
        self.again: Dict[str, Json] = {}
        self.failed: Dict[str, str] = {}
        self.skipped: Dict[str, str] = {}
        self.references: List[Json] = []
        self.conditions: List[Json] = []
        self.at: List[float] = []
        for number, line in enumerate(lines, 1):
            self.take(line, f"line {number} of {name}")

    def is_open(self, file: str) -> bool:
        """Whether it still has to be timed."""
        return not (file in self.timed or file in self.failed or file in self.skipped)

    def usual(self, part: str) -> list[float]:
        """What the reference took so far. Between whole networks it finds other caches than between blocks."""
        alone = part in ("block", "again")
        return [r["reference"] for r in self.references if (r["among"] in ("block", "again")) == alone]

    def take(self, line: Json, where: str) -> None:
        """Count a line. Raises Problem for one that no campaign writes, or that is about something else."""
        if not self.header:
            self.header = line
            return
        said = wrong(line, {"at?": NUMBER}, "it")
        if "conditions" in line:
            said = said or wrong(line["conditions"], CONDITIONS, "conditions")
            self.conditions.append(line["conditions"])
        elif "reference" in line:
            said = said or wrong(line, {"reference": POSITIVE, "among": TEXT, "disturbed": FLAG}, "it")
            self.references.append(line)
        elif "file" in line or "again" in line:
            said = said or self._model(line, "file" if "file" in line else "again")
        else:
            said = said or "it is of no kind that is known"
        if said:
            raise Problem(f"{where} is not one that a campaign wrote: {said}")
        self.at += [line["at"]] if "at" in line else []

    def _model(self, line: Json, look: str) -> str:
        file = line[look]
        if not isinstance(file, str) or file not in self.digest or line.get("sha256") != self.digest[file]:
            return f"{repr(file)[:60]} is not a model of this kit"
        for name, kept in (("failed", self.failed), ("skipped", self.skipped)):
            if name in line:
                if look == "file":
                    kept[file] = str(line[name])
                return ""
        said = wrong(line, {**TIMING, **(WINDOW if "begin" in line or "watts" in line else {})}, "it")
        slack = 1 + 1e-9
        if not said and not line["p10_ms"] <= line["ms"] * slack <= line["p90_ms"] * slack * slack:
            said = f"p10_ms <= ms <= p90_ms do not hold for {line['p10_ms']}, {line['ms']} and {line['p90_ms']}"
        kept_lines = self.timed if look == "file" else self.again
        if not said and file in kept_lines:
            said = f"{file} is there a second time; it was edited"
        if not said:
            kept_lines[file] = line
            if look == "file":
                self.failed.pop(file, None)
                self.skipped.pop(file, None)
        return said


class Log(Results):
    """Results on disk: what is added is there before the next begins. A line that a kill cut off is removed."""

    def __init__(
        self, path: str, models: Sequence[Json], header: Json, go_on: str = "the same command goes on"
    ) -> None:
        self.path, self.go_on = path, go_on
        super().__init__(os.path.basename(path), models, cut_to_lines(path))
        if not self.header:
            self.add(header)
        for name, value in header.items():
            if self.header.get(name) != value:
                raise Problem(
                    f"{self.path} is a campaign for another {name} ({repr(self.header.get(name))[:60]}, now {value!r}); "
                    "finish it as it was begun, or move it away"
                )

    def add(self, *lines: Json) -> None:
        now = round(time.time(), 3)
        dated = [{**line, "at": now} for line in lines]
        for line in dated:
            self.take(line, "a new line")
        try:
            append(self.path, "".join(json.dumps(line) + "\n" for line in dated))
        except OSError as error:
            raise Problem(
                f"cannot write {self.path}: {error.strerror}; what is finished is kept, {self.go_on}"
            ) from None


def append(path: str, text: str) -> None:
    """Add to a file so that it survives a power cut."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def cut_to_lines(path: str) -> list[Json]:
    """The lines of a log, none when it is not there. A last line that was cut off is removed."""
    try:
        if not os.path.exists(path):
            return []
        with open(path, "rb") as file:
            content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)
    except OSError as error:
        raise Problem(f"cannot read {path}: {error.strerror}") from None
    return parse_lines(content[:whole].decode("utf-8", "replace"), os.path.basename(path))


def parse_lines(text: str, name: str) -> list[Json]:
    """Raises Problem for a line that is not a JSON object."""
    lines = []
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            lines.append(parsed(line))
            if not isinstance(lines[-1], dict):
                raise ValueError
        except ValueError:
            raise Problem(f"line {number} of {name} is not one that a campaign wrote: {line[:60]!r}") from None
    return lines
