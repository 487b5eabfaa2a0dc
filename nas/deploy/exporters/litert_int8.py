"""LiteRT (.tflite) in full-integer int8, for phones and microcontrollers."""

from nas.deploy.exporters.litert import LiteRT

exporter = LiteRT(precision="int8")
