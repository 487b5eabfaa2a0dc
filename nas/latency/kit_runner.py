#!/usr/bin/env python3
"""Times the models of a measuring kit on this device: ``python3 run.py``. The same command again goes on.

Python 3.8 or later and its standard library; nothing to install but the runtime itself: onnxruntime (in this Python),
NVIDIA's ``trtexec``, or LiteRT's ``benchmark_model`` (here, or over adb on an Android phone).
Every finished model is one line of ``results.jsonl``; copy that file back and import it (``nas measure --import-kit``).

trtexec and adb were tested against recorded forms of their output, not on real devices.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import glob
import hashlib
import json
import math
import os
import platform
import queue
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, Iterable, Iterator, Sequence  # noqa: UP035 - typing, not collections.abc: Python 3.8

SYS = "/sys"
FORMATS = {"onnxruntime": "onnx", "trtexec": "onnx", "benchmark_model": "tflite"}
GROUP = 16  # models that are timed in turn, the reference among them
AGAIN = {"onnxruntime": 48, "trtexec": 8, "benchmark_model": 16}  # timed a second time at the end
HANG_S = {"onnxruntime": 120.0, "trtexec": 1800.0, "benchmark_model": 300.0}  # without a sign of life
VISITS = 3  # of benchmark_model to each model of a group
DISTURBED = 1.10  # a group is timed again when the reference ran this much slower than usual
ATTEMPTS = {"onnxruntime": 3, "trtexec": 1, "benchmark_model": 2}
MIN_ROUNDS, MAX_ROUNDS, SAMPLES, TIGHT, SAMPLE_MS, LONG_S = 6, 24, 4, 0.02, 0.1, 60.0  # as nas.latency.timing
WINDOW_S = 0.3  # how long a model runs alone for its power
ANDROID = "/data/local/tmp"
_MARK = "@nas "


class Problem(Exception):
    """Ends the campaign with one line for the user; what is finished stays."""


class Broken(Exception):
    """The tool failed on one model."""


# --------------------------------------------------------------------------------------------------------------
# The campaign


def main(argv: Sequence[str] | None = None) -> int:
    """0: finished. 2: one line said why not. 130: interrupted."""
    parser = argparse.ArgumentParser(description="Times the models of this kit; the same command again goes on.")
    parser.add_argument("--tool", choices=sorted(FORMATS), help="default: the first that the kit allows and is here")
    parser.add_argument("--threads", type=int, help="default: as the kit was made")
    parser.add_argument("--tool-path", help="of trtexec or benchmark_model (with --adb: on the phone)")
    parser.add_argument("--adb", nargs="?", const="", metavar="SERIAL", help="run benchmark_model on this phone")
    parser.add_argument("--timeout", type=float, help="seconds without a sign of life after which a model hangs")
    parser.add_argument("--retry-failed", action="store_true", help="time the models that failed once more")
    parser.add_argument("--detached", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        return worker()
    folder = os.path.dirname(os.path.abspath(__file__))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        campaign(folder, args)
        code = 0
    except Problem as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        code = 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr, flush=True)
        code = 130
    if args.detached:
        with contextlib.suppress(OSError), open(os.path.join(folder, "run.exit"), "w") as file:
            file.write(str(code))
    return code


def campaign(folder: str, args: argparse.Namespace) -> None:
    """Time what ``results.jsonl`` lacks."""
    with locked(folder):
        manifest = load_manifest(folder)
        check_files(folder, manifest)
        tool = choose_tool(folder, manifest, args)
        device = tool.device()
        if manifest.get("machine") and manifest["machine"] != device["machine"]:
            raise Problem(f"this kit was made for {manifest['machine']}, this device is {device['machine']}")
        check_space(folder, manifest)
        models = {m["file"]: m for m in manifest["models"]}
        reference = models[manifest["reference"]]
        begun = time.monotonic()
        first = tool.time([reference])[0]
        if "failed" in first:
            raise Problem(f"{tool.name} cannot run even the reference block: {first['failed']}")
        each = time.monotonic() - begun
        header = {"kit": manifest["kit"], "tool": tool.name, "version": tool.version, "threads": tool.threads}
        results = Results(folder, dict(header, **device))
        results.add({"conditions": tool.conditions(), "at": time.time()})
        if args.retry_failed:
            results.failed.clear()
        todo = [f for f in models if f not in results.done and f not in results.failed]
        work = [1 if models[f]["role"] == "block" else 5 for f in todo]
        print(f"{tool.name} {tool.version} on {device['name']}, {tool.threads} thread(s)")
        print(f"{len(todo)} of {len(models)} models to time: about {span(sum(work) * each / tool.shared)}", flush=True)
        for role in ("block", "calibrate", "validate"):
            # networks have a watch of their own: between them the reference finds other caches
            files = [f for f in todo if models[f]["role"] == role]
            time_all(tool, [models[f] for f in files], reference, results, len(models))
        if not results.again:
            blocks = [m for m in manifest["models"] if m["role"] == "block" and m["file"] in results.done]
            some = blocks[:: max(1, len(blocks) // AGAIN[tool.name])][: AGAIN[tool.name]]
            time_all(tool, some, reference, results, len(models), again=True)
        results.add({"conditions": tool.conditions(), "at": time.time(), "finished": True})
        print(f"finished: {len(results.done)} models timed, {len(results.failed)} failed; copy results.jsonl back")
        for file, text in results.failed.items():
            print(f"failed: {file} [{models[file]['key']}]: {text}", flush=True)


def time_all(
    tool: Tool, models: list[dict], reference: dict, results: Results, total: int, again: bool = False
) -> None:
    """Time ``models`` in groups with the reference among them; a disturbed group is timed again."""
    usual: list[float] = []
    begun = time.monotonic()
    for start in range(0, len(models), GROUP):
        group = models[start : start + GROUP]
        for _ in range(ATTEMPTS[tool.name]):
            timed = tool.time([*group, reference])
            check = timed.pop()
            if "failed" in check:
                raise Problem(f"{tool.name} no longer runs the reference block: {check['failed']}")
            if not usual or check["ms"] <= DISTURBED * statistics.median(usual):
                break
        usual.append(check["ms"])
        results.add({"reference": check["ms"], "at": time.time()})
        for i, model in enumerate(group):
            key = "again" if again else "file"
            results.add(dict({key: model["file"], "sha256": model["sha256"], "at": time.time()}, **timed[i]))
        done = start + len(group)
        left = (time.monotonic() - begun) / done * (len(models) - done)
        drift = check["ms"] / usual[0] - 1
        where = "second look" if again else f"{len(results.done) + len(results.failed)}/{total}"
        print(f"{where}: {span(left)} left in this part; reference {check['ms']:.4g} ms ({drift:+.1%})", flush=True)


class Results:
    """``results.jsonl``: a header line, then a line per finished thing, each on disk before the next begins."""

    def __init__(self, folder: str, header: dict) -> None:
        self.path = os.path.join(folder, "results.jsonl")
        self.done: set[str] = set()
        self.failed: dict[str, str] = {}
        self.again = False
        lines = read_lines(self.path) if os.path.exists(self.path) else []
        if not lines:
            self.add(header)
            return
        for name, value in header.items():
            if lines[0].get(name) != value:
                raise Problem(
                    f"results.jsonl is of another {name} ({lines[0].get(name)}, now {value}); "
                    "finish it as it was begun, or move it away"
                )
        for line in lines[1:]:
            self.again |= "again" in line
            if "failed" in line and "file" in line:
                self.failed[line["file"]] = line["failed"]
            elif "file" in line:
                self.done.add(line["file"])
                self.failed.pop(line["file"], None)

    def add(self, line: dict) -> None:
        try:
            with open(self.path, "a") as file:
                file.write(json.dumps(line) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise Problem(
                f"cannot write {self.path}: {error.strerror}; what is finished is kept, the same command goes on"
            ) from None
        if "file" in line and "failed" in line:
            self.failed[line["file"]] = line["failed"]
        elif "file" in line:
            self.done.add(line["file"])


def read_lines(path: str) -> list[dict]:
    """The lines of a ``results.jsonl``. A last line that was cut off is removed from the file."""
    with open(path, "rb") as file:
        content = file.read()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
    return parse_lines(content[:whole].decode("utf-8", "replace"))


def parse_lines(text: str) -> list[dict]:
    """Raises Problem for a line that is not a JSON object."""
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            lines.append(json.loads(line))
            if not isinstance(lines[-1], dict):
                raise ValueError
        except ValueError:
            raise Problem(f"line {number} of results.jsonl is not one that this script wrote: {line[:60]!r}") from None
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


# --------------------------------------------------------------------------------------------------------------
# The kit


def kit_id(manifest: dict) -> str:
    """16 hex digits that change with anything in the manifest."""
    plain = {k: v for k, v in manifest.items() if k != "kit"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def load_manifest(folder: str) -> dict[str, Any]:
    """Raises Problem when it is missing, or is not as it was written."""
    path = os.path.join(folder, "manifest.json")
    try:
        with open(path) as file:
            manifest = json.load(file)
        ids = (manifest["kit"], kit_id(manifest))
    except FileNotFoundError:
        raise Problem(f"{path} does not exist; it belongs beside run.py") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Problem(f"{path} is not the manifest of a kit: {error}") from None
    if ids[0] != ids[1]:
        raise Problem(f"{path} was changed after the kit was made; copy the kit again")
    return manifest


def check_files(folder: str, manifest: dict) -> None:
    """Raises Problem when models are missing or damaged."""
    bad = [m["file"] for m in manifest["models"] if not is_whole(folder, m)]
    if bad:
        raise Problem(
            f"{len(bad)} of {len(manifest['models'])} models are missing or damaged, such as {bad[0]}; copy them again"
        )


def is_whole(folder: str, model: dict) -> bool:
    try:
        with open(os.path.join(folder, model["file"]), "rb") as file:
            return hashlib.sha256(file.read()).hexdigest() == model["sha256"]
    except OSError:
        return False


def check_space(folder: str, manifest: dict) -> None:
    """Raises Problem when the results, or an engine, might not find room."""
    need = 2 * max(m["bytes"] for m in manifest["models"]) + 400 * len(manifest["models"]) + (1 << 20)
    free = shutil.disk_usage(folder).free
    if free < need:
        raise Problem(f"{folder} has {free / 1e6:.1f} MB free, timing needs {need / 1e6:.1f} MB")


# --------------------------------------------------------------------------------------------------------------
# Tools: each times models, {file, input, ...}, and gives {ms, p10_ms, p90_ms, runs} or {failed} for each


def choose_tool(folder: str, manifest: dict, args: argparse.Namespace) -> Tool:
    """Raises Problem when none of the tools that the kit was made for is here."""
    allowed = manifest["tools"]
    wanted = args.tool or ("benchmark_model" if args.adb is not None else None)
    if wanted and wanted not in allowed:
        raise Problem(
            f"this kit ({manifest['precision']}, .{manifest['format']} files) was made for {' or '.join(allowed)}, "
            f"not for {wanted}; make another"
        )
    threads = args.threads or manifest["threads"]
    if threads < 1:
        raise Problem(f"--threads is at least 1, got {threads}")
    reasons = []
    for name in [wanted] if wanted else allowed:
        kind = {"onnxruntime": OnnxRuntime, "trtexec": Trtexec, "benchmark_model": BenchmarkModel}[name]
        try:
            return kind(folder, manifest, threads, args)
        except Broken as error:
            reasons.append(str(error))
    raise Problem("no runtime here: " + "; ".join(reasons))


class Tool:
    """``shared``: how many times cheaper a model is in a group than alone."""

    name = ""
    shared = 1.0
    path = ""

    def __init__(self, folder: str, manifest: dict, threads: int, args: argparse.Namespace) -> None:
        self.folder, self.manifest, self.threads, self.args = folder, manifest, threads, args
        self.version = "unknown"
        self.hang_s = args.timeout or HANG_S[self.name]
        self.rails = power_rails()
        self.find()

    def find(self) -> None:
        """Raises Broken when the tool is not here."""
        raise NotImplementedError

    def time(self, models: list[dict]) -> list[dict]:
        raise NotImplementedError

    def device(self) -> dict[str, str]:
        return {"name": board_name(), "chip": cpu_name(), "machine": machine(platform.machine())}

    def conditions(self) -> dict[str, Any]:
        return dict(conditions(), rails=[r[0] for r in self.rails])

    def executable(self, places: Iterable[str]) -> str:
        """``--tool-path``, or the tool on PATH or in ``places``."""
        found = [self.args.tool_path] if self.args.tool_path else [shutil.which(self.name), *places]
        for path in found:
            if path and os.access(path, os.X_OK) and os.path.isfile(path):
                return os.path.abspath(path)
        where = self.args.tool_path or " or ".join(["PATH", *places])
        raise Broken(f"{self.name} is not in {where} (give --tool-path)")


class OnnxRuntime(Tool):
    """A group is timed by one process; one that dies or hangs names the model that it was at."""

    name = "onnxruntime"
    shared = 3.0

    def find(self) -> None:
        try:
            self.version = run_tool(
                [sys.executable, "-c", "import onnxruntime, numpy; print(onnxruntime.__version__)"], 120
            )[0].split()[-1]
        except (Broken, IndexError):
            raise Broken(
                f"onnxruntime and numpy are not in this Python ({sys.executable}): pip install onnxruntime"
            ) from None

    def time(self, models: list[dict]) -> list[dict]:
        timed: dict[int, dict] = {}
        strikes: dict[int, int] = {}
        while len(timed) < len(models):
            pending = [i for i in range(len(models)) if i not in timed]
            at, text = self._serve(models, pending, timed)
            if text is None:
                continue
            if at is None:
                raise Problem(f"onnxruntime does not start: {text}")
            strikes[at] = strikes.get(at, 0) + (2 if text.startswith("hung") else 1)
            if strikes[at] > 1:
                timed[at] = {"failed": text}
        return [timed[i] for i in range(len(models))]

    def _serve(self, models: list[dict], pending: list[int], timed: dict) -> tuple[int | None, str | None]:
        """Fill ``timed`` from one process. (model it died at, why), or (None, None)."""
        job = {
            "models": [[os.path.join(self.folder, models[i]["file"]), models[i]["input"]] for i in pending],
            "threads": self.threads,
            "rails": self.rails,
        }
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                [sys.executable, os.path.abspath(__file__), "--worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
            assert process.stdin is not None
            assert process.stdout is not None
            lines: queue.Queue[bytes] = queue.Queue()
            reader = threading.Thread(target=_forward, args=(process.stdout, lines), daemon=True)
            reader.start()
            at = None
            try:
                with contextlib.suppress(OSError), process.stdin as pipe:
                    pipe.write(json.dumps(job).encode())
                while True:
                    try:
                        line = lines.get(timeout=self.hang_s)
                    except queue.Empty:
                        return at, f"hung: no sign of life for {self.hang_s:g} s"
                    if not line:
                        break
                    if not line.startswith(_MARK.encode()):
                        continue  # something that a library printed
                    message = json.loads(line[len(_MARK) :].decode())
                    if "at" in message:
                        at = pending[message["at"]]
                    else:
                        timed[pending[message.pop("done")]] = message
            finally:
                kill(process, reader)
            if process.returncode == 0 and all(i in timed for i in pending):
                return None, None
            errors.seek(0)
            return at, died(process.returncode, errors.read().decode("utf-8", "replace"))


def _forward(stream: Any, lines: queue.Queue[bytes]) -> None:
    for line in iter(stream.readline, b""):
        lines.put(line)
    lines.put(b"")


def worker() -> int:
    """Time a group in this process, saying which model is at work before touching it."""
    import numpy as np
    import onnxruntime as ort

    job = json.loads(sys.stdin.read())

    def say(message: dict) -> None:
        print(f"\n{_MARK}{json.dumps(message)}", flush=True)

    def load(path: str, shape: list[int]) -> Any:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = job["threads"], 1
        options.log_severity_level = 3
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        binding = session.io_binding()
        binding.bind_ortvalue_input(session.get_inputs()[0].name, ort.OrtValue.ortvalue_from_numpy(x))
        output = np.empty(session.get_outputs()[0].shape, dtype=np.float32)
        binding.bind_ortvalue_output(session.get_outputs()[0].name, ort.OrtValue.ortvalue_from_numpy(output))
        return lambda: (session.run_with_iobinding(binding), output)

    calls: dict[int, Any] = {}
    runs: dict[int, int] = {}
    for i, (path, shape) in enumerate(job["models"]):
        say({"at": i})
        try:
            calls[i] = load(path, shape)
            _sample(calls[i], 1, 3)
            once = statistics.median(_sample(calls[i], 1, 5))
            runs[i] = max(1, round(SAMPLE_MS / max(once, 1e-6)))
        except Exception as error:  # this model, not the others
            calls.pop(i, None)
            say({"done": i, "failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})
    samples: dict[int, list[float]] = {i: [] for i in calls}
    waiting = list(calls)
    begun = time.monotonic()
    for done in range(1, MAX_ROUNDS + 1):
        for i in waiting:
            say({"at": i})
            samples[i] += _sample(calls[i], runs[i], SAMPLES)[1:]  # the first finds cold caches
        if done >= MIN_ROUNDS:
            long = time.monotonic() - begun > LONG_S
            waiting = [i for i in waiting if not long and median_interval(samples[i]) > TIGHT]
        if not waiting:
            break
    for i in calls:
        result = summary(samples[i])
        if job["rails"]:
            say({"at": i})
            with Power(job["rails"]) as power:
                stop = time.monotonic() + WINDOW_S
                while time.monotonic() < stop:
                    calls[i]()
            result.update(power.window(WINDOW_S))
        say(dict(result, done=i))
    return 0


def _sample(call: Any, runs: int, repeats: int) -> list[float]:
    """Milliseconds per call, each the mean over ``runs``."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter_ns()
        for _ in range(runs):
            call()
        taken.append((time.perf_counter_ns() - start) / (1e6 * runs))
    return taken


