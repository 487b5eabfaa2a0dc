"""Measuring kits: the runner with ONNX Runtime for real, trtexec, benchmark_model and adb as stand-ins that print what
the real ones are recorded to print, and what a device does to a campaign: crashes, hangs, full disks, edited results.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from fake_ort import FAKE_ORT

from nas.errors import BadInput
from nas.measuring.kit import RUN, export_kit, import_kit
from nas.measuring.timing import time_networks
from nas.on_device import device, outputs, power, results, runner
from nas.on_device.outputs import Broken
from nas.runtimes import OnnxRuntime
from nas.space import SearchSpace

FEW = {"calibrate": 8, "validate": 2}


@pytest.fixture(scope="module")
def exported(tiny, tmp_path_factory):
    """A kit that nothing has run yet."""
    return export_kit(tiny, tmp_path_factory.mktemp("kit") / "exported", **FEW)


@pytest.fixture(scope="module")
def finished(exported, tmp_path_factory):
    """A kit that ran here with ONNX Runtime."""
    folder = shutil.copytree(exported, tmp_path_factory.mktemp("kit") / "finished")
    done = run(folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def kit(exported, tmp_path):
    return Path(shutil.copytree(exported, tmp_path / "a kit's folder; $HOME"))


@pytest.fixture
def ran(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "ran"))


def run(folder, *args, path=None, python=sys.executable, **options):
    env = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}" if path else os.environ["PATH"]}
    env.update(options.pop("env", {}))
    return subprocess.run(
        [python, folder / "run.py", *args], env=env, capture_output=True, text=True, timeout=100, **options
    )


def lines(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def remade(folder, models=None, **changes):
    """The kit with another manifest, and a name that fits it."""
    manifest = {**json.loads((folder / "manifest.json").read_text()), **changes}
    if models:
        manifest["models"] = [m for m in manifest["models"] if m["role"] == "block"][:models]
        manifest["reference"] = manifest["models"][0]["file"]
    for model in manifest["models"]:
        content = (folder / model["file"]).read_bytes()
        model.update(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
    manifest["kit"] = results.kit_id(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return manifest


def stand_in(folder, name, program):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(program if program.startswith("#!") else f"#!{sys.executable} -SE\n{program}")
    (folder / name).chmod(0o755)
    return folder


# The kit


def test_kit_needs_the_standard_library_of_python_38_only():
    for path in Path(runner.__file__).parent.glob("*.py"):
        tree = ast.parse(path.read_text(), feature_version=(3, 8))
        imported = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and not n.level}
        imported |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        assert imported - {"numpy", "onnxruntime"} <= set(sys.stdlib_module_names), path
        assert ("numpy" in imported) == (path.name == "worker.py")  # the process that times with onnxruntime
    ast.parse(RUN, feature_version=(3, 8))


def test_manifest_lists_every_block_and_network(exported, tiny):
    manifest = json.loads((exported / "manifest.json").read_text())
    roles = [m["role"] for m in manifest["models"]]
    assert [roles.count(r) for r in ("block", "calibrate", "validate")] == [len(tiny.blocks), 8, 2]
    assert {m["key"] for m in manifest["models"] if m["role"] == "block"} == {b.key for b in tiny.blocks}
    for model in manifest["models"][::7]:
        graph = onnx.load(exported / model["file"]).graph
        assert [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] == model["input"]
        assert model["sha256"] == hashlib.sha256((exported / model["file"]).read_bytes()).hexdigest()


def test_interrupted_export_goes_on(exported, tiny, tmp_path, monkeypatch):
    from nas.measuring import kit as module

    written, write = [], module.write_bytes

    def interrupted(path, content):
        if len(written) == 20:
            raise KeyboardInterrupt
        written.append(path)
        write(path, content)

    monkeypatch.setattr(module, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_kit(tiny, tmp_path / "kit", **FEW)
    assert not (tmp_path / "kit/manifest.json").exists()
    with pytest.raises(BadInput, match="already holds a kit with another batch"):
        export_kit(tiny, tmp_path / "kit", batch=2, **FEW)
    before = {p: p.stat().st_mtime_ns for p in written}
    monkeypatch.setattr(module, "write_bytes", write)
    export_kit(tiny, tmp_path / "kit", **FEW)
    assert before == {p: p.stat().st_mtime_ns for p in written}
    assert (tmp_path / "kit/manifest.json").read_text() == (exported / "manifest.json").read_text()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"runtime": "tvm"}, "runtime is one of onnxruntime, trtexec, benchmark_model"),
        ({"precision": "fp16"}, "fp32 or int8, got 'fp16'"),
        ({"runtime": "benchmark_model", "precision": "fp16"}, "fp32 or int8"),
        ({"batch": 0}, "batch is a whole number from 1"),
        ({"calibrate": 3}, "at least 8"),
    ],
)
def test_kits_that_cannot_be_made(tiny, tmp_path, settings, text):
    with pytest.raises(BadInput, match=text):
        export_kit(tiny, tmp_path / "kit", **{**FEW, **settings})
    assert not (tmp_path / "kit").exists()


def test_int8_is_what_each_tool_wants(tiny, tmp_path, monkeypatch):
    from nas.measuring import kit as module

    monkeypatch.setattr(module.Plan, "order", lambda plan: [plan.reference])  # one block is enough
    monkeypatch.setattr(module.SearchSpace, "networks", lambda space, archs: [], raising=False)
    monkeypatch.setattr(module.SearchSpace, "describe", lambda space, archs: [], raising=False)
    types = {}
    for tool in ("onnxruntime", "trtexec"):
        folder = export_kit(tiny, tmp_path / tool, runtime=tool, precision="int8", **FEW)
        graph = onnx.load(folder / "blocks/00000.onnx").graph
        constants = {c.name: onnx.numpy_helper.to_array(c) for c in graph.initializer}
        first = next(n for n in graph.node if n.op_type == "QuantizeLinear")
        types[tool] = (constants[first.input[2]].dtype.name, int(constants[first.input[2]]))
    assert types["onnxruntime"][0] == "uint8"
    assert types["trtexec"] == ("int8", 0)


# ONNX Runtime, for real


def test_table_of_a_kit_is_that_of_measuring_here(finished, tiny, tmp_path):
    table = import_kit(finished, space=tiny, run_dir=tmp_path)
    assert {b.key for b in table.blocks} == {b.key for b in tiny.blocks}
    assert (tmp_path / "table_fp32_networks.csv").exists()
    assert table.kind == "measured"
    assert table.validation.networks == 2
    assert table.device == OnnxRuntime().device
    some = sorted(tiny.blocks, key=lambda b: b.macs)[::5]
    here = np.array([t["ms"] for t in time_networks(OnnxRuntime(), [[b] for b in some])])
    there = table.rows.set_index("block").latency_ms[[b.key for b in some]].to_numpy()
    assert 0.6 < np.median(there / here) < 1.6
    assert np.corrcoef(np.log(there), np.log(here))[0, 1] > 0.9
    assert table.notes["repeatability"]["blocks"] == len(tiny.blocks)
    watched = [line["reference"] for line in lines(finished) if line.get("among") in ("block", "again")]
    assert len(watched) == 7
    assert table.notes["reference_drift"] == round(max(watched) / min(watched) - 1, 4)
    assert table.notes["conditions"]["after"]["cpus"] == len(os.sched_getaffinity(0))


def test_stopped_run_goes_on(kit, tiny):
    process = subprocess.Popen(
        [sys.executable, kit / "run.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while "/58" not in process.stdout.readline() and time.monotonic() < deadline:
        pass
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "stopped; the same command goes on\n")
    before = (kit / "results.jsonl").read_text()
    some = [line["file"] for line in lines(kit) if "file" in line]
    assert 0 < len(some) < 58
    with pytest.raises(BadInput, match=f"unfinished: {len(some)} of 58 models"):
        import_kit(kit)
    with open(kit / "results.jsonl", "a") as file:
        file.write('{"file": "blocks/000')  # cut off
    assert run(kit).returncode == 0
    assert (kit / "results.jsonl").read_text().startswith(before)
    files = [line["file"] for line in lines(kit) if "file" in line]
    assert len(files) == len(set(files)) == 58
    assert len(import_kit(kit).rows) == len(tiny.blocks)
    again = run(kit)  # nothing left to do
    assert "0 of 58 models to time" in again.stdout
    assert import_kit(kit).validation.networks == 2


CRASHING_ORT = (
    FAKE_ORT
    + """
