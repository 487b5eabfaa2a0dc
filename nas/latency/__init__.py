"""Latency tables: measuring campaigns, calibration, validation, interpolation."""

from nas.latency.campaign import measure
from nas.latency.interpolate import estimate
from nas.latency.table import LatencyTable

__all__ = ["LatencyTable", "estimate", "measure"]