class Trtexec(Tool):
    """One process builds the engine and times it; the kernel timings of earlier builds are kept and used again."""

    name = "trtexec"

    def find(self) -> None:
        self.path = self.executable(["/usr/src/tensorrt/bin/trtexec"])
        self.rich = True  # options that came after TensorRT 7

    def time(self, models: list[dict]) -> list[dict]:
        return [twice(self._one, model) for model in models]

    def device(self) -> dict[str, str]:
        return dict(super().device(), chip=self.manifest.get("chip") or gpu_name() or cpu_name())

    def _one(self, model: dict) -> dict:
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="work-") as scratch:
            times, engine = os.path.join(scratch, "times.json"), os.path.join(scratch, "model.engine")
            head = [self.path, f"--onnx={os.path.join(self.folder, model['file'])}"]
            plain = [*self._precision(), "--warmUp=300", "--duration=2", "--avgRuns=10", f"--exportTimes={times}"]
            rich = [
                "--noDataTransfers",
                "--useSpinWait",
                f"--timingCacheFile={os.path.join(self.folder, 'trtexec.cache')}",
            ]
            keep = [f"--saveEngine={engine}"] if self.rails else []
            try:
                text, _ = run_tool([*head, *plain, *keep, *(rich if self.rich else [])], self.hang_s)
            except Broken as error:
                if not self.rich or "nknown option" not in str(error):
                    raise
                self.rich = False
                return self._one(model)
            if version := re.search(r"\[TensorRT v(\d+)\]", text):
                self.version = tensorrt_version(int(version.group(1)))
            try:
                with open(times) as file:
                    result = parse_trtexec_times(file.read())
            except (OSError, Broken):
                result = parse_trtexec(text)
            if self.rails:
                again = [self.path, f"--loadEngine={engine}", "--warmUp=300", "--duration=2"]
                with Power(self.rails) as power:
                    run_tool(again, self.hang_s)
                result.update(power.window(1.5))
            return result

    def _precision(self) -> list[str]:
        return {"fp32": ["--noTF32"], "fp16": ["--fp16"], "int8": ["--int8"]}[self.manifest["precision"]]