class InferenceSession(Session):
    def __init__(self, path, options, providers):
        name = os.path.basename(path)
        print("a library's chatter", flush=True)
        if name == "00003.onnx": os.kill(os.getpid(), signal.SIGSEGV)
        if name == "00005.onnx": time.sleep(100)
        if name == "00007.onnx": raise RuntimeError("no kernel\\nfor this")
        self.name = name
    def run_with_iobinding(self, binding):
        if self.name == "00009.onnx" and not os.path.exists(os.environ["MARK"]):
            open(os.environ["MARK"], "w"); os.abort()
        time.sleep(0.0002)
"""
)


def test_blocks_that_crash_or_hang_do_not_stop_the_others(kit, tmp_path):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/onnxruntime.py").write_text(CRASHING_ORT)
    env = {"PYTHONPATH": str(tmp_path / "modules"), "MARK": str(tmp_path / "mark")}
    remade(kit, 12)
    done = run(kit, "--timeout", "6", env=env)
    assert done.returncode == 0, done.stderr
    failed = {line["file"]: line["failed"] for line in lines(kit) if "failed" in line}
    assert failed == {
        "blocks/00003.onnx": "crashed (SIGSEGV): a library's chatter",
        "blocks/00005.onnx": "hung: no sign of life for 6 s",
        "blocks/00007.onnx": "RuntimeError: no kernel for this",
    }
    assert (tmp_path / "mark").exists()  # 00009 crashed once, and was then timed
    assert len([line for line in lines(kit) if "file" in line]) == 12
    with pytest.raises(BadInput, match=r"3 of 12 models failed on the device: \[.*SIGSEGV.*--retry-failed"):
        import_kit(kit)
    (tmp_path / "modules/onnxruntime.py").write_text(CRASHING_ORT.replace("00003", "none").replace("00005", "none"))
    assert run(kit, "--retry-failed", env=env).returncode == 0
    with pytest.raises(BadInput, match=r"1 of 12 models failed on the device: .*no kernel for this"):
        import_kit(kit)


# Other tools, stand-ins

NEW_LOG = """&&&& RUNNING TensorRT.trtexec [TensorRT v100300] # trtexec --onnx=a.onnx
[10/03/2024-10:47:56] [I] === Model Options ===
[10/03/2024-10:47:59] [I] Timing trace has 5000 queries over 3.00082 s
[10/03/2024-10:47:59] [I] === Performance summary ===
[10/03/2024-10:47:59] [I] Throughput: 130.298 qps
[10/03/2024-10:47:59] [I] Latency: min = 5.38672 ms, max = 13.3664 ms, mean = 7.60628 ms, median = 7.16092 ms, percentile(90%) = 10.2996 ms, percentile(95%) = 10.8698 ms, percentile(99%) = 12.9675 ms
[10/03/2024-10:47:59] [I] GPU Compute Time: min = 5.34595 ms, max = 13.3388 ms, mean = 7.58404 ms, median = MEDIAN ms, percentile(90%) = 10.2881 ms, percentile(95%) = 10.8175 ms, percentile(99%) = 12.9485 ms
[10/03/2024-10:47:59] [I] D2H Latency: min = 0.00390625 ms, max = 0.110596 ms, mean = 0.0100141 ms, median = 0.00439453 ms
[10/03/2024-10:47:59] [I] Total GPU Compute Time: 2.96536 s
"""
TRT8 = (
    "GPU Compute Time: min = 1.55835 ms, max = 1.91591 ms, mean = 1.58719 ms, median = 1.578 ms, percentile(99%) = "
    "1.90668 ms\n"
)
TRT82 = "[I] GPU Compute Time: min = 3.17834 ms, max 3.88306 ms, mean 3.63242 ms, median 3.71753 ms, percentile(99%) 3.87793 ms"
TRT7 = """[05/10/2021-12:24:30] [I] Host Latency
[05/10/2021-12:24:30] [I] min: 3.5 ms (end to end 6.0 ms)
[05/10/2021-12:24:30] [I] median: 3.6 ms (end to end 6.1 ms)
[05/10/2021-12:24:30] [I] GPU Compute
[05/10/2021-12:24:30] [I] min: 2.98901 ms
[05/10/2021-12:24:30] [I] max: 4.11548 ms
[05/10/2021-12:24:30] [I] mean: 3.05 ms
[05/10/2021-12:24:30] [I] median: 3.04321 ms
[05/10/2021-12:24:30] [I] percentile: 3.20203 ms at 99%
[05/10/2021-12:24:30] [I] total compute time: 2.97 s
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (NEW_LOG.replace("MEDIAN", "7.14139"), (7.14139, 5.34595, 10.2881, 5000)),
        (TRT8, (1.578, 1.55835, 1.90668, 1)),
        (TRT82, (3.71753, 3.17834, 3.87793, 1)),
        (TRT7, (3.04321, 2.98901, 3.20203, 1)),
    ],
    ids=["10", "8.6", "8.2", "7"],
)
def test_trtexec_logs(text, expected):
    got = outputs.parse_trtexec(text)
    assert (got["ms"], got["p10_ms"], got["p90_ms"], got["runs"]) == expected


