"""The program of a measuring kit, copied into each; Python 3.8 or later and its standard library, nothing of nas.

``campaign``: what ``run.py`` does. ``tools``: the runtimes it drives. ``worker``: the process in which onnxruntime
times. ``outputs``: what tools print. ``device``: clock, temperature, power.
"""
