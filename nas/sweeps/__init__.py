"""Sweeps: many searches or trainings on Ray Tune, each in a folder of its own."""
