"""What ``run.py`` does: time what ``results.jsonl`` lacks, a line for each finished model, and go on when run again."""

# ruff: noqa: UP006, UP035, B905 - Python 3.8
from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import statistics
import sys
import time
from typing import Any, Dict, Iterator, Sequence

from .outputs import Broken, Problem
from .tools import TOOLS, Tool
from .worker import worker

GROUP = 16  # models that are timed in turn, the reference among them
DISTURBED = 1.10  # a group is timed again when the reference ran this much slower than usual

Json = Dict[str, Any]


def main(folder: str, argv: Sequence[str] | None = None) -> int:
    """0: finished. 2: one line said why not. 130: interrupted."""
    parser = argparse.ArgumentParser(description="Times the models of this kit; the same command again goes on.")
    parser.add_argument("--tool", choices=sorted(TOOLS), help="default: the first that the kit allows and is here")
    parser.add_argument("--threads", type=int, help="default: as the kit was made")
    parser.add_argument("--tool-path", help="of trtexec or benchmark_model (with --adb: on the phone)")
    parser.add_argument("--adb", nargs="?", const="", metavar="SERIAL", help="run benchmark_model on this phone")
    parser.add_argument("--timeout", type=float, help="seconds without a sign of life after which a model hangs")
    parser.add_argument("--retry-failed", action="store_true", help="time the models that failed once more")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        return worker()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with locked(folder):
            campaign(folder, args)
    except Problem as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    except (KeyboardInterrupt, BrokenPipeError):  # ... | head
        print("stopped; the same command goes on", file=sys.stderr, flush=True)
        return 130
    return 0


