"""Measuring over SSH: a kit is copied to the device, runs there by itself, and its results come back as they appear.

Needs the OpenSSH client here; there an SSH server, python3 (3.8 or later), tar and the runtime. Nothing else is
installed there, and nothing asks: the login is by key, and the host's key must be known (connect once with ``ssh``).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shlex
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from nas.checks import Batch, Count, Seed, Threads, checked
from nas.errors import BadInput
from nas.files import append_text, locked, read_text, write_text
from nas.measuring.kit import RUNTIME, Tool, export_kit, import_kit
from nas.measuring.plan import CALIBRATE, VALIDATE, plan
from nas.measuring.results import already, beside, problems_are_bad_input, stem_of
from nas.on_device import agent
from nas.on_device.results import load_manifest
from nas.space import SearchSpace
from nas.tables.table import LatencyTable

POLL_S = 5.0
_HOST = "host.txt"  # in the kit's folder here: which it is of
_log = logging.getLogger("nas")
_STARTS = 3  # of a runner that ends without a word

T = TypeVar("T")


@checked
def measure_remote(
    space: SearchSpace,
    host: str,
    *,
    run_dir: str | os.PathLike[str],
    name: str | None = None,
    runtime: Tool = "onnxruntime",
    precision: Literal["fp32", "fp16", "int8"] = "fp32",
    batch: Batch = 1,
    threads: Threads = 1,
    calibrate: Count = CALIBRATE,
    validate: Count = VALIDATE,
    seed: Seed = 0,
    resume: bool | Literal["auto"] = "auto",
    ssh_options: Sequence[str] = (),
    python: str = "python3",
    tool_path: str | None = None,
    remote_dir: str = "nas_kits",
    patience_s: Annotated[float, Meta(ge=0, le=1e9)] = 900.0,
) -> LatencyTable:
    """The latency table of ``space`` on ``host`` ("user@host"), by the tool ``runtime`` there (``export_kit``).

    The runner outlives the connection; a dropped one is taken up again, for ``patience_s`` without an answer.
    ``ssh_options``: "Key=Value" each, as for ``ssh -o``; host keys are always checked. ``python``: the one there.
    ``remote_dir``: of kits, below the home directory there. Blocks that failed are left out (``notes["failed"]``).

    Writes what ``measure`` writes into ``run_dir``, and ``<name>_kit`` with the raw results. The same call again loads a
    finished table, and goes on wherever an interrupted round was. Raises BadInput for another call in that folder (naming
    what differs), any with ``resume=False``, and what goes wrong with host, login or device; what is finished is kept.
    """
    _check_names(host, ssh_options, remote_dir)
    stem = stem_of(run_dir, name, precision)
    kit = beside(stem, "_kit")
    device: dict[str, Any] = {"precision": precision, "batch": batch, "threads": threads}
    networks: dict[str, Any] = {"calibrate": calibrate, "validate": validate, "seed": seed}
    table = already(stem, kit, resume, plan(space, **networks), runtime=RUNTIME[runtime], **device)
    if (kit / _HOST).exists() and (before := read_text(kit / _HOST)) != host:
        raise BadInput(f"{kit} is of another host ({before}, now {host}); choose another folder or name")
    if table:
        return table
    tool = ["--tool", runtime] + (["--tool-path", tool_path] if tool_path else [])
    with _connected(host, ssh_options, python) as ssh:
        _check_machine(ssh)
        with locked(stem.parent):
            export_kit(space, kit, runtime=runtime, **device, **networks)
            write_text(kit / _HOST, host)
            folder = _round(ssh, kit, remote_dir.rstrip("/"), tool, _Patience(patience_s, host))
            table = import_kit(kit, space=space, run_dir=run_dir, name=stem.name, allow_failed=True)
        _tidy(ssh, kit, folder)
    return table


def _tidy(ssh: _Ssh, kit: Path, folder: str) -> None:
    """Remove the kit there, and its models here."""
    with contextlib.suppress(_Lost, BadInput):
        ssh.call(agent.remove, folder=folder)
    for models in ("blocks", "networks"):
        shutil.rmtree(kit / models, ignore_errors=True)


def _round(ssh: _Ssh, kit: Path, remote_dir: str, tool: list[str], patient: _Patience) -> str:
    """Copy ``kit`` below ``remote_dir`` there, run it, and fetch its results; the kit's folder there."""
    with problems_are_bad_input():
        manifest = load_manifest(str(kit))
    folder = f"{remote_dir}/{manifest['kit']}"
    patient(lambda: _copy(ssh, kit, [m["file"] for m in manifest["models"]], folder))
    _follow(ssh, kit, folder, tool, patient)
    return folder


@dataclass(frozen=True)
class _Seen:
    """What ``agent.look`` and ``agent.state`` answer."""

    python: list[int] = field(default_factory=list)
    free: int = 0
    missing: list[str] = field(default_factory=list)
    size: int = 0
    running: bool = False
    said: str = ""
    lines: str = ""


