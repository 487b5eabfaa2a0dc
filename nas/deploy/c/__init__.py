"""int8 networks as C99 without heap or dependencies, for Cortex-M and the host."""