def test_trtexec_times():
    times = json.dumps([{"startInMs": 1.0, "computeMs": ms, "latencyMs": 99.0} for ms in np.linspace(1, 3, 21)])
    got = outputs.parse_trtexec_times(times)
    assert [round(got[k], 6) for k in ("ms", "p10_ms", "p90_ms", "runs")] == [2.0, 1.2, 2.8, 21]
    for text in ("", "[]", "{}", '[{"latencyMs": 1}]', '[{"computeMs": NaN}]', '[{"computeMs": -1}]', "[3]"):
        with pytest.raises(Broken, match="no times"):
            outputs.parse_trtexec_times(text)
    assert outputs.tensorrt_version(8502) == "8.5.2"
    assert outputs.tensorrt_version(100300) == "10.3.0"


OLD_BENCHMARK = """STARTING!
Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
count=1 curr=3512391
Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
count=50 first=2990275 curr=2913402 min=2727568 max=3189954 avg=2.95034e+06 std=109798

Inference timings in us: Init: 17187, First inference: 3512391, Warmup (avg): 3.51239e+06, Inference (avg): 2.95034e+06
Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE
"""
NEW_BENCHMARK = """INFO: STARTING!
INFO: count=14 first=40000 curr=38000 min=37000 max=41000 avg=38500 std=900 p5=37100 median=38400 p95=40500
INFO: Running benchmark for at least 30 iterations and at least 0.3 seconds
INFO: count=1000 first=52162 curr=49785 min=49088 max=686105 avg=63743.2 std=60716 p5=49620 median=51891 p95=68628
INFO: Inference timings in us: Init: 119515, First inference: 87112, Warmup (avg): 58147.4, Inference (avg): 63743.2
"""