class BenchmarkModel(Tool):
    """Here or, with --adb, on a phone: models are pushed, timed and removed group by group."""

    name = "benchmark_model"

    def find(self) -> None:
        if self.args.adb is None:
            self.path = self.executable([])
            with open(self.path, "rb") as file:
                self.version = "sha256-" + hashlib.sha256(file.read()).hexdigest()[:12]
            return
        if not re.fullmatch(r"[A-Za-z0-9._:]?[A-Za-z0-9._:\-]*", self.args.adb):
            raise Problem(f"--adb takes a serial number as 'adb devices' lists it, got {self.args.adb!r}")
        adb = shutil.which("adb")
        if not adb:
            raise Broken("adb is not on PATH")
        self.adb = [adb, *(["-s", self.args.adb] if self.args.adb else [])]
        self.rails = []
        self.path = self.args.tool_path or f"{ANDROID}/benchmark_model"
        self.work = f"{ANDROID}/nas_kit_{self.manifest['kit']}"
        try:
            self.version = "sha256-" + self.shell("sha256sum", self.path).split()[0][:12]
        except (Broken, IndexError) as error:
            raise Broken(
                f"{self.path} is not on the phone ({error}); push it there, chmod +x, or give --tool-path"
            ) from None

    def device(self) -> dict[str, str]:
        if self.args.adb is None:
            return super().device()
        prop = {p: self.shell("getprop", f"ro.{p}").strip() for p in ("product.model", "soc.model", "board.platform")}
        chip = prop["soc.model"] or prop["board.platform"] or "unknown"
        return {
            "name": prop["product.model"] or chip,
            "chip": chip,
            "machine": machine(self.shell("uname", "-m").strip()),
        }

    def conditions(self) -> dict[str, Any]:
        if self.args.adb is None:
            return super().conditions()
        cpu = "/sys/devices/system/cpu/cpu*/cpufreq"
        clocks = self._numbers(f"cat {cpu}/scaling_cur_freq")
        heat = [v for v in self._numbers("cat /sys/class/thermal/thermal_zone*/temp") if 0 < v < 200_000]
        load = self._numbers("cut -d' ' -f1 /proc/loadavg")
        found: dict[str, Any] = {"time": utc(), "cpus": max(1, len(clocks))}
        found.update({"mhz": round(sum(clocks) / len(clocks) / 1000)} if clocks else {})
        found.update({"hottest_c": round(max(heat) / 1000, 1)} if heat else {})
        found.update({"load": load[0]} if load else {})
        with contextlib.suppress(Broken):
            governors = set(self.shell("sh", "-c", f"cat {cpu}/scaling_governor").split())
            found["governor"] = ", ".join(sorted(governors))
        return found

    def _numbers(self, command: str) -> list[float]:
        try:
            return [float(word) for word in self.shell("sh", "-c", command).split()]
        except (Broken, ValueError):
            return []

    def time(self, models: list[dict]) -> list[dict]:
        with self._ready(models) as paths:
            visits: list[list[dict]] = [[] for _ in models]
            for _ in range(VISITS):
                for i, path in enumerate(paths):
                    if not visits[i] or "failed" not in visits[i][-1]:
                        visits[i].append(twice(self._one, path))
        return [v[-1] if "failed" in v[-1] else middle(v) for v in visits]

    def _one(self, path: str) -> dict:
        command = [
            self.path, f"--graph={path}", f"--num_threads={self.threads}", "--use_xnnpack=true",
            "--warmup_runs=3", "--warmup_min_secs=0.1", "--num_runs=30", "--min_secs=0.3", "--max_secs=20",
        ]  # fmt: skip
        if self.args.adb is not None:
            return parse_benchmark_model(self.shell(*command))
        with Power(self.rails) as power:
            result = parse_benchmark_model(run_tool(command, self.hang_s)[0])
        result.update(power.window(WINDOW_S))
        return result

    @contextlib.contextmanager
    def _ready(self, models: list[dict]) -> Iterator[list[str]]:
        here = [os.path.join(self.folder, m["file"]) for m in models]
        if self.args.adb is None:
            yield here
            return
        self.shell("mkdir", "-p", self.work)
        there = [f"{self.work}/{os.path.basename(m['file'])}" for m in models]
        try:
            for i, path in enumerate(here):
                try:
                    self._adb("push", path, there[i])
                except Broken as error:
                    raise Problem(f"adb cannot push {path}: {error}") from None
            yield there
        finally:
            with contextlib.suppress(Broken, Problem):
                self.shell("rm", "-rf", self.work)

    def shell(self, *command: str) -> str:
        """Run on the phone; every word quoted, since adb hands one line to the phone's shell."""
        return self._adb("shell", " ".join(shlex.quote(word) for word in command))

    def _adb(self, *words: str) -> str:
        try:
            return run_tool([*self.adb, *words], self.hang_s)[0]
        except Broken as error:
            if re.search(r"(adb|error): .*(no devices|not found|offline|unauthorized|more than one)", str(error)):
                raise Problem(f"the phone does not answer: {error}; connect it, the same command goes on") from None
            raise


