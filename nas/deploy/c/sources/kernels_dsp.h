/* What the kernels for DSP instructions share (Cortex-M4, M7, M33): the results of kernels.c, to the bit.
 *
 * SMLAD adds two products of 16 bits at once, so inputs are widened to 16 bits in scratch, once for all output channels.
 * SXTB16 widens bytes 0 and 2 of a word, and, rotated, bytes 1 and 3: "even" and "odd" below. All operands are in that
 * order, so nothing is ever shuffled.
 */
#ifndef KERNELS_DSP_H
#define KERNELS_DSP_H

#include "nas_kernels.h"

#if NAS_DSP
#include <arm_acle.h>
#include <string.h>

/* Four bytes, at any address. */
static inline uint32_t word(const int8_t *at)
{
    uint32_t w;
    memcpy(&w, at, 4);
    return w;
}

static inline int32_t even(uint32_t w)
{
    return __sxtb16((int32_t)w);
}

static inline int32_t odd(uint32_t w)
{
    int32_t r;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(r) : "r"(w));
    return r;
}

/* ---- from accumulators to bytes ---- */

/* offset: out_zero and what rounds, added before the shift to the right. */
typedef struct {
    int32_t multiplier, shift, offset;
} scale_t;

/* Shifts for which `rounded` is exact: larger ones could overflow, and none and left ones are not rounded that way. */
static inline int quick(int32_t shift)
{
    return (uint32_t)(shift - 1) < 21u;
}

static inline scale_t scale_of(int32_t multiplier, int32_t shift, int32_t zero)
{
    scale_t s = {multiplier, shift, quick(shift) ? (2 * zero + 1) * (1 << (shift - 1)) : 0};
    return s;
}

/* nas_scaled, plus the zero point, within a byte, for quick shifts. (2a * m + 2^31) / 2^32 is the rounded product; what is
 * negative is rounded away from zero by one less, and a product is negative when a is (or 0, where one less makes no
 * difference). Doubling saturates from 2^30 on, where the result is beyond a byte anyway: 2^30 * 2^30 / 2^31 / 2^21 = 256. */
static inline int32_t rounded(int32_t a, scale_t s)
{
    int32_t y = s.offset + (a >> 31);
    __asm__("smmlar %0, %1, %2, %0" : "+r"(y) : "r"(__qadd(a, a)), "r"(s.multiplier));
    y >>= s.shift;
    __asm__("ssat %0, #8, %0" : "+r"(y));
    return y;
}

/* The same for every shift. */
int8_t nas_dsp_slowly(int32_t a, int32_t multiplier, int32_t shift, int32_t zero);

static inline int8_t scaled(int32_t a, scale_t s, int32_t zero)
{
    return quick(s.shift) ? (int8_t)rounded(a, s) : nas_dsp_slowly(a, s.multiplier, s.shift, zero);
}

/* An activation that ends within a byte's range is rare: it costs a pass of its own. */
static inline void clamp(int8_t *out, uint32_t count, int32_t least, int32_t most)
{
    if (least == -128 && most == 127) {
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        out[i] = nas_clamped(out[i], least, most);
    }
}
#endif

#endif