def test_benchmark_model_logs():
    old, new = outputs.parse_benchmark_model(OLD_BENCHMARK), outputs.parse_benchmark_model(NEW_BENCHMARK)
    assert (old["ms"], old["runs"]) == (2950.34, 50)
    assert 2727.568 <= old["p10_ms"] < old["ms"] < old["p90_ms"] <= 3189.954
    assert (new["ms"], new["runs"]) == (51.891, 1000)
    assert 49.088 <= new["p10_ms"] <= new["ms"] <= new["p90_ms"]
    with pytest.raises(Broken, match="contradicts itself"):
        outputs.parse_benchmark_model(NEW_BENCHMARK.replace("Inference (avg): 63743.2", "Inference (avg): 63.7432"))


@pytest.mark.parametrize("parse", [outputs.parse_trtexec, outputs.parse_benchmark_model])
@pytest.mark.parametrize(
    "text", ["", "\x00\xff garbage", "GPU Compute Time: min = nan ms", "count=0 avg=0\nInference (avg): 0"]
)
def test_garbage_is_one_clear_line(parse, text):
    with pytest.raises(Broken, match="cannot be read") as error:
        parse(text)
    assert "\n" not in str(error.value)


TRTEXEC = f"""
import json, os, sys, time
args = dict(a[2:].partition("=")[::2] for a in sys.argv[1:])
number = int(os.path.basename(args["onnx"]).split(".")[0])
ms = os.path.getsize(args["onnx"]) / 1e4
if "useSpinWait" in args and "OLD" in os.environ: print("[E] Unknown option: --useSpinWait"); sys.exit(1)
if "JSON" in os.environ: json.dump([{{"computeMs": ms * k}} for k in (0.9, 1, 1.1)], open(args["exportTimes"], "w"))
if "networks" not in args["onnx"]:
    if number == 1: print("[10/03/2024-10:47:59] [E] Error[10]: Could not find any implementation for node"); sys.exit(1)
    if number == 2: os.abort()
    if number == 4 and "HANG" in os.environ: time.sleep(60)
    mark = os.path.join(os.environ["MARKS"], str(number))
    if number == 3 and not os.path.exists(mark): open(mark, "w"); print("???"); sys.exit(0)
log = '''{NEW_LOG}'''
print(log.replace("MEDIAN", str(ms)).replace("5.34595", str(ms * 0.9)).replace("10.2881", str(ms * 1.1)))
"""


