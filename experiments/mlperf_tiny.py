"""MLPerf Tiny's reference networks, for benchmarks."""

from nas.deploy.c.mlperf_tiny import programs

__all__ = ["programs"]
