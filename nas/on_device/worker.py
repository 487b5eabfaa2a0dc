"""Times a group of models with onnxruntime, in a process of its own that may die."""

# ruff: noqa: UP006, UP035 - Python 3.8
from __future__ import annotations

import json
import math
import signal
import statistics
import sys
import time
from typing import Any, Callable, Dict, Sequence

from .device import WINDOW_S, Power
from .outputs import summary

MIN_ROUNDS, MAX_ROUNDS, SAMPLES, TIGHT, SAMPLE_MS, LONG_S = 6, 24, 4, 0.02, 0.1, 60.0  # as nas.measuring.timing

Json = Dict[str, Any]


def worker() -> int:
    """Time a group in this process, saying which model is at work before touching it."""
    job = json.loads(sys.stdin.read())

    def say(message: Json) -> None:
        signal.setitimer(signal.ITIMER_REAL, job["hang_s"])  # ends this process, whatever it is doing then
        print(f"\n@nas {json.dumps(message)}", flush=True)

    import numpy as np
    import onnxruntime as ort

    def load(path: str, shape: list[int]) -> Callable[[], Any]:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = job["threads"], 1
        options.log_severity_level = 3
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        binding = session.io_binding()
        binding.bind_ortvalue_input(session.get_inputs()[0].name, ort.OrtValue.ortvalue_from_numpy(x))
        output = np.empty(session.get_outputs()[0].shape, dtype=np.float32)
        binding.bind_ortvalue_output(session.get_outputs()[0].name, ort.OrtValue.ortvalue_from_numpy(output))
        return lambda: (session.run_with_iobinding(binding), output)  # which must stay alive

    calls: dict[int, Callable[[], Any]] = {}
    runs: dict[int, int] = {}
    for i, (path, shape) in enumerate(job["models"]):
        say({"model": i})
        try:
            call = load(path, shape)
            sample(call, 1, 3)
            runs[i] = max(1, round(SAMPLE_MS / statistics.median(sample(call, 1, 5))))
            calls[i] = call
        except Exception as error:  # this model, not the others
            say({"model": i, "failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})
    samples: dict[int, list[float]] = {i: [] for i in calls}
    waiting, begun = list(calls), time.monotonic()
    for done in range(1, MAX_ROUNDS + 1):
        for i in waiting:
            say({"model": i})
            samples[i] += sample(calls[i], runs[i], SAMPLES)[1:]  # the first finds cold caches
        if done >= MIN_ROUNDS:
            late = time.monotonic() - begun > LONG_S
            waiting = [] if late else [i for i in waiting if median_interval(samples[i]) > TIGHT]
    for i, call in calls.items():
        power = {}
        if job["rails"]:
            say({"model": i})
            with Power(job["rails"]) as meter:
                stop = time.monotonic() + WINDOW_S
                while time.monotonic() < stop:
                    call()
            power = meter.window()
        say({"model": i, **summary(samples[i]), **power})
    return 0


def sample(call: Callable[[], Any], runs: int, repeats: int) -> list[float]:
    """Milliseconds per call, each the mean over ``runs``."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter_ns()
        for _ in range(runs):
            call()
        taken.append(max(1, time.perf_counter_ns() - start) / (1e6 * runs))
    return taken


def median_interval(samples: Sequence[float]) -> float:
    """Half width of the 95% interval of the median, relative; from order statistics."""
    ordered = sorted(samples)
    half = 0.98 * math.sqrt(len(ordered))
    low = max(0, math.floor(len(ordered) / 2 - half))
    high = min(len(ordered) - 1, math.ceil(len(ordered) / 2 + half))
    return (ordered[high] - ordered[low]) / (2 * statistics.median(ordered))