def _check_names(host: str, ssh_options: Sequence[str], remote_dir: str) -> None:
    if not re.fullmatch(r"(?!-)([\w.+-]+@(?!-))?[\w.:%\[\]-]+", host):
        raise BadInput(f"a host is given as host or user@host, got {host!r}")
    for option in ssh_options:
        key, _, value = option.partition("=")
        if not re.fullmatch(r"[A-Za-z]+", key) or not value:
            raise BadInput(f"an option of ssh is given as Key=Value, got {option!r}")
        if key.lower() == "stricthostkeychecking" and value.lower() not in ("yes", "ask", "accept-new"):
            raise BadInput(f"host keys are always checked; leave out {option}, and connect once with ssh {host}")
    if remote_dir.startswith(("~", "-")) or ".." in Path(remote_dir).parts:
        raise BadInput(f"remote_dir is a folder below the home directory there, or an absolute one, got {remote_dir!r}")


def _check_machine(ssh: _Ssh) -> None:
    try:
        there = ssh.call(agent.look, folder=".", files={}).python
    except _Lost as error:
        raise BadInput(f"cannot reach {ssh.host}: {error}") from None
    if there < [3, 8]:
        seen = ".".join(map(str, there))
        raise BadInput(f"{ssh.host} has Python {seen} as {ssh.python}; the measuring kit needs 3.8 or later")


def _copy(ssh: _Ssh, kit: Path, models: Sequence[str], folder: str) -> None:
    """Send what is missing there; results too, should the device have lost them."""
    program = sorted(str(p.relative_to(kit)) for p in (kit / "kit_runner").glob("*.py"))
    paths = ["manifest.json", "run.py", *program, *models]
    files = {path: hashlib.sha256((kit / path).read_bytes()).hexdigest() for path in paths}
    there = ssh.call(agent.look, folder=folder, files=files)
    asked = set(there.missing)
    missing = [path for path in paths if path in asked]  # and nothing else that it may ask for
    results = kit / "results.jsonl"
    if results.exists() and results.stat().st_size > there.size and not there.running:
        missing.append(results.name)
    size = sum((kit / path).stat().st_size for path in missing)
    if there.free < size + (4 << 20):
        raise BadInput(f"{ssh.host} has {there.free / 1e6:.0f} MB free, the kit needs {size / 1e6:.0f} MB more")
    if missing:
        _log.info("copying %d files (%.1f MB) to %s", len(missing), size / 1e6, ssh.host)
        ssh.send(kit, missing, folder)


def _follow(ssh: _Ssh, kit: Path, folder: str, arguments: list[str], patient: _Patience) -> None:
    """Start the runner unless it runs, and fetch its lines until it has finished."""
    results = kit / "results.jsonl"
    starts, said, pause = 0, "", 0.25
    while True:
        offset = results.stat().st_size if results.exists() else 0
        state = patient(lambda: ssh.call(agent.state, folder=folder, offset=offset))  # noqa: B023 - called at once
        append_text(results, state.lines)
        if state.said != said and starts:
            said = state.said
            _log.info("%s: %s", ssh.host, _plain(said))
        if state.lines:
            starts, pause = min(starts, 1), 0.25
            continue
        if not state.running:
            if starts and state.said.startswith("error: "):
                raise BadInput(f"{ssh.host}: {_plain(state.said[7:])}")
            if _ended(results):
                return
            if starts == _STARTS:
                last = _plain(state.said) or "silent"
                raise BadInput(f"{ssh.host}: run.py ended {starts} times without a result: {last}")
            patient(lambda: ssh.call(agent.start, folder=folder, arguments=arguments))
            starts += 1
        starts = max(starts, 1)
        time.sleep(pause)
        pause = min(POLL_S, pause * 1.5)


def _ended(results: Path) -> bool:
    lines = results.read_text().splitlines() if results.exists() else []
    return bool(lines) and '"finished": true' in lines[-1]


class _Lost(Exception):
    """No connection, or it broke."""


@dataclass
class _Patience:
    """Calls again while the connection is lost, ever less often."""

    seconds: float
    host: str

    def __call__(self, function: Callable[[], T]) -> T:
        begun, pause = time.monotonic(), 0.5
        while True:
            try:
                return function()
            except _Lost as error:
                if time.monotonic() - begun > self.seconds:
                    raise BadInput(
                        f"{self.host} has not answered for {self.seconds:.0f} s: {error}; what is finished is kept, "
                        "and the device goes on by itself; pass resume (--resume) to go on"
                    ) from None
                _log.info("connection to %s lost (%s), trying again", self.host, error)
            time.sleep(pause)
            pause = min(30.0, 2 * pause)