@pytest.mark.parametrize("variant", ["log", "json", "old"])
def test_trtexec_campaign(kit, tmp_path, variant):
    manifest = remade(kit, 8)
    tools = stand_in(tmp_path / "bin", "trtexec", TRTEXEC)
    env = {"MARKS": str(tmp_path), **{"log": {"HANG": "1"}, "json": {"JSON": "1"}, "old": {"OLD": "1"}}[variant]}
    done = run(kit, "--tool", "trtexec", "--timeout", "5", path=tools, env=env)
    assert done.returncode == 0, done.stderr
    assert "trtexec 10.3.0 on" in done.stdout
    header, *rest = lines(kit)
    assert (header["tool"], header["version"]) == ("trtexec", "10.3.0")
    failed = {line["file"]: line["failed"] for line in rest if "failed" in line}
    assert list(failed) == [f"blocks/0000{i}.onnx" for i in ((1, 2, 4) if variant == "log" else (1, 2))]
    assert "Could not find any implementation" in failed["blocks/00001.onnx"]
    assert "SIGABRT" in failed["blocks/00002.onnx"]
    assert "hung" in failed.get("blocks/00004.onnx", "hung")
    timed = {line["file"]: line["ms"] for line in rest if "file" in line and "ms" in line}
    truth = {m["file"]: m["bytes"] / 1e4 for m in manifest["models"] if m["file"] not in failed}
    assert timed == pytest.approx(truth)
    assert not list(kit.glob("work-*"))


BENCHMARK_MODEL = """#!/bin/sh
for word in "$@"; do
  case $word in --graph=*) graph=${word#--graph=};; --num_threads=2) two=1;; --use_xnnpack=true) xnnpack=1;; esac
done
test "$two$xnnpack" = 11 || exit 1
us=$(($(wc -c < "$graph")))
cat <<END
"""
BENCHMARK_MODEL += re.sub("51891|49088|63743.2", "$us", NEW_BENCHMARK) + "END\n"
ADB = """#!/bin/sh
test "$1 $2" = "-s emulator-5554" || exit 9
test -e "$PHONE/unplugged" && echo "adb: device 'emulator-5554' not found" && exit 1
here() { echo "$1" | sed "s|/data/local/tmp|$PHONE|g"; }
if test "$3" = push; then
  cp "$4" "$(here "$5")"
  echo "$5" >> "$PHONE/pushed"
  test "$UNPLUG_AFTER" && test "$(wc -l < "$PHONE/pushed")" -ge "$UNPLUG_AFTER" && touch "$PHONE/unplugged"
  exit 0
fi
test "$3 $#" = "shell 4" || exit 9
cd "$PHONE" && exec sh -c "$(here "$4")"
"""
GETPROP = """#!/bin/sh
case $1 in ro.product.model) echo "Pixel 7";; ro.soc.model) echo GS201;; esac
"""


def test_phone(kit, tmp_path):
    manifest = remade(kit, 20, tools=["benchmark_model"], threads=2)
    phone, tools = tmp_path / "phone", tmp_path / "bin"
    stand_in(phone, "my benchmark; touch pwned", BENCHMARK_MODEL)  # a name that a careless shell would run
    stand_in(stand_in(tools, "adb", ADB), "getprop", GETPROP)
    tool = "/data/local/tmp/my benchmark; touch pwned"
    env = {"PHONE": str(phone), "UNPLUG_AFTER": "22"}
    done = run(kit, "--adb", "emulator-5554", "--tool-path", tool, path=tools, env=env)
    assert done.returncode == 2
    assert "error: the phone does not answer: " in done.stderr
    assert len(done.stderr.splitlines()) == 1
    kept = [line["file"] for line in lines(kit) if "file" in line]
    assert len(kept) == 17  # two groups
    (phone / "unplugged").unlink()
    done = run(kit, "--adb", "emulator-5554", "--tool-path", tool, path=tools, env={"PHONE": str(phone)})
    assert done.returncode == 0, done.stderr
    header, *rest = lines(kit)
    assert (header["name"], header["chip"], header["tool"]) == ("Pixel 7", "GS201", "benchmark_model")
    timed = {line["file"]: line["ms"] for line in rest if "file" in line}
    assert timed == pytest.approx({m["file"]: m["bytes"] / 1e3 for m in manifest["models"]})
    assert not list(phone.rglob("*.onnx"))  # taken off the phone again
    assert not (phone / "pwned").exists()
    assert "load" in rest[0]["conditions"]


