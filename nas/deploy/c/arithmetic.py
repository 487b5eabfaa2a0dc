"""TensorFlow Lite's int8 arithmetic: scales as fixed-point multipliers, and functions of one number as tables.

Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only inference", 2018.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

ADD_BITS = 20
"""Fractional bits in which two maps are added."""
_FUSED = {"NONE": (None, None), "RELU": (0.0, None), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0)}
_EVERY = np.arange(-128, 128, dtype=np.int64)


def fixed_point(scale: float) -> tuple[int, int]:
    """``scale`` as (multiplier with 31 fractional bits, shift to the right; negative is to the left)."""
    if scale == 0:
        return 0, 0
    part, exponent = math.frexp(scale)
    multiplier = math.floor(part * 2**31 + 0.5)
    if multiplier == 2**31:
        multiplier, exponent = 2**30, exponent + 1
    return (0, 0) if exponent < -31 else (multiplier, -exponent)


def mean_point(scale: float, count: int) -> tuple[int, int]:
    """``fixed_point`` of ``scale / count``, with the multiplier rounded down as the reference kernel of MEAN does."""
    multiplier, shift = fixed_point(scale)
    more = min(count.bit_length() - 1, 31 - shift)
    return (multiplier << more) // count, shift + more


def scaled(a: Ints, multiplier: int, shift: int) -> Ints:
    """``nas_scaled`` of nas_kernels.h, for ``a`` of any shape."""
    high = ((a << max(-shift, 0)) * multiplier + (1 << 30)) >> 31
    shift = max(shift, 0)
    mask = (1 << shift) - 1
    return (high >> shift) + ((high & mask) > (mask >> 1) + (high < 0))


def act_range(fused: str, scale: float, zero: int) -> tuple[int, int]:
    """The int8 values between which the activation ``fused``, named as in LiteRT's schema, keeps an output."""
    least, most = (None if x is None else zero + _round(float(x / np.float32(scale))) for x in _FUSED[fused])
    return max(-128, -128 if least is None else least), min(127, 127 if most is None else most)


def hard_swish_table(scale: float, zero: int, out_scale: float, out_zero: int) -> NDArray[np.int8]:
    """``(256,)`` x relu6(x + 3) / 6 of every int8 number: 16 bits are kept on the way, as the reference kernel does."""
    hires = np.float32(scale) / np.float32(128)
    multiplier, shift = fixed_point(float(hires / np.float32(out_scale)))
    gate_multiplier, gate_shift = fixed_point(float(hires / np.float32(3 / 32768)))
    x = (_EVERY - zero) * 128
    product = _high16(x, _to16(multiplier))
    gate = _saturated(x << (-gate_shift - 1)) if gate_shift < 0 else x
    gate = _high16(gate, _to16(gate_multiplier))
    if gate_shift < 0:
        gate = _saturated(gate << 1)
    elif gate_shift > 0:
        gate = _halved(gate, gate_shift)
    gate = (gate + (1 << 15)) >> 1
    result = _saturated((gate * product) // (1 << 15) + ((gate * product) % (1 << 15) > 0) * (gate * product < 0))
    return _clamped(_halved(result, shift) + out_zero)


def logistic_table(scale: float, zero: int, out_scale: float, out_zero: int) -> NDArray[np.int8]:
    """``(256,)`` 1 / (1 + exp(-x)) of every int8 number."""
    x = np.float32(scale) * (_EVERY - zero).astype(np.float32)
    y = np.float32(1) / (np.float32(1) + np.exp(-x))
    return _clamped(np.array([_round(v * (np.float32(1) / np.float32(out_scale))) for v in y]) + out_zero)


def mul_table(
    x: tuple[Ints, float, int], y: tuple[Ints, float, int], out_scale: float, out_zero: int, act: tuple[int, int]
) -> NDArray[np.int8]:
    """Products of ``x`` and ``y``, each (int8 values ``(256,)`` or ``()``, scale, zero point)."""
    multiplier, shift = fixed_point(mul_scale(x[1], y[1], out_scale))
    product = scaled((x[0] - x[2]) * (y[0] - y[2]), multiplier, shift) + out_zero
    return np.clip(product, *act).astype(np.int8)


def mul_scale(x: float, y: float, out: float) -> float:
    """The scale of a product, in the reference kernel's precision."""
    return float(np.float32(x) * np.float32(y) / np.float32(out))


def every() -> Ints:
    """``(256,)``: all int8 numbers, in the order of a table."""
    return _EVERY


def _round(x: float) -> int:
    """To the nearest, halves away from zero."""
    return int(math.copysign(math.floor(abs(float(x)) + 0.5), x))


def _to16(multiplier: int) -> int:
    return min((multiplier + (1 << 15)) >> 16, 32767)


def _high16(a: Ints, b: int) -> Ints:
    return _saturated((a * b + (1 << 14)) >> 15)


def _halved(a: Ints, times: int) -> Ints:
    """``a / 2**times``, rounded half away from zero."""
    return np.sign(a) * ((np.abs(a) + ((1 << times) >> 1)) >> times)


def _saturated(a: Ints) -> Ints:
    return np.clip(a, -32768, 32767)


def _clamped(a: Ints) -> NDArray[np.int8]:
    return np.clip(a, -128, 127).astype(np.int8)
