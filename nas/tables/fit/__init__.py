"""Tables that are solved for: calibration of timed blocks, whole networks, new devices from a few timings, boards."""
