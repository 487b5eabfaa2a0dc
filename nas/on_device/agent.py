"""What ``nas.measuring.ssh`` does on the device: this text, and a call of one function, are python3's standard input.

So no name ever passes through the device's shell. Older Pythons must be able to say that they are too old.
"""

# ruff: noqa: UP006, UP035 - Python 3.6

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from typing import Any, Dict, List


def answer(reply: Dict[str, Any]) -> None:
    """Marked, since a login may print a greeting."""
    print("\n@nas " + json.dumps(reply))


def look(folder: str, files: Dict[str, str]) -> Dict[str, Any]:
    """What is there of ``files`` (path -> sha256), and of the machine."""
    above = os.path.abspath(folder)
    while not os.path.exists(above):
        above = os.path.dirname(above)
    return {
        "python": list(sys.version_info[:2]),
        "machine": platform.machine(),
        "free": shutil.disk_usage(above).free,
        "missing": [
            path for path, digest in files.items() if hashlib.sha256(_content(folder, path)).hexdigest() != digest
        ],
        "size": len(_content(folder, "results.jsonl")),
        "running": _running(folder),
    }


def start(folder: str, arguments: List[str]) -> Dict[str, Any]:
    """Start run.py in a session of its own, which outlives the connection; back when it holds its lock, or ended."""
    with open(os.path.join(folder, "run.log"), "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "run.py"] + arguments,  # noqa: RUF005
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    while process.poll() is None and not _running(folder):
        time.sleep(0.05)
    return {}


def state(folder: str, offset: int) -> Dict[str, Any]:
    """Whether it runs, its last word, and the whole lines of the results from ``offset`` on."""
    running = _running(folder)  # asked first: what ends now has its last lines on disk
    text = _content(folder, "results.jsonl")[offset : offset + (1 << 20)]
    said = _content(folder, "run.log").decode("utf-8", "replace").split("\n")
    return {
        "running": running,
        "said": next((line.strip() for line in reversed(said) if line.strip()), ""),
        "lines": text[: text.rfind(b"\n") + 1].decode("utf-8", "replace"),
    }


def remove(folder: str) -> Dict[str, Any]:
    shutil.rmtree(folder, ignore_errors=True)
    return {}


def _running(folder: str) -> bool:
    path = os.path.join(folder, "run.lock")
    if not os.path.exists(path):
        return False
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _content(folder: str, name: str) -> bytes:
    """Nothing when it is not there."""
    try:
        with open(os.path.join(folder, name), "rb") as file:
            return file.read()
    except OSError:
        return b""
