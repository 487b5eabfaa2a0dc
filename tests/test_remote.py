"""Measuring over SSH against a real sshd on this machine: dropped connections, refusals, and what a device may lack."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import getpass
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_ort import FAKE_ORT

from nas.errors import BadInput
from nas.measuring import ssh as remote
from nas.measuring.kit import export_kit, import_kit
from nas.measuring.ssh import measure_remote

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
FEW = {"calibrate": 8, "validate": 2}

CRASHING_ORT = (
    FAKE_ORT
    + """
class InferenceSession(Session):
    def __init__(self, path, options, providers):
        if path.endswith("CRASHES"): os.kill(os.getpid(), signal.SIGSEGV)
        self.seconds = os.path.getsize(path) / 1e8
    def run_with_iobinding(self, binding): time.sleep(self.seconds)
"""
)


def keygen(path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path.with_suffix(".pub").read_text()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """host, the options that reach it, and ``drop()``, which ends all its connections."""
    if not (os.path.exists(SSHD) and shutil.which("ssh")):
        pytest.skip("no OpenSSH server here (apt-get install openssh-server)")
    folder = tmp_path_factory.mktemp("sshd")
    host_key, user_key = keygen(folder / "host"), keygen(folder / "user")
    (folder / "authorized").write_text(user_key)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "known").write_text(f"[127.0.0.1]:{port} {host_key}")
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
        f"PidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin yes\nPasswordAuthentication no\nMaxStartups 50\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where it separates privileges
    process = subprocess.Popen([SSHD, "-D", "-f", folder / "config", "-E", folder / "log"], stdin=subprocess.DEVNULL)
    options = {
        "Port": port,
        "IdentityFile": folder / "user",
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": folder / "known",
        "GlobalKnownHostsFile": "/dev/null",
    }
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    else:
        pytest.fail((folder / "log").read_text())
    yield SimpleNamespace(
        host=f"{getpass.getuser()}@127.0.0.1", options=options, folder=folder, drop=lambda: drop(process.pid)
    )
    process.terminate()
    process.wait()


def drop(listener):
    """Kill the sshd of every connection, but not what runs inside."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, rest = stat.read_text().split(" (", 1)
        except OSError:
            continue
        name, rest = rest.rsplit(") ", 1)
        if name.startswith("sshd"):
            parents[int(pid)] = int(rest.split()[1])
    below = {listener}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    for pid in below - {listener}:
        os.kill(pid, signal.SIGKILL)
    return len(below) - 1


@contextlib.contextmanager
def told(say):
    """``say`` hears what is logged."""
    logger, handler = logging.getLogger("nas"), logging.Handler()
    handler.emit = lambda record: say(record.getMessage()) if say else None
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@pytest.fixture(scope="module")
def exported(tiny, tmp_path_factory):
    return export_kit(tiny, tmp_path_factory.mktemp("kit") / "exported", **FEW)


@pytest.fixture
def measure(server, tiny, exported, tmp_path, monkeypatch):
    """``measure_remote`` to the server, into folders of its own; the kit is not written anew each time."""
    return measuring(server, tiny, exported, tmp_path, monkeypatch)


def measuring(server, tiny, exported, tmp_path, monkeypatch):
    def copied(space, folder, **settings):
        assert (settings["runtime"], settings["precision"], settings["calibrate"]) == ("onnxruntime", "fp32", 8)
        shutil.copytree(exported, folder, dirs_exist_ok=True)

    monkeypatch.setattr(remote, "export_kit", copied)

    def call(say=None, **changes):
        options = {**server.options, **changes.pop("options", {})}
        settings = {
            "run_dir": tmp_path / "here",
            "remote_dir": str(tmp_path / "the device's; kits"),
            "python": sys.executable,
            **FEW,
            **changes,
        }
        host = settings.pop("host", server.host)
        with told(say):
            return measure_remote(tiny, host, ssh_options=[f"{k}={v}" for k, v in options.items()], **settings)

    return call


@pytest.fixture
def device(exported, tmp_path):
    """A python for the device whose onnxruntime is a stand-in with a block that crashes; ``first``: run before it."""
    models = json.loads((exported / "manifest.json").read_text())["models"]
    used = {block for model in models for block in model.get("blocks", [])}
    crashes = next(m["file"] for i, m in enumerate(models) if m["role"] == "block" and i not in used)
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/onnxruntime.py").write_text(CRASHING_ORT.replace("CRASHES", crashes))

    def make(first=""):
        path = tmp_path / "device python"
        path.write_text(
            f'#!/bin/sh\nexport PYTHONPATH={tmp_path}/modules PYTHONDONTWRITEBYTECODE=1\n{first}\nexec {sys.executable} "$@"\n'
        )
        path.chmod(0o755)
        return str(path)

    return make


def results(folder):
    text = (folder / "table_fp32_kit/results.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def files(folder):
    return [line["file"] for line in results(folder) if "file" in line]


def test_round_survives_dropped_connections(server, measure, tiny, tmp_path, monkeypatch):
    said, dropped = [], []
    add = remote.tarfile.TarFile.add

    def broken(archive, *args, **kwargs):
        if len(archive.getmembers()) == 40 and not dropped:
            deadline = time.monotonic() + 20
            while not list(tmp_path.rglob("the device*/*/blocks/*")) and time.monotonic() < deadline:
                time.sleep(0.02)
            dropped.append(server.drop())
            time.sleep(0.2)
        add(archive, *args, **kwargs)

    def say(line):
        said.append(line)
        if "/58: " in line and len(dropped) == 1:
            dropped.append(server.drop())

    monkeypatch.setattr(remote.tarfile.TarFile, "add", broken)
    monkeypatch.setattr(remote, "POLL_S", 0.3)
    table = measure(say)
    assert len(dropped) == 2
    assert min(dropped) > 0  # there were connections to drop
    assert any("lost" in line for line in said)  # the second drop may fall between two calls
    copies = [line for line in said if line.startswith("copying")]
    assert len(copies) == 2  # the second sends the rest
    assert int(copies[1].split()[1]) < int(copies[0].split()[1])
    assert {b.key for b in table.blocks} == {b.key for b in tiny.blocks}
    assert table.validation.networks == 2
    done = files(tmp_path / "here")
    assert len(done) == len(set(done)) == 58
    again = import_kit(tmp_path / "here/table_fp32_kit", run_dir=tmp_path / "again")
    assert again.rows.equals(table.rows)
    assert not list((tmp_path / "the device's; kits").iterdir())  # tidied up
    assert not (tmp_path / "here/table_fp32_kit/blocks").exists()
    with pytest.raises(BadInput, match="already holds table_fp32"):
        measure(resume=False)
    assert measure(options={"Port": 1}).rows.equals(table.rows)  # finished: nobody is asked


def test_second_call_goes_on_and_leaves_out_the_block_that_crashed(measure, device, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "POLL_S", 0.3)
    python = device()

    def interrupt(line):
        if "/58: " in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(interrupt, python=python)
    before = files(tmp_path / "here")
    assert 0 < len(before) < 58
    with pytest.raises(BadInput, match="pass resume"):
        measure(python=python, resume=False)
    said = []
    table = measure(said.append, python=python)
    assert not any("copying" in line for line in said)
    done = files(tmp_path / "here")
    assert done[: len(before)] == before
    assert len(done) == len(set(done)) == 58
    (failed,) = table.notes["failed"].items()
    assert "SIGSEGV" in failed[1]
    assert len(table.rows) == len(tiny.blocks) - 1
    assert failed[0] not in table.row_of
    assert any(line.startswith(f"note: [{failed[0]}] failed") for line in said)


def test_full_disk_there_keeps_what_is_finished(measure, device, tmp_path):
    python = device("ulimit -f 10")  # files of at most 5 or 10 kB
    with pytest.raises(BadInput, match=r"127\.0\.0\.1: cannot write .*results\.jsonl: .* finished is kept") as error:
        measure(python=python)
    assert "\n" not in str(error.value)
    before = files(tmp_path / "here")
    assert 0 < len(before) < 58
    shutil.rmtree(tmp_path / "the device's; kits")  # the device was wiped: what was fetched is sent back
    measure(python=device(), resume=True)
    done = files(tmp_path / "here")
    assert done[: len(before)] == before
    assert len(done) == len(set(done)) == 58


def refused(measure, **changes):
    with pytest.raises(BadInput) as error:
        measure(**changes)
    text = str(error.value)
    assert "\n" not in text
    return text


def test_host_keys_are_checked(server, measure, tmp_path):
    options = {"UserKnownHostsFile": tmp_path / "empty"}
    assert "is not known; connect once with ssh" in refused(measure, options=options)
    known = (server.folder / "known").read_text().split(" ")[0]
    (tmp_path / "other").write_text(f"{known} {keygen(tmp_path / 'key')}")
    assert "has changed" in refused(measure, options={"UserKnownHostsFile": tmp_path / "other"})
    assert not (tmp_path / "here").exists()
    for value in ("no", "off", "No"):
        options = {"StrictHostKeyChecking": value}
        assert "host keys are always checked" in refused(measure, options=options)


def test_what_cannot_be_reached_is_one_line(measure, tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens
        text = refused(measure, options={"Port": closed.getsockname()[1]})
    assert "cannot reach" in text
    assert "refused" in text
    keygen(tmp_path / "stranger")
    assert "refuses the login" in refused(measure, options={"IdentityFile": tmp_path / "stranger"})
    assert "has no python9" in refused(measure, python="python9")
    assert "options: " in refused(measure, options={"NoSuchOption": "1"})
    assert not (tmp_path / "here").exists()


def test_lost_for_good(server, measure, device, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "POLL_S", 0.3)
    call = remote._Ssh.call

    def gone(ssh, function, **arguments):
        if function is remote.agent.state and files_there(tmp_path):
            ssh.options[:0] = ["-o", "Port=1", "-o", "ControlPath=none"]
        return call(ssh, function, **arguments)

    monkeypatch.setattr(remote._Ssh, "call", gone)
    text = refused(measure, python=device(), patience_s=1.5)
    assert "has not answered for 2 s" in text
    assert "pass resume" in text
    monkeypatch.setattr(remote._Ssh, "call", call)
    assert len(measure(python=device(), resume=True).notes["failed"]) == 1


def files_there(tmp_path):
    return (tmp_path / "here/table_fp32_kit/results.jsonl").exists()


def test_no_runtime_there(measure):
    assert "no runtime here: onnxruntime and numpy are not in this Python" in refused(
        measure, python="/usr/bin/python3"
    )


# Without a server: an ssh that keeps what it was asked, and runs the command here as the shell there would

SSH = """#!{python}
import json, os, sys
words, options = sys.argv[1:], []
while words[0] == "-o":
    options.append(words[1]); words = words[2:]
if words[0] == "-O": sys.exit(0)
assert words[0] == "--", words
host, command = words[1], " ".join(words[2:])
with open(os.environ["ASKED"], "a") as file:
    file.write(json.dumps([options, host, command]) + "\\n")
os.execvp("sh", ["sh", "-c", command])
"""


@pytest.fixture
def stub(tiny, exported, tmp_path, monkeypatch):
    """``measure_remote`` through the stand-in; ``asked()``: [options, host, command] of every call."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/ssh").write_text(SSH.format(python=sys.executable))
    (tmp_path / "bin/ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("ASKED", str(tmp_path / "asked"))
    monkeypatch.setattr(remote, "POLL_S", 0.3)
    call = measuring(SimpleNamespace(host="pi@board", options={}), tiny, exported, tmp_path, monkeypatch)
    asked = lambda: [json.loads(line) for line in (tmp_path / "asked").read_text().splitlines()]  # noqa: E731
    return SimpleNamespace(measure=call, asked=asked)


def effective(options, key):
    """As ssh takes them: the first of each name counts, whatever its case."""
    return next((o.partition("=")[2] for o in options if o.partition("=")[0].lower() == key.lower()), None)


def test_a_round_without_a_server_asks_only_for_what_is_safe(stub, device, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = f"{tmp_path}/there's; touch pwned $(touch pwned) `touch pwned`"
    table = stub.measure(python=device(), remote_dir=folder)
    assert len(table.rows) == len(tiny.blocks) - 1
    assert not (tmp_path / "pwned").exists()
    asked = stub.asked()
    assert len(asked) > 4
    for options, host, command in asked:
        assert host == "pi@board"
        assert effective(options, "StrictHostKeyChecking") == "yes"
        assert effective(options, "BatchMode") == "yes"  # no question that nobody answers
        assert not any(name in command for name in ("python3 run.py", tiny.blocks[0].key))
    (kit_folder,) = (command for _, _, command in asked if "tar" in command)
    assert kit_folder.startswith("mkdir -p -- '")
    assert not list(Path(folder).iterdir())  # tidied up
    assert stub.measure(python=device(), remote_dir=folder).rows.equals(table.rows)
    for change, text in (
        ({"host": "pi@other"}, r"is of another host \(pi@board, now pi@other\)"),
        ({"threads": 2}, r"a table of another threads \(1, now 2\)"),
        ({"validate": 3}, "a table of another choice of networks"),
        ({"resume": False}, "already holds table_fp32; pass resume"),
    ):
        with pytest.raises(BadInput, match=text):
            stub.measure(python=device(), **change)
    assert len(stub.asked()) == len(asked)  # nobody was asked again


def test_what_the_user_wants_of_ssh_comes_before_what_we_want(stub, device, tmp_path):
    stub.measure(
        python=device(), options={"ConnectTimeout": "3", "StrictHostKeyChecking": "accept-new", "BatchMode": "no"}
    )
    for options, _, _ in stub.asked():
        assert effective(options, "ConnectTimeout") == "3"
        assert effective(options, "StrictHostKeyChecking") == "accept-new"
        assert effective(options, "BatchMode") == "yes"


def test_a_device_gets_no_file_but_the_kits(stub, device, tmp_path, monkeypatch):
    (tmp_path / "secret").write_text("key")
    sent, send, call = [], remote._Ssh.send, remote._Ssh.call

    def greedy(ssh, function, **arguments):
        seen = call(ssh, function, **arguments)
        if function is remote.agent.look:
            return dataclasses.replace(seen, missing=[*seen.missing, "../../../secret", str(tmp_path / "secret")])
        return seen

    monkeypatch.setattr(remote._Ssh, "call", greedy)
    monkeypatch.setattr(
        remote._Ssh, "send", lambda ssh, kit, paths, folder: (sent.extend(paths), send(ssh, kit, paths, folder))
    )
    stub.measure(python=device())
    assert sent
    assert not [path for path in sent if "secret" in path]


@pytest.mark.parametrize(
    "answer",
    [
        '{"python": "3"}',
        '{"python": [3, 11], "free": "much"}',
        "[" * 9999 + "]" * 9999,
        '{"python": [3, 11], "missing": [[1]]}',
        '{"free": 1e999}',
    ],
)
def test_a_device_that_answers_nonsense_is_one_line(stub, tmp_path, answer):
    (tmp_path / "python").write_text(
        f"#!/bin/sh\ncat > /dev/null; cat <<'END'\n\n@nas {answer if answer[0] == '{' else '{' + answer + '}'}\nEND\n"
    )
    (tmp_path / "python").chmod(0o755)
    assert "pi@board" in refused(stub.measure, python=str(tmp_path / "python"))
    assert not (tmp_path / "here").exists()


def test_two_rounds_in_one_folder(stub, device, tmp_path):
    (tmp_path / "here").mkdir()
    with open(tmp_path / "here/.lock", "w") as other:
        other.write("4242")
        other.flush()
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "another process (pid 4242) is at work" in refused(stub.measure, python=device())


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"host": "-oProxyCommand=touch pwned"}, "host or user@host"),
        ({"host": "user@-x"}, "host or user@host"),
        ({"host": "host; touch pwned"}, "host or user@host"),
        ({"host": ""}, "host or user@host"),
        ({"options": {"Port": ""}}, "Key=Value"),
        ({"options": {"-F": "x"}}, "Key=Value"),
        ({"remote_dir": "~root/x"}, "below the home directory"),
        ({"remote_dir": "../x"}, "below the home directory"),
        ({"name": "../x"}, "the name of a table becomes a file name"),
        ({"options": {"StrictHostKeyChecking": "no"}}, "host keys are always checked"),
        ({"options": {"stricthostkeychecking": "OFF"}}, "host keys are always checked"),
        ({"patience_s": float("nan")}, "patience_s is a number"),
        ({"runtime": "tvm"}, "runtime is one of"),
        ({"precision": "../x"}, "precision is one of"),
        ({"threads": 0}, "threads is a whole number"),
    ],
)
def test_names_that_ssh_could_misread(stub, tmp_path, changes, text):
    assert text in refused(stub.measure, **changes)
    assert not (tmp_path / "asked").exists()
    assert not (tmp_path / "here").exists()