def test_litert_kit_is_exported_for_benchmark_model(tiny, tmp_path, monkeypatch):
    pytest.importorskip("litert_torch", reason="comes with the extra 'litert'")
    from nas.measuring import kit as module

    monkeypatch.setattr(module.Plan, "order", lambda plan: [plan.reference])
    monkeypatch.setattr(module.SearchSpace, "networks", lambda space, archs: [], raising=False)
    monkeypatch.setattr(module.SearchSpace, "describe", lambda space, archs: [], raising=False)
    folder = export_kit(tiny, tmp_path / "kit", runtime="benchmark_model", **FEW)
    assert (folder / "blocks/00000.tflite").read_bytes()[4:8] == b"TFL3"
    assert json.loads((folder / "manifest.json").read_text())["tools"] == ["benchmark_model"]


# What is refused on the device: one line each, nothing lost


def refused(folder, *args, **options):
    done = run(folder, *args, **options)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert done.stderr.startswith("error: ")
    return done.stderr


def test_refusals(kit, tmp_path):
    assert "no runtime here: trtexec is not in PATH" in refused(kit, "--tool", "trtexec", env={"PATH": "/usr/bin"})
    assert "not in /no/such (give --tool-path)" in refused(kit, "--tool", "trtexec", "--tool-path", "/no/such")
    assert "made for onnxruntime or trtexec, not for benchmark_model" in refused(kit, "--tool", "benchmark_model")
    assert "--threads is at least 1 and at most 1024, got 0" in refused(kit, "--threads", "0")
    assert "pip install onnxruntime" in refused(kit, "--tool", "onnxruntime", python="/usr/bin/python3")
    other = "x86_64" if os.uname().machine == "aarch64" else "aarch64"
    before = (kit / "manifest.json").read_text()
    remade(kit, machine=other)
    assert f"this kit was made for {other}, this device is" in refused(kit)
    (kit / "manifest.json").write_text(before)
    model = kit / "blocks/00005.onnx"
    content = model.read_bytes()
    model.write_bytes(content[:-1])
    assert "1 of 58 models are missing or damaged, such as blocks/00005.onnx" in refused(kit)
    model.write_bytes(content)
    (kit / "manifest.json").write_text(before.replace('"batch": 1', '"batch": 2'))
    assert "changed after the kit was made" in refused(kit)
    (kit / "manifest.json").write_text("[]")
    assert "not the manifest of a kit" in refused(kit)
    assert not (kit / "results.jsonl").exists()


def test_results_of_something_else_are_kept(ran):
    before = (ran / "results.jsonl").read_text()
    assert "is a campaign for another threads (1, now 2)" in refused(ran, "--threads", "2")
    (ran / "results.jsonl").write_text(before + "not json\n")
    assert "is not one that a campaign wrote: 'not json'" in refused(ran)
    assert (ran / "results.jsonl").read_text().startswith(before)


def test_full_disk_keeps_what_is_finished(kit):
    remade(kit, 24)

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))

    text = refused(kit, preexec_fn=small_files)
    assert "cannot write" in text
    assert "what is finished is kept" in text
    some = sum("file" in json.loads(t) for t in (kit / "results.jsonl").read_text().splitlines()[:-1])
    assert 0 < some < 24
    assert run(kit).returncode == 0
    files = [line["file"] for line in lines(kit) if "file" in line]
    assert len(files) == len(set(files)) == 24