@dataclass
class _Ssh:
    host: str
    python: str
    options: list[str] = field(default_factory=list)

    def call(self, function: Callable[..., dict[str, Any]], **arguments: Any) -> _Seen:
        """What a function of ``agent`` returns there. Raises _Lost, or BadInput."""
        source = Path(agent.__file__).read_text()
        sent = f"{source}\n\nanswer({function.__name__}(**{arguments!r}))\n".encode()
        # ssh joins its arguments to one line for the shell there
        output = self._run(f"{shlex.quote(self.python)} -", sent)
        found = re.findall(r"^@nas (\{.*\})$", output, re.MULTILINE)
        if not found:
            raise BadInput(f"{self.host}: {self.python} did not run what was sent: {_last(output)}")
        try:
            return msgspec.json.decode(found[-1], type=_Seen)
        except (msgspec.MsgspecError, RecursionError):
            raise BadInput(f"{self.host} answers what was not asked: {_plain(found[-1])[:80]}") from None

    def send(self, kit: Path, paths: Sequence[str], folder: str) -> None:
        """Unpack ``paths`` of ``kit`` into ``folder`` there. A connection that breaks leaves whole files and one part."""
        there = shlex.quote(folder)
        process, errors = self._start(f"mkdir -p -- {there} && tar -xf - -C {there}")
        assert process.stdin is not None
        with errors:
            # an OSError: it broke, and ssh says why
            with contextlib.suppress(OSError), process.stdin as pipe, tarfile.open(fileobj=pipe, mode="w|") as archive:
                for path in paths:
                    archive.add(kit / path, arcname=path)
            self._finish(process, errors, None)

    def _run(self, command: str, sent: bytes) -> str:
        process, errors = self._start(command)
        with errors:
            return self._finish(process, errors, sent)

    def _start(self, command: str) -> tuple[subprocess.Popen[bytes], Any]:
        # stderr into a file: a master connection in the background would keep a pipe open
        errors = tempfile.TemporaryFile()  # noqa: SIM115
        line = ["ssh", *self.options, "--", self.host, command]
        try:
            return subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors), errors
        except FileNotFoundError:
            errors.close()
            raise BadInput("the OpenSSH client (ssh) is not installed on this machine") from None

    def _finish(self, process: subprocess.Popen[bytes], errors: Any, sent: bytes | None) -> str:
        if sent is None:
            process.stdin = None
        try:
            output = process.communicate(sent, timeout=120 if sent else None)[0]
        except subprocess.TimeoutExpired:
            raise _Lost("no answer for 120 s") from None
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()
        errors.seek(0)
        said = errors.read().decode("utf-8", "replace")
        if process.returncode == 255:
            raise self._lost(said)
        if process.returncode == 127:
            raise BadInput(f"{self.host} has no {self.python}: {_last(said)}")
        if process.returncode:
            raise BadInput(f"{self.host}: {_last(said)}")
        return output.decode("utf-8", "replace")

    def _lost(self, said: str) -> Exception:
        if "IDENTIFICATION HAS CHANGED" in said:
            return BadInput(
                f"the host key of {self.host} has changed since it became known: another machine answers, or it was set "
                "up anew; when that is so, remove the old key (ssh-keygen -R) and connect once with ssh"
            )
        if "Host key verification failed" in said:
            return BadInput(f"the host key of {self.host} is not known; connect once with ssh and check it")
        if "Permission denied" in said:
            return BadInput(
                f"{self.host} refuses the login: {_last(said)}; a key without a question is needed (ssh-agent)"
            )
        if "Bad configuration option" in said or "ommand-line" in said:
            return BadInput(f"ssh does not take these options: {_last(said)}")
        return _Lost(_last(said))


@contextlib.contextmanager
def _connected(host: str, ssh_options: Sequence[str], python: str) -> Iterator[_Ssh]:
    """All calls share one connection while it lasts."""
    with tempfile.TemporaryDirectory(prefix="nas") as folder:
        fixed = {
            "BatchMode": "yes",
            "ConnectTimeout": "15",
            "ServerAliveInterval": "10",
            "ServerAliveCountMax": "3",
            "ControlMaster": "auto",
            "ControlPath": f"{folder}/%C",
            "ControlPersist": "60",
            "LogLevel": "ERROR",
        }
        given = [o.partition("=")[0].lower() for o in ssh_options]
        if "stricthostkeychecking" not in given:
            fixed["StrictHostKeyChecking"] = "yes"
        # ssh takes the first value of each
        ours = [f"{key}={value}" for key, value in fixed.items() if key.lower() not in given or key == "BatchMode"]
        ssh = _Ssh(host, python, [word for option in [*ours, *ssh_options] for word in ("-o", option)])
        try:
            yield ssh
        finally:
            with contextlib.suppress(OSError):
                subprocess.run(["ssh", *ssh.options, "-O", "exit", "--", host], capture_output=True, timeout=20)


def _last(text: str) -> str:
    said = [line.strip() for line in text.splitlines() if line.strip()]
    return _plain(said[-1]) if said else "nothing was said"


def _plain(text: str) -> str:
    """What a device said, without what a terminal would obey."""
    return "".join(c for c in text[:300] if c.isprintable())
