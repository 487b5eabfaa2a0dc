"""Latency tables: what blocks cost on a device, how wrong their sum is, estimates for blocks that were not measured."""