def twice(function: Any, model: Any) -> dict:
    """A tool that fails or prints garbage gets one more chance."""
    try:
        return function(model)
    except Broken as error:
        if str(error).startswith("hung"):
            return {"failed": str(error)}
        try:
            return function(model)
        except Broken as error:
            return {"failed": str(error)}


def run_tool(command: Sequence[str], timeout_s: float) -> tuple[str, float]:
    """(output, seconds). Raises Broken when it fails, dies or hangs; its children end with it."""
    begun = time.monotonic()
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
    except OSError as error:
        raise Broken(f"{command[0]} does not start: {error.strerror}") from None
    try:
        output = process.communicate(timeout=timeout_s)[0].decode("utf-8", "replace")
    except subprocess.TimeoutExpired:
        raise Broken(f"hung: nothing for {timeout_s:g} s") from None
    finally:
        kill(process)
    if process.returncode:
        raise Broken(died(process.returncode, output))
    return output, time.monotonic() - begun


def kill(process: Any, reader: threading.Thread | None = None) -> None:
    """End it and what it started. ``reader``: who reads its output until the end."""
    if process.poll() is None:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if reader:
        reader.join()
    process.stdout.close()


def died(code: int, output: str) -> str:
    """One line: how it ended, and what it said last."""
    if code < 0:
        try:
            how = f"crashed (signal {signal.Signals(-code).name})"
        except ValueError:
            how = f"crashed (signal {-code})"
    else:
        how = f"ended with status {code}"
    said = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in said if re.search(r"\[E\]|ERROR|rror:|nknown option", line)]
    last = (errors or said or [""])[-1 if not errors else 0]
    return f"{how}: {last[:200]}" if last else how


