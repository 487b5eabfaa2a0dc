"""From a searched network to a deployed one: prune, fine-tune, quantize, each step measured."""

from nas.callable_package import call_as
from nas.compress.finetune import FineTune
from nas.compress.pipeline import Compressed, Context, Record, Step, compress
from nas.compress.prune import Prune
from nas.compress.quantize import Int8Network, OnnxNetwork, Quantize

__all__ = [
    "Compressed",
    "Context",
    "FineTune",
    "Int8Network",
    "OnnxNetwork",
    "Prune",
    "Quantize",
    "Record",
    "Step",
    "compress",
]

call_as(__name__, "nas.compress.pipeline", "compress")
