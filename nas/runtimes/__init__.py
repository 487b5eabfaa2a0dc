"""Runtimes: what executes a network on a device and how long one run takes."""

from nas.device import Device
from nas.runtimes.ethos_u import EthosU
from nas.runtimes.litert import LiteRT
from nas.runtimes.openvino_rt import OpenVINO
from nas.runtimes.ort import OnnxRuntime
from nas.runtimes.runtime import Runtime
from nas.runtimes.torch_cpu import TorchCPU
from nas.runtimes.torch_cuda import TorchCUDA

__all__ = ["Device", "EthosU", "LiteRT", "OnnxRuntime", "OpenVINO", "Runtime", "TorchCPU", "TorchCUDA"]