# --------------------------------------------------------------------------------------------------------------
# What tools print

_NUMBER = r"(\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)"


def parse_trtexec_times(text: str) -> dict:
    """From --exportTimes: a list of queries, each with its ``computeMs``."""
    try:
        return summary([float(query["computeMs"]) for query in json.loads(text)])
    except (ValueError, KeyError, TypeError, statistics.StatisticsError):
        raise Broken("trtexec wrote no times that can be read") from None


def parse_trtexec(text: str) -> dict:
    """From the log. TensorRT 8 and later have one line, ``GPU Compute Time: min = 1.2 ms, ...``; TensorRT 7 has a line
    ``GPU Compute`` and below it ``min: 1.2 ms`` and so on. Without samples the 10th percentile is the minimum, and the
    90th the first percentile that is printed.
    """
    lines = [re.sub(r"^\[[^\]]*\]\s*\[\w\]\s*", "", line).strip() for line in text.splitlines()]
    found: dict[str, float] = {}
    for number, line in enumerate(lines):
        if line.startswith("GPU Compute Time:"):
            found = {k: float(v) for k, v in re.findall(rf"([a-z]+(?:\(\d+%\))?)\s*=?\s*{_NUMBER} ms", line)}
        elif line == "GPU Compute":
            for below in lines[number + 1 : number + 7]:
                if match := re.match(rf"([a-z]+): {_NUMBER} ms(?: at (\d+)%)?", below):
                    name = f"percentile({match.group(3)}%)" if match.group(3) else match.group(1)
                    found[name] = float(match.group(2))
    median = found.get("median", 0.0)
    if not median > 0:
        raise Broken(f"trtexec's output cannot be read: {_end(text)}")
    high = next((found[k] for k in sorted(found) if k.startswith("percentile")), found.get("max", median))
    queries = re.search(r"Timing trace has (\d+) queries", text)
    return {
        "ms": median,
        "p10_ms": min(median, found.get("min", median)),
        "p90_ms": max(median, high),
        "runs": int(queries.group(1)) if queries else 1,
    }


