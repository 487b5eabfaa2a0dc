"""ONNX in static int8 (QDQ), activations unsigned: the fastest form on x86."""

from nas.deploy.exporters.onnx import Onnx

exporter = Onnx(precision="int8")
