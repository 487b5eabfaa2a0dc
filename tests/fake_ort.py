"""The source of a module ``onnxruntime`` of which a test says what its sessions do."""

FAKE_ORT = """
import os, signal, sys, time
__version__ = "9.9"
class SessionOptions: pass
class OrtValue: ortvalue_from_numpy = staticmethod(lambda x: x)
class Io:
    name, shape = "x", [1]
class Session:
    def io_binding(self): return self
    def bind_ortvalue_input(self, name, value): pass
    bind_ortvalue_output = bind_ortvalue_input
    get_inputs = get_outputs = lambda self: [Io]
"""
