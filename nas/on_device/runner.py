"""What ``run.py`` does: time what ``results.jsonl`` lacks, a line for each finished model, and go on when run again."""

# ruff: noqa: UP035 - Python 3.8
from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shutil
import signal
import sys
from typing import Iterator, Sequence

from .campaign import Campaign
from .device import Json, digest
from .outputs import Broken, Problem
from .results import Log, load_manifest
from .tools import TOOLS, Tool
from .worker import worker


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
            run(folder, args)
    except Problem as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    except (KeyboardInterrupt, BrokenPipeError):  # ... | head
        print("stopped; the same command goes on", file=sys.stderr, flush=True)
        return 130
    return 0


def run(folder: str, args: argparse.Namespace) -> None:
    """Time what ``results.jsonl`` lacks."""
    for flag, value, most in (("--threads", args.threads, 1024), ("--timeout", args.timeout, 1e6)):
        if value is not None and not 1 <= value <= most:
            raise Problem(f"{flag} is at least 1 and at most {most:.0f}, got {value}")
    manifest = load_manifest(folder)
    check_folder(folder, manifest)
    tool = choose_tool(folder, manifest, args)
    device = tool.device()
    if manifest["machine"] and manifest["machine"] != device["machine"]:
        raise Problem(f"this kit was made for {manifest['machine']}, this device is {device['machine']}")
    models = {m["file"]: m for m in manifest["models"]}
    reference = models[manifest["reference"]]
    if tool.version is None:  # such a tool tells it while it works
        tool.time([reference], energy=False)
    header = {"kit": manifest["kit"], "tool": tool.name, "version": tool.version or "unknown", "threads": tool.threads}
    log = Log(os.path.join(folder, "results.jsonl"), manifest["models"], {**header, **device})
    if args.retry_failed:
        log.failed.clear()
        log.skipped.clear()
    say(f"{tool.name} {header['version']} on {device['name']}, {tool.threads} thread(s)")
    Campaign(
        manifest["models"], reference, tool, log, say, lambda done, total, text: say(f"{done}/{total}: {text}")
    ).run()
    say(f"finished: {len(log.timed)} models timed, {len(log.failed)} failed; copy results.jsonl back")
    for file, text in log.failed.items():
        say(f"failed: {file} [{models[file]['key']}]: {text}")


def say(line: str) -> None:
    print(line, flush=True)


@contextlib.contextmanager
def locked(folder: str) -> Iterator[None]:
    """Only one run at a time; a crash releases it. Raises Problem with the other's number."""
    try:
        file = open(os.path.join(folder, "run.lock"), "a+")  # noqa: SIM115
    except OSError as error:
        raise Problem(f"cannot write to {folder}: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise Problem(f"this kit is being timed already, by process {file.read() or 'unknown'}") from None
        with contextlib.suppress(OSError):  # a full disk: the number is for people
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
        yield


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
        return digest(os.path.join(folder, model["file"])) == model["sha256"]
    except OSError:
        return False


def choose_tool(folder: str, manifest: Json, args: argparse.Namespace) -> Tool:
    """Raises Problem when none of the tools that the kit was made for is here."""
    allowed = [name for name in manifest["tools"] if name in TOOLS]
    wanted = args.tool or ("benchmark_model" if args.adb is not None else None)
    if wanted and wanted not in allowed:
        raise Problem(
            f"this kit ({manifest['precision']}, .{manifest['format']} files) was made for {' or '.join(allowed)}, "
            f"not for {wanted}; make another"
        )
    threads = manifest["threads"] if args.threads is None else args.threads
    reasons = []
    for name in [wanted] if wanted else allowed:
        try:
            return TOOLS[name](folder, manifest, threads, args)
        except Broken as error:
            reasons.append(str(error))
    raise Problem("no runtime here: " + "; ".join(reasons))