def campaign(folder: str, args: argparse.Namespace) -> None:
    """Time what ``results.jsonl`` lacks."""
    manifest = load_manifest(folder)
    check_folder(folder, manifest)
    tool = choose_tool(folder, manifest, args)
    device = tool.device()
    if manifest.get("machine") and manifest["machine"] != device["machine"]:
        raise Problem(f"this kit was made for {manifest['machine']}, this device is {device['machine']}")
    models = {m["file"]: m for m in manifest["models"]}
    reference = models[manifest["reference"]]
    begun = time.monotonic()
    first = tool.time([reference] * tool.probe)[0]
    if "failed" in first:
        raise Problem(f"{tool.name} cannot run even the reference block: {first['failed']}")
    each = (time.monotonic() - begun) / tool.probe
    header = {"kit": manifest["kit"], "tool": tool.name, "version": tool.version, "threads": tool.threads, **device}
    results = Results(folder, header)
    results.add({"conditions": tool.conditions()})
    if args.retry_failed:
        results.failed.clear()
    todo = [m for f, m in models.items() if f not in results.done and f not in results.failed]
    seconds = each * sum(1 if m["role"] == "block" else 5 for m in todo)
    print(f"{tool.name} {tool.version} on {device['name']}, {tool.threads} thread(s)")
    print(f"{len(todo)} of {len(models)} models to time: about {span(seconds)}", flush=True)
    for role in ("block", "calibrate", "validate"):  # between networks the reference finds other caches than before
        time_all(tool, role, [m for m in todo if m["role"] == role], reference, results, len(models))
    if not results.again:
        blocks = [m for f, m in models.items() if m["role"] == "block" and f in results.done]
        some = blocks[:: max(1, len(blocks) // tool.again)][: tool.again]
        time_all(tool, "again", some, reference, results, len(models))
    results.add({"conditions": tool.conditions(), "finished": True})
    print(f"finished: {len(results.done)} models timed, {len(results.failed)} failed; copy results.jsonl back")
    for file, text in results.failed.items():
        print(f"failed: {file} [{models[file]['key']}]: {text}", flush=True)


def time_all(tool: Tool, part: str, models: list[Json], reference: Json, results: Results, total: int) -> None:
    """Time ``models`` in groups with the reference among them; a disturbed group is timed again."""
    usual: list[float] = []
    begun = time.monotonic()
    for start in range(0, len(models), GROUP):
        group = models[start : start + GROUP]
        for _ in range(tool.attempts):
            *timed, check = tool.time([*group, reference])
            if "failed" in check:
                raise Problem(f"{tool.name} no longer runs the reference block: {check['failed']}")
            if not usual or check["ms"] <= DISTURBED * statistics.median(usual):
                break
        disturbed = bool(usual) and check["ms"] > DISTURBED * statistics.median(usual)
        usual.append(check["ms"])
        results.add({"reference": check["ms"], "among": part, "disturbed": disturbed})
        for model, result in zip(group, timed):
            results.add({"again" if part == "again" else "file": model["file"], "sha256": model["sha256"], **result})
        done = start + len(group)
        left = (time.monotonic() - begun) / done * (len(models) - done)
        where = "second look" if part == "again" else f"{len(results.done) + len(results.failed)}/{total}"
        drift = check["ms"] / usual[0] - 1
        print(f"{where}: {span(left)} left in this part; reference {check['ms']:.4g} ms ({drift:+.1%})", flush=True)


class Results:
    """``results.jsonl``: a header line, then a line per finished thing, each on disk before the next begins."""

    def __init__(self, folder: str, header: Json) -> None:
        self.path = os.path.join(folder, "results.jsonl")
        self.done: set[str] = set()
        self.failed: dict[str, str] = {}
        self.again = False
        before, *lines = cut_to_lines(self.path) or [{}]
        if not before:
            return self.add(header)
        for name, value in header.items():
            if before.get(name) != value:
                raise Problem(
                    f"results.jsonl is of another {name} ({before.get(name)}, now {value}); "
                    "finish it as it was begun, or move it away"
                )
        for line in lines:
            self._count(line)

    def add(self, line: Json) -> None:
        line = {**line, "at": round(time.time(), 3)}
        try:
            with open(self.path, "a") as file:
                file.write(json.dumps(line) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise Problem(
                f"cannot write {self.path}: {error.strerror}; what is finished is kept, the same command goes on"
            ) from None
        self._count(line)

    def _count(self, line: Json) -> None:
        self.again |= "again" in line
        if "file" in line and "failed" in line:
            self.failed[line["file"]] = line["failed"]
        elif "file" in line:
            self.done.add(line["file"])
            self.failed.pop(line["file"], None)


def cut_to_lines(path: str) -> list[Json]:
    """The lines of a ``results.jsonl``, none when it is not there. A last line that was cut off is removed."""
    if not os.path.exists(path):
        return []
    with open(path, "rb") as file:
        content = file.read()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
    return parse_lines(content[:whole].decode("utf-8", "replace"))


def parse_lines(text: str) -> list[Json]:
    """Raises Problem for a line that is not a JSON object."""
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            lines.append(json.loads(line))
            if not isinstance(lines[-1], dict):
                raise ValueError
        except ValueError:
            raise Problem(f"line {number} of results.jsonl is not one that run.py wrote: {line[:60]!r}") from None
    return lines


@contextlib.contextmanager
def locked(folder: str) -> Iterator[None]:
    """Only one run at a time."""
    try:
        file = open(os.path.join(folder, "run.lock"), "w")  # noqa: SIM115
    except OSError as error:
        raise Problem(f"cannot write to {folder}: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Problem("this kit is being timed already, by another process") from None
        yield


def kit_id(manifest: Json) -> str:
    """16 hex digits that change with anything in the manifest."""
    plain = {k: v for k, v in manifest.items() if k != "kit"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def load_manifest(folder: str) -> Json:
    """Raises Problem when it is missing, or is not as it was written."""
    path = os.path.join(folder, "manifest.json")
    try:
        with open(path) as file:
            manifest: Json = json.load(file)
        same = manifest["kit"] == kit_id(manifest)
    except FileNotFoundError:
        raise Problem(f"{path} does not exist; it belongs beside run.py") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Problem(f"{path} is not the manifest of a kit: {error}") from None
    if not same:
        raise Problem(f"{path} was changed after the kit was made; copy the kit again")
    return manifest


def check_folder(folder: str, manifest: Json) -> None:
    """Raises Problem when models are missing or damaged, or when results and engines might not find room."""
    models = manifest["models"]
    bad = [m["file"] for m in models if not is_whole(folder, m)]
    if bad:
        raise Problem(f"{len(bad)} of {len(models)} models are missing or damaged, such as {bad[0]}; copy them again")
    need = 2 * max(m["bytes"] for m in models) + 400 * len(models) + (1 << 20)
    free = shutil.disk_usage(folder).free
    if free < need:
        raise Problem(f"{folder} has {free / 1e6:.1f} MB free, timing needs {need / 1e6:.1f} MB")


def is_whole(folder: str, model: Json) -> bool:
    try:
        with open(os.path.join(folder, model["file"]), "rb") as file:
            return hashlib.sha256(file.read()).hexdigest() == model["sha256"]
    except OSError:
        return False


def choose_tool(folder: str, manifest: Json, args: argparse.Namespace) -> Tool:
    """Raises Problem when none of the tools that the kit was made for is here."""
    allowed = manifest["tools"]
    wanted = args.tool or ("benchmark_model" if args.adb is not None else None)
    if wanted and wanted not in allowed:
        raise Problem(
            f"this kit ({manifest['precision']}, .{manifest['format']} files) was made for {' or '.join(allowed)}, "
            f"not for {wanted}; make another"
        )
    threads = manifest["threads"] if args.threads is None else args.threads
    if threads < 1:
        raise Problem(f"--threads is at least 1, got {threads}")
    reasons = []
    for name in [wanted] if wanted else allowed:
        try:
            return TOOLS[name](folder, manifest, threads, args)
        except Broken as error:
            reasons.append(str(error))
    raise Problem("no runtime here: " + "; ".join(reasons))


def span(seconds: float) -> str:
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds > 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