def parse_benchmark_model(text: str) -> dict:
    """From ``count=50 first=.. curr=.. min=.. max=.. avg=.. std=..`` (newer ones add median, p5 and p95) and the summary
    ``Inference timings in us: ... Inference (avg): 123.4``; microseconds. Without a median the mean stands for it.
    """
    total = re.search(rf"(?:Inference \(avg\)|no stats): {_NUMBER}", text)
    stats = [
        dict(re.findall(rf"(\w+)={_NUMBER}", line)) for line in text.splitlines() if re.search(r"\bcount=\d", line)
    ]
    if not total or not stats or not {"count", "avg"} <= set(stats[-1]):
        raise Broken(f"benchmark_model's output cannot be read: {_end(text)}")
    last = {k: float(v) for k, v in stats[-1].items()}
    mean, spread = last["avg"], 1.2816 * last.get("std", 0.0)
    if not mean > 0 or abs(mean / float(total.group(1)) - 1) > 0.02:
        raise Broken(f"benchmark_model contradicts itself: avg={mean:g}, Inference (avg): {total.group(1)}")
    median = last.get("median", mean)
    return {
        "ms": median / 1e3,
        "p10_ms": min(median, max(mean - spread, last.get("min", 0.0))) / 1e3,
        "p90_ms": max(median, min(mean + spread, last.get("max", math.inf))) / 1e3,
        "runs": int(last["count"]),
    }


