"""The program of a measuring kit, copied into each; Python 3.8 or later and its standard library, nothing of nas.

``campaign``: what ``run.py`` does. ``tools``: the runtimes it drives. ``worker``: the process in which onnxruntime
times. ``process``: running what may crash or hang. ``outputs``: what tools print.
``device``: clock, temperature, power. ``far_end``: the device's side of ``nas.measuring.ssh``.
"""
