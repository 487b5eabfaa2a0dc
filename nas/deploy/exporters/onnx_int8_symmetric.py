"""ONNX in static int8, activations signed around zero: what TensorRT and microcontrollers want."""

from nas.deploy.exporters.onnx import Onnx

exporter = Onnx(precision="int8", symmetric_activations=True)