def test_no_room(kit, monkeypatch):
    monkeypatch.setattr(runner.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(outputs.Problem, match=r"has 0\.0 MB free, timing needs 1\.\d MB"):
        runner.check_folder(str(kit), results.load_manifest(str(kit)))


def test_one_run_at_a_time(kit):
    with runner.locked(str(kit)):
        assert f"being timed already, by process {os.getpid()}" in refused(kit)


# Import


def edited(folder, change):
    some = lines(folder)
    change(some)
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in some))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda some: some[0].update(kit="0" * 16), "belongs to another kit"),
        (lambda some: some[0].pop("version"), "first line .* not one that run.py wrote"),
        (lambda some: some[3].update(ms=-1.0), "line 4 .*ms is a positive number, got -1.0"),
        (lambda some: some[3].update(ms=float("nan")), "line 4 "),
        (lambda some: some[3].update(ms=float("inf")), "line 4 "),
        (lambda some: some[3].update(p10_ms=10**400), "line 4 .*p10_ms is a positive number"),
        (lambda some: some[3].update(ms=some[3]["ms"] * 1000), r"line 4 .*p10_ms <= ms <= p90_ms do not hold"),
        (lambda some: some[3].update(ms=some[3]["ms"] / 1000), r"line 4 .*p10_ms <= ms <= p90_ms do not hold"),
        (lambda some: some[3].update(runs="many"), "line 4 .*runs is a whole number"),
        (lambda some: some[3].update(file=["x"]), "line 4 .*not a model of this kit"),
        (lambda some: some[3].update(at="now"), "line 4 .*at is a finite number"),
        (lambda some: some[1].update(conditions={"load": "high"}), "line 2 .*load is a number of at least 0"),
        (lambda some: some[2].update(disturbed="no"), "line 3 .*disturbed is true or false"),
        (lambda some: some[0].update(threads="2; rm"), "first line .*not one that run.py wrote: .*threads"),
        (lambda some: some[3].update(file="blocks/99999.onnx"), "not a model of this kit"),
        (lambda some: some[3].update(sha256="0"), "not a model of this kit"),
        (lambda some: some.append(some[3]), "a second time"),
        (lambda some: some[2].update(reference=0), "reference is a positive number"),
        (lambda some: some[3].update(watts="high"), "line 4 .*watts"),
        (lambda some: some[1].update(conditions="fine"), "line 2 .*conditions is an object"),
        (lambda some: some.append({"hello": 1}), "of no kind that is known"),
        (lambda some: some.clear(), "empty"),
        (lambda some: some.pop(3), "unfinished: 57 of 58"),
    ],
)
def test_edited_results(ran, change, text):
    assert "file" in lines(ran)[3]
    edited(ran, change)
    with pytest.raises(BadInput, match=text) as error:
        import_kit(ran)
    assert "\n" not in str(error.value)
    assert not (ran / "table_fp32.json").exists()


def test_import_of_what_is_not_a_kit(ran, tmp_path, tiny):
    with pytest.raises(BadInput, match="belongs beside"):
        import_kit(tmp_path)
    (ran / "results.jsonl").unlink()
    with pytest.raises(BadInput, match=r"run 'python3 run\.py' on the device"):
        import_kit(ran)
    other = SearchSpace("other", tiny.choices, tiny.slots)
    (ran / "results.jsonl").write_text("{}\n")
    with pytest.raises(BadInput, match="is a kit of tiny, not of other"):
        import_kit(ran, space=other)


def test_failed_blocks_can_be_left_out(ran, tiny):
    manifest = json.loads((ran / "manifest.json").read_text())
    position = [m["file"] for m in manifest["models"]].index
    in_networks = [m["blocks"] for m in manifest["models"] if m["role"] != "block"]
    uses = [sum(i in blocks for blocks in in_networks) for i in range(len(tiny.blocks))]
    rare = manifest["models"][int(np.argmin(uses))]
    if min(uses):
        pytest.skip("every block is in a network")

    def fail(some):
        line = next(s for s in some if s.get("file") == rare["file"])
        for key in ("ms", "p10_ms", "p90_ms", "runs"):
            del line[key]
        line["failed"] = "crashed (SIGSEGV)"

    edited(ran, fail)
    table = import_kit(ran, allow_failed=True)
    assert len(table.rows) == len(tiny.blocks) - 1
    assert table.notes["failed"] == {rare["key"]: "crashed (SIGSEGV)"}
    assert [position(rare["file"]) < len(tiny.blocks), rare["key"] in table.row_of] == [True, False]


def test_energy_of_the_power_rails(ran, tiny):
    def with_power(some):
        for line in some:
            if "file" in line:
                line.update(watts=5.0, begin=line["at"] - 0.3, end=line["at"])

    edited(ran, with_power)
    table = import_kit(ran)
    assert table.lookup_energy(tiny.blocks) == pytest.approx(5.0 * table.lookup(tiny.blocks), rel=1e-4)  # W x ms = mJ