def _end(text: str) -> str:
    said = [line.strip() for line in text.splitlines() if line.strip()]
    return repr(said[-1][:80]) if said else "nothing was printed"


def tensorrt_version(number: int) -> str:
    """8502 is 8.5.2, 100200 is 10.2.0."""
    base = 1000 if number < 10000 else 10000
    return f"{number // base}.{number % base // 100}.{number % 100}"


# --------------------------------------------------------------------------------------------------------------
# Statistics


def summary(samples: Sequence[float]) -> dict:
    """Median, 10th and 90th percentile of samples in ms."""
    ordered = sorted(samples)
    ms = statistics.median(ordered)
    if not (math.isfinite(ordered[-1]) and ms > 0):
        raise ValueError(f"a latency of {ms} ms")
    return {"ms": ms, "p10_ms": _quantile(ordered, 0.1), "p90_ms": _quantile(ordered, 0.9), "runs": len(ordered)}


def middle(visits: Sequence[dict]) -> dict:
    """Of several visits to one model: medians, and all their runs."""
    result = {k: statistics.median(v[k] for v in visits) for k in ("ms", "p10_ms", "p90_ms")}
    watts = [v for v in visits if "watts" in v]
    return dict(watts[-1] if watts else {}, **result, runs=sum(v["runs"] for v in visits))


def median_interval(samples: Sequence[float]) -> float:
    """Half width of the 95% interval of the median, relative; from order statistics."""
    ordered = sorted(samples)
    half = 0.98 * math.sqrt(len(ordered))
    low = max(0, math.floor(len(ordered) / 2 - half))
    high = min(len(ordered) - 1, math.ceil(len(ordered) / 2 + half))
    return (ordered[high] - ordered[low]) / (2 * statistics.median(ordered))


def _quantile(ordered: Sequence[float], q: float) -> float:
    at = q * (len(ordered) - 1)
    low = math.floor(at)
    return ordered[low] + (at - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])


def span(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} minutes"
        if seconds < 5400
        else f"{seconds / 3600:.1f} hours"
    )


# --------------------------------------------------------------------------------------------------------------
# The device


