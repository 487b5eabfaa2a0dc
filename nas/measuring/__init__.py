"""Measuring latency tables: campaigns on this machine, over SSH, and with a kit on a device without this library."""
