"""Runtimes: what executes a network on a device and how long one run takes."""

from nas.runtimes.ort import OnnxRuntime
from nas.runtimes.runtime import Device, Runtime

__all__ = ["Device", "OnnxRuntime", "Runtime"]
