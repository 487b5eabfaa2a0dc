/* Kernels of int8 networks: C99, no heap, no library but <stdint.h> and <string.h>.
 *
 * Feature maps are [row][column][channel]. The arithmetic is TensorFlow Lite's: an accumulator of 32 bits, times a
 * multiplier of 31 fractional bits with rounding, shifted right with rounding, plus the output's zero point, clamped.
 * Right shifts of negative numbers are arithmetic, as with every compiler for Arm.
 *
 * Overlap. Every kernel makes its output in order, in the steps named beside it, and while it makes a step it reads no
 * input that only earlier steps needed. So the output may lie over inputs that are used up; nas/deploy/c/kernels.py
 * says by how many bytes it has to start before the input ("lead").
 */
#ifndef NAS_KERNELS_H
#define NAS_KERNELS_H

#include <stddef.h>
#include <stdint.h>

/* By Armv7E-M's and Armv8-M's DSP instructions (kernels_dsp*.c): convolutions, fully connected layers, add and mul. */
#if defined(__ARM_FEATURE_DSP) && !defined(NAS_PORTABLE)
#define NAS_DSP 1
#else
#define NAS_DSP 0
#endif

#define NAS_ADD_BITS 20

#ifdef __cplusplus
extern "C" {
#endif

/* A convolution or a fully connected layer. Outside the input lies in_zero.
 * weights: [out_ch][kernel_h][kernel_w][in_ch / groups]; of a depthwise one [kernel_h][kernel_w][ch].
 * bias: minus in_zero times the sum of the channel's weights already. shift: to the right; negative is to the left. */
typedef struct {
    uint16_t in_h, in_w, in_ch;
    uint16_t out_h, out_w, out_ch;
    uint16_t groups;
    uint8_t kernel_h, kernel_w, stride, pad_top, pad_left;
    int8_t in_zero, out_zero, act_min, act_max;
    const int8_t *weights;
    const int32_t *bias;
    const int32_t *multiplier;
    const int8_t *shift;
} nas_conv_t;

/* Sum over pixels, times 1 / pixels and the scales. */
typedef struct {
    uint32_t pixels;
    uint16_t ch;
    int8_t in_zero, out_zero, shift;
    int32_t multiplier;
} nas_mean_t;

/* Inputs are brought to a common scale with NAS_ADD_BITS fractional bits, added, and brought to the output's. */
typedef struct {
    uint32_t count;
    int8_t zero[2], out_zero, act_min, act_max;
    int8_t shift[2], out_shift;
    int32_t multiplier[2], out_multiplier;
} nas_add_t;

/* Every pixel of x times the gate: of one pixel (squeeze-excite), or of as many as x. */
typedef struct {
    uint32_t pixels, gate_pixels;
    uint16_t ch;
    int8_t zero, gate_zero, out_zero, act_min, act_max, shift;
    int32_t multiplier;
} nas_mul_t;

/* Rows and columns of zero points around a map. */
typedef struct {
    uint16_t in_h, in_w, ch, top, bottom, left, right;
    int8_t zero;
} nas_pad_t;

/* Channels (groups, per) of every pixel become (per, groups). */
typedef struct {
    uint32_t pixels;
    uint16_t groups, per;
} nas_shuffle_t;

/* Maps and scratch start at a multiple of 4 bytes. scratch: NULL where kernels.py says 0 bytes. */

/* kernel 1, no padding, one group, any stride. Steps: 4 pixels. */
void nas_conv1x1(const nas_conv_t *p, const int8_t *in, int8_t *out, void *scratch);
/* Steps: one row. */
void nas_conv(const nas_conv_t *p, const int8_t *in, int8_t *out, void *scratch);
/* in_ch == out_ch == groups, at least 4. Steps: the rows that have 24 columns together, at least one. */
void nas_depthwise(const nas_conv_t *p, const int8_t *in, int8_t *out, void *scratch);
/* One pixel of in_ch bytes to one of out_ch. One step: the output lies apart from the input. */
void nas_fully_connected(const nas_conv_t *p, const int8_t *in, int8_t *out, void *scratch);
/* Steps: 4 channels, over all pixels. */
void nas_mean(const nas_mean_t *p, const int8_t *in, int8_t *out);
/* Steps: 4 bytes; of x and y, either may be the output. */
void nas_add(const nas_add_t *p, const int8_t *x, const int8_t *y, int8_t *out);
/* Steps: 4 bytes; the output may be x, never the gate. */
void nas_mul(const nas_mul_t *p, const int8_t *x, const int8_t *gate, int8_t *out);
/* out = table[128 + in]: every function of one number. Steps: 4 bytes. */
void nas_lookup(const int8_t table[256], uint32_t count, const int8_t *in, int8_t *out);
/* Steps: one row. */
void nas_pad(const nas_pad_t *p, const int8_t *in, int8_t *out);
/* Steps: one pixel. */
void nas_shuffle(const nas_shuffle_t *p, const int8_t *in, int8_t *out);

/* a * multiplier / 2^31, rounded; multiplier is not negative. */
static inline int32_t nas_high(int32_t a, int32_t multiplier)
{
#if defined(__ARM_ARCH_6M__) || defined(NAS_NO_LONG_MULTIPLY) /* Cortex-M0+: from halves, four times faster */
    int32_t a1 = a >> 16, a0 = a & 0xffff, m1 = multiplier >> 16, m0 = multiplier & 0xffff;
    uint32_t low = (uint32_t)a0 * (uint32_t)m0;
    int32_t middle = a1 * m0 + (int32_t)(low >> 16), rest = a0 * m1 + (middle & 0xffff);
    low = (low & 0xffffu) | (uint32_t)rest << 16;
    return 2 * (a1 * m1 + (middle >> 16) + (rest >> 16)) + (int32_t)(((low >> 1) + (UINT32_C(1) << 29)) >> 30);
#else
    return (int32_t)(((int64_t)a * multiplier + (INT64_C(1) << 30)) >> 31);
#endif
}

/* nas_high, then 2^-shift of that, rounded half away from zero. */
static inline int32_t nas_scaled(int32_t a, int32_t multiplier, int32_t shift)
{
    if (shift < 0) {
        a = (int32_t)((uint32_t)a << -shift);
        shift = 0;
    }
    int32_t high = nas_high(a, multiplier), mask = (int32_t)((UINT32_C(1) << shift) - 1u);
    return (high >> shift) + ((high & mask) > (mask >> 1) + (high < 0));
}

static inline int8_t nas_clamped(int32_t a, int32_t least, int32_t most)
{
    return (int8_t)(a < least ? least : a > most ? most : a);
}

#ifdef __cplusplus
}
#endif

#endif
