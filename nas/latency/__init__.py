"""Latency tables: measuring campaigns, calibration, validation, interpolation."""

from nas.callable_package import call_as
from nas.latency.campaign import measure
from nas.latency.interpolate import estimate
from nas.latency.table import LatencyTable

__all__ = ["LatencyTable", "estimate", "measure"]

call_as(__name__, "nas.objectives", "latency")