def conditions(sys_root: str = SYS) -> dict[str, Any]:
    """What the operating system tells now; names as in nas.latency.conditions. Jetson: power mode and GPU clock too."""
    cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    found: dict[str, Any] = {"time": utc(), "cpus": len(cpus), "affinity": cpus, "load": round(os.getloadavg()[0], 2)}
    cores = [f"{sys_root}/devices/system/cpu/cpu{i}" for i in cpus]
    mhz = [v for v in (number(f"{c}/cpufreq/scaling_cur_freq") for c in cores) if v]
    most = [v for v in (number(f"{c}/cpufreq/scaling_max_freq") for c in cores) if v]
    governors = {g for g in (text_of(f"{c}/cpufreq/scaling_governor") for c in cores) if g}
    heat = [v for v in map(number, glob.glob(f"{sys_root}/class/thermal/thermal_zone*/temp")) if v is not None]
    slowed = [v for v in (number(f"{c}/thermal_throttle/core_throttle_count") for c in cores) if v is not None]
    found.update({"mhz": round(sum(mhz) / len(mhz) / 1000)} if mhz else {})
    found.update({"max_mhz": round(max(most) / 1000)} if most else {})
    found.update({"governor": ", ".join(sorted(governors))} if governors else {})
    found.update({"hottest_c": round(max(heat) / 1000, 1)} if heat else {})
    found.update({"throttled": int(sum(slowed))} if slowed else {})
    if mode := text_of("/var/lib/nvpmodel/status"):
        found["nvpmodel"] = mode
    clocks = {p.split("/")[-2]: number(p) for p in glob.glob(f"{sys_root}/class/devfreq/*gpu*/cur_freq")}
    found.update({"gpu_hz": clocks} if clocks else {})
    return found


def power_rails(sys_root: str = SYS) -> list[list[Any]]:
    """[label, file, file or None, factor]: power is the product of the files times the factor, in W.

    The INA3221 of a Jetson: its supply rail where it has that name, else all rails of its first chip, to be summed.
    """
    rails: list[list[Any]] = []
    for hwmon in sorted(glob.glob(f"{sys_root}/bus/i2c/drivers/ina3221*/*/hwmon/hwmon*")):
        here = []
        for channel in "123":
            volts, amperes = f"{hwmon}/in{channel}_input", f"{hwmon}/curr{channel}_input"
            label = text_of(f"{hwmon}/in{channel}_label") or ""
            if label and number(volts) is not None and number(amperes) is not None:
                here.append([label, volts, amperes, 1e-6])  # mV and mA
        supply = [r for r in here if r[0] in ("VDD_IN", "POM_5V_IN")]
        if supply:
            return supply
        rails = rails or here
    if rails:
        return rails
    old = sorted(glob.glob(f"{sys_root}/bus/i2c/drivers/ina3221x/*/iio:device*/in_power0_input"))
    return [["in_power0", old[0], None, 1e-3]] if old and number(old[0]) is not None else []


class Power:
    """Samples the rails while it is open; nothing when there are none."""

    def __init__(self, rails: list[list[Any]], every_s: float = 0.01) -> None:
        self.rails, self.every_s = rails, every_s
        self.samples: list[tuple[float, float]] = []
        self.stop = threading.Event()

    def __enter__(self) -> Power:
        self.thread = threading.Thread(target=self._sample, daemon=True)
        if self.rails:
            self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.end = time.time()
        if self.rails:
            self.thread.join()

    def window(self, seconds: float) -> dict[str, float]:
        """{watts, begin, end} over the last ``seconds``."""
        last = [w for t, w in self.samples if t >= self.end - seconds]
        return {"watts": statistics.mean(last), "begin": self.end - seconds, "end": self.end} if last else {}

    def _sample(self) -> None:
        while not self.stop.wait(self.every_s):
            watts = 0.0
            for _, first, second, factor in self.rails:
                value = (number(first) or 0.0) * factor
                watts += value * (number(second) or 0.0) if second else value
            self.samples.append((time.time(), watts))


def board_name() -> str:
    """A board says what it is in its device tree; elsewhere the CPU's name stands for the machine."""
    return (text_of("/proc/device-tree/model") or "").strip("\0 \n") or cpu_name()


def gpu_name() -> str:
    with contextlib.suppress(Broken):
        return run_tool(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], 20)[0].splitlines()[0].strip()
    return ""


def cpu_name() -> str:
    for line in (text_of("/proc/cpuinfo") or "").splitlines():
        if line.startswith(("model name", "Model")):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine() or "cpu"


def machine(name: str) -> str:
    """One name per architecture."""
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name.lower(), name.lower())


def utc() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def text_of(path: str) -> str | None:
    try:
        with open(path, errors="replace") as file:
            return file.read().strip()
    except OSError:
        return None


def number(path: str) -> float | None:
    try:
        return float(text_of(path) or "")
    except ValueError:
        return None


if __name__ == "__main__":
    sys.exit(main())
