"""Times a group of models with onnxruntime, in a process of its own that may die."""

# ruff: noqa: UP006, UP035 - Python 3.8
from __future__ import annotations

import json
import signal
import sys
from typing import Callable, Dict, Sequence

from .clock import Loaded, in_turns, summary, timed, warmed_up
from .device import Json
from .power import Power, sustained

LONG_S = 60.0  # then a group's least number of rounds is enough


def worker() -> int:
    """Time a group in this process, saying which model is at work before touching it."""
    job = json.loads(sys.stdin.read())

    def say(message: Json) -> None:
        signal.setitimer(signal.ITIMER_REAL, job["hang_s"])  # ends this process, whatever it is doing then
        print(f"\n@nas {json.dumps(message)}", flush=True)

    def failed(i: int, error: Exception) -> None:
        say({"model": i, "failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})

    def taker(i: int) -> Callable[[int], Sequence[float]]:
        def take(samples: int) -> Sequence[float]:
            say({"model": i})
            return timed(ready[i], samples)

        return take

    ready: Dict[int, Loaded] = {}
    for i, (path, shape) in enumerate(job["models"]):
        say({"model": i})
        try:
            ready[i] = load(path, shape, job["threads"])
        except Exception as error:  # this model, not the others
            failed(i, error)
    for i, samples in zip(ready, in_turns([taker(i) for i in ready], long_s=LONG_S)):  # noqa: B905
        if isinstance(samples, Exception):
            failed(i, samples)
            continue
        window: Json = {}
        if job["rails"]:
            say({"model": i})
            with Power(job["rails"]) as meter:
                window = sustained(ready[i].call, meter.joules)
        say({"model": i, **summary(samples), **window})
    return 0


def load(model: str | bytes, shape: Sequence[int], threads: int) -> Loaded:
    """A session of a file or its content on random input, warmed up."""
    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    binding = session.io_binding()
    binding.bind_ortvalue_input(session.get_inputs()[0].name, ort.OrtValue.ortvalue_from_numpy(x))
    output = np.empty(session.get_outputs()[0].shape, dtype=np.float32)
    binding.bind_ortvalue_output(session.get_outputs()[0].name, ort.OrtValue.ortvalue_from_numpy(output))
    return warmed_up(lambda: session.run_with_iobinding(binding), keeps=(x, output))
