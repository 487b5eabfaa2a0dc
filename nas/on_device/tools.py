"""The runtimes. Each times models, {file, input, ...}, and gives {ms, p10_ms, p90_ms, runs} or {failed} for each.

trtexec and adb were tested against recorded forms of their output, not on real devices.
"""

# ruff: noqa: UP035, B905 - Python 3.8
from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import shlex
import shutil
import signal
import sys
import tempfile
from typing import Callable, Iterable, Iterator

from .campaign import Driver
from .device import Json, affinity, conditions, cpu_name, digest, machine, text_of, texts_of
from .outputs import (
    Broken,
    Problem,
    middle,
    parse_benchmark_model,
    parse_trtexec,
    parse_trtexec_times,
    tensorrt_version,
)
from .power import Power, power_rails
from .process import checked, died, run_tool


class Tool(Driver):
    """``hang_s``: without a sign of life. ``version``: None while only a run can tell."""

    hang_s = 1800.0
    version: str | None = None

    def __init__(self, folder: str, manifest: Json, threads: int, args: argparse.Namespace) -> None:
        self.folder, self.manifest, self.threads, self.args = folder, manifest, threads, args
        self.hang_s = args.timeout or self.hang_s
        self.rails = power_rails()
        self.find()

    def find(self) -> None:
        """Raises Broken when the tool is not here."""
        raise NotImplementedError

    def device(self) -> dict[str, str]:
        board = (text_of("/proc/device-tree/model") or "").strip("\0 \n")
        return {"name": board or cpu_name(), "chip": cpu_name(), "machine": machine(platform.machine())}

    def conditions(self) -> Json:
        return {**conditions(texts_of), "affinity": affinity(), "rails": [rail[0] for rail in self.rails]}

    def executable(self, places: Iterable[str]) -> str:
        """``--tool-path``, or the tool on PATH or in ``places``."""
        found = [self.args.tool_path] if self.args.tool_path else [shutil.which(self.name), *places]
        for path in found:
            if path and os.access(path, os.X_OK) and os.path.isfile(path):
                return os.path.abspath(path)
        where = self.args.tool_path or " or ".join(["PATH", *places])
        raise Broken(f"{self.name} is not in {where} (give --tool-path)")


class OnnxRuntime(Tool):
    """A group is timed by one process of this script; if that dies or hangs, it has named the model it was at."""

    name = "onnxruntime"
    probe, again, attempts, hang_s = 8, 48, 3, 120.0

    def find(self) -> None:
        try:
            said = checked([sys.executable, "-c", "import onnxruntime, numpy; print(onnxruntime.__version__)"], 120)
            self.version = said.split()[-1]
        except (Broken, IndexError):
            raise Broken(
                f"onnxruntime and numpy are not in this Python ({sys.executable}): pip install onnxruntime"
            ) from None

    def time(self, models: list[Json], energy: bool) -> list[Json]:
        timed: dict[int, Json] = {}
        crashed: set[int] = set()
        while len(timed) < len(models):
            pending = [i for i in range(len(models)) if i not in timed]
            files = [[os.path.join(self.folder, models[i]["file"]), models[i]["input"]] for i in pending]
            job = {
                "models": files,
                "threads": self.threads,
                "rails": self.rails if energy else [],
                "hang_s": self.hang_s,
            }
            command = [sys.executable, os.path.join(self.folder, "run.py"), "--worker"]
            code, output = run_tool(command, self.hang_s * (len(files) + 1), json.dumps(job).encode())
            messages, at = [json.loads(m) for m in re.findall(r"^@nas (\{.*\})$", output, re.MULTILINE)], None
            for message in messages:
                at = pending[message.pop("model")]
                if message:
                    timed[at] = message
            if code == 0 and not set(pending) - timed.keys():
                break
            text = died(code, re.sub(r"^@nas .*$", "", output, flags=re.MULTILINE), self.hang_s)
            if at is None:
                raise Problem(f"onnxruntime does not start: {text}")
            if at in crashed or code == -signal.SIGALRM:
                timed[at] = {"failed": text}
            crashed.add(at)
        return [timed[i] for i in range(len(models))]


class Trtexec(Tool):
    """One process builds the engine and times it; the kernel timings of earlier builds are kept and used again."""

    name = "trtexec"

    def find(self) -> None:
        self.path = self.executable(["/usr/src/tensorrt/bin/trtexec"])
        cache = os.path.join(self.folder, "trtexec.cache")
        self.newer = ["--noDataTransfers", "--useSpinWait", f"--timingCacheFile={cache}"]  # since TensorRT 8

    def time(self, models: list[Json], energy: bool) -> list[Json]:
        return [twice(self._one, os.path.join(self.folder, m["file"])) for m in models]

    def device(self) -> dict[str, str]:
        gpu = ""
        with contextlib.suppress(Broken):
            gpu = checked(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], 20).split("\n")[0].strip()
        found = super().device()
        return {**found, "chip": gpu or found["chip"]}

    def _one(self, path: str) -> Json:
        precision = {"fp32": "--noTF32", "fp16": "--fp16", "int8": "--int8"}[self.manifest["precision"]]
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="work-") as scratch, Power(self.rails) as meter:
            times = os.path.join(scratch, "times.json")
            command = [self.path, f"--onnx={path}", precision, "--warmUp=300", "--duration=2", f"--exportTimes={times}"]
            try:
                text = checked([*command, *self.newer], self.hang_s)
            except Broken as error:
                if not self.newer or "nknown option" not in str(error):
                    raise
                self.newer = []
                text = checked(command, self.hang_s)
            exported = text_of(times)
        self.version = self.version or "unknown"
        if version := re.search(r"\[TensorRT v(\d+)\]", text):
            self.version = tensorrt_version(int(version.group(1)))
        try:
            result = parse_trtexec_times(exported or "")
        except Broken:
            result = parse_trtexec(text)
        return {**result, **meter.window(before_end=1.0)}  # it times for the 2 s before it cleans up


