"""ONNX in static int8, activations signed around zero: what TensorRT and microcontrollers want."""

from nas.deploy.exporters.onnx_int8 import OnnxInt8

exporter = OnnxInt8(symmetric_activations=True)