# The device


def test_power_rails_of_a_jetson(tmp_path):
    chip = tmp_path / "bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
    chip.mkdir(parents=True)
    for channel, (label, volts, amperes) in enumerate(
        [("VDD_IN", 5000, 1200), ("VDD_CPU_GPU_CV", 5000, 300), ("VDD_SOC", 5000, 200)], 1
    ):
        (chip / f"in{channel}_label").write_text(label + "\n")
        (chip / f"in{channel}_input").write_text(f"{volts}\n")
        (chip / f"curr{channel}_input").write_text(f"{amperes}\n")
    rails = power.power_rails(str(tmp_path))
    assert [rail[0] for rail in rails] == ["VDD_IN"]
    with power.Power(rails) as open_:
        time.sleep(0.2)
    assert open_.window()["watts"] == pytest.approx(6.0)
    (chip / "in1_label").write_text("VDD_GPU")
    rails = power.power_rails(str(tmp_path))
    with power.Power(rails) as open_:
        time.sleep(0.2)
    assert open_.window()["watts"] == pytest.approx(8.5)  # without a supply rail, all
    with power.Power([]) as open_:
        pass
    assert open_.window() == {}
    assert power.power_rails(str(tmp_path / "none")) == []


def test_conditions_as_the_system_tells_them():
    told = {
        "scaling_cur_freq": ["1500000", "1700000"],
        "scaling_max_freq": ["2000000", "2200000"],
        "scaling_governor": ["schedutil", "schedutil"],
        "temp": ["41000", "-256", "55500", "999999999"],
        "loadavg": ["0.52 0.58 0.59 1/467 12345"],
        "core_throttle_count": ["3", "4"],
        "boost": ["0"],
        "cur_freq": ["1300500000"],
        "status": ["pmode:0000"],
    }
    found = device.conditions(lambda pattern: told.get(pattern.rpartition("/")[2], []))
    assert {k: v for k, v in found.items() if k != "time"} == {
        "cpus": 2,
        "load": 0.52,
        "mhz": 1600,
        "max_mhz": 2200,
        "governor": "schedutil",
        "hottest_c": 55.5,
        "turbo": False,
        "throttled": 7,
        "nvpmodel": "pmode:0000",
        "gpu_mhz": 1300,
    }
    found = device.conditions(told_by_cpuinfo)
    assert {k: v for k, v in found.items() if k != "time"} == {"cpus": 2, "mhz": 2500, "turbo": True}


def told_by_cpuinfo(pattern):
    return {
        "/proc/cpuinfo": ["x: 1\ncpu MHz\t\t: 2000.5\ncpu MHz\t\t: 3000.5"],
        "/sys/devices/system/cpu/intel_pstate/no_turbo": ["0"],
    }.get(pattern, [])


def test_a_kit_that_is_being_written_is_not_written_twice(tiny, tmp_path):
    with open(tmp_path / ".lock", "w") as other:
        other.write("4242")
        other.flush()
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(BadInput, match=r"another process \(pid 4242\)"):
            export_kit(tiny, tmp_path, **FEW)
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda kit: import_kit(kit, name="../x"), "the name of a table becomes a file name"),
        (lambda kit: import_kit(kit, run_dir=""), "a path"),
        (lambda kit: import_kit(""), "the folder of the kit is a path"),
        (lambda kit: import_kit(kit / "run.py"), "is a file"),
        (lambda kit: import_kit(kit, allow_failed=3), "allow_failed is True or False"),
    ],
)
def test_names_that_lead_elsewhere(finished, call, text):
    before = sorted(p.name for p in finished.iterdir())
    with pytest.raises(BadInput) as error:
        call(finished)
    assert text in str(error.value)
    assert "\n" not in str(error.value)
    assert sorted(p.name for p in finished.iterdir()) == before


def test_a_read_only_folder_is_one_line_and_no_leftovers(tiny, tmp_path, monkeypatch):
    from nas import files

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(BadInput, match=r"cannot write .*: No space left on device$"):
        export_kit(tiny, tmp_path / "kit", **FEW)
    assert not (tmp_path / "kit").exists() or not list((tmp_path / "kit").rglob("*"))