class BenchmarkModel(Tool):
    """Here or, with --adb, on a phone: models are pushed, timed and removed group by group."""

    name = "benchmark_model"
    again, attempts, hang_s = 16, 2, 300.0
    visits = 3  # to each model of a group

    def find(self) -> None:
        if self.args.adb is None:
            self.path = self.executable([])
            self.version = f"sha256-{digest(self.path)[:12]}"
            return
        if not re.fullmatch(r"([A-Za-z0-9._:][A-Za-z0-9._:\-]*)?", self.args.adb):
            raise Problem(f"--adb takes a serial number as 'adb devices' lists it, got {self.args.adb!r}")
        adb = shutil.which("adb")
        if not adb:
            raise Broken("adb is not on PATH")
        self.adb = [adb, *(["-s", self.args.adb] if self.args.adb else [])]
        self.rails = []
        self.path = self.args.tool_path or "/data/local/tmp/benchmark_model"
        try:
            self.version = f"sha256-{self._shell('sha256sum', self.path).split()[0][:12]}"
        except (Broken, IndexError) as error:
            raise Broken(
                f"{self.path} is not on the phone ({error}); push it there, chmod +x, or give --tool-path"
            ) from None

    def device(self) -> dict[str, str]:
        if self.args.adb is None:
            return super().device()
        model, soc, board = (
            self._shell("getprop", f"ro.{p}").strip() for p in ("product.model", "soc.model", "board.platform")
        )
        chip = soc or board or "unknown"
        return {"name": model or chip, "chip": chip, "machine": machine(self._shell("uname", "-m").strip())}

    def conditions(self) -> Json:
        return super().conditions() if self.args.adb is None else conditions(self._texts)

    def time(self, models: list[Json], energy: bool) -> list[Json]:
        here = [os.path.join(self.folder, m["file"]) for m in models]
        with contextlib.ExitStack() as stack:
            paths = here if self.args.adb is None else stack.enter_context(self._on_phone(here))
            visits: list[list[Json]] = [[] for _ in models]
            for _ in range(self.visits):
                for done, path in zip(visits, paths):
                    if not done or "failed" not in done[-1]:
                        done.append(twice(self._one, path))
        return [v[-1] if "failed" in v[-1] else middle(v) for v in visits]

    def _one(self, path: str) -> Json:
        limits = ["--warmup_runs=3", "--warmup_min_secs=0.1", "--num_runs=30", "--min_secs=0.3", "--max_secs=20"]
        command = [self.path, f"--graph={path}", f"--num_threads={self.threads}", "--use_xnnpack=true", *limits]
        if self.args.adb is not None:
            return parse_benchmark_model(self._shell(*command))
        with Power(self.rails) as meter:
            result = parse_benchmark_model(checked(command, self.hang_s))
        return {**result, **meter.window()}

    @contextlib.contextmanager
    def _on_phone(self, here: list[str]) -> Iterator[list[str]]:
        work = f"/data/local/tmp/nas_kit_{self.manifest['kit']}"
        try:
            self._shell("mkdir", "-p", work)
            there = [f"{work}/{i}_{os.path.basename(path)}" for i, path in enumerate(here)]
            for local, remote in zip(here, there):
                self._adb("push", local, remote)
        except Broken as error:
            raise Problem(f"adb cannot push the models: {error}") from None
        try:
            yield there
        finally:
            with contextlib.suppress(Broken, Problem):
                self._shell("rm", "-rf", work)

    def _texts(self, pattern: str) -> list[str]:
        try:
            return self._shell("sh", "-c", f"cat {pattern} 2>/dev/null; true").splitlines()
        except Broken:
            return []

    def _shell(self, *command: str) -> str:
        """Run on the phone; every word quoted, since adb hands one line to the phone's shell."""
        return self._adb("shell", " ".join(shlex.quote(word) for word in command))

    def _adb(self, *words: str) -> str:
        try:
            return checked([*self.adb, *words], self.hang_s)
        except Broken as error:
            if re.search(r"(adb|error): .*(no devices|not found|offline|unauthorized|more than one)", str(error)):
                raise Problem(f"the phone does not answer: {error}; connect it, the same command goes on") from None
            raise


TOOLS = {kind.name: kind for kind in (OnnxRuntime, Trtexec, BenchmarkModel)}


def twice(function: Callable[[str], Json], path: str) -> Json:
    """A tool that fails or prints garbage gets one more chance; one that hangs does not."""
    text = ""
    for _ in range(2):
        try:
            return function(path)
        except Broken as error:
            text = str(error)
            if text.startswith("hung"):
                break
    return {"failed": text}
