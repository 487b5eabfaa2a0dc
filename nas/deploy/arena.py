"""Memory of an int8 network on a microcontroller, from its operators: TensorFlow Lite Micro's arena, and flash.

The arena holds the activations (planned: what is never alive at once shares memory) and, for as long as the
interpreter lives, its own records. Activations are computed exactly; records and file overhead by constants that were
fitted to what TensorFlow Lite Micro reports and to files of single blocks (``tests/test_memory.py`` checks whole networks).
"""

from __future__ import annotations

from nas.deploy.litert_graph import Graph, Op, Weight

ALIGNMENT = 16
