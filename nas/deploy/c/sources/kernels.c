/* The kernels in portable C99. Those under NAS_DSP have a form of their own in kernels_dsp*.c. */
#include "nas_kernels.h"

#include <string.h>

#if !NAS_DSP

static int32_t dot(const int8_t *a, const int8_t *b, uint32_t count)
{
    int32_t sum = 0;
    const int8_t *end = a + (count & ~3u);
    for (; a != end; a += 4, b += 4) {
        sum += a[0] * b[0];
        sum += a[1] * b[1];
        sum += a[2] * b[2];
        sum += a[3] * b[3];
    }
    for (end += count & 3u; a != end; a++, b++) {
        sum += *a * *b;
    }
    return sum;
}

static int32_t total(const int8_t *a, uint32_t count)
{
    int32_t sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        sum += a[i];
    }
    return sum;
}

static int8_t finished(const nas_conv_t *p, uint32_t channel, int32_t sum)
{
    int32_t value = nas_scaled(sum, p->multiplier[channel], p->shift[channel]);
    return nas_clamped(value + p->out_zero, p->act_min, p->act_max);
}

void nas_fully_connected(const nas_conv_t *p, const int8_t *in, int8_t *out, void *scratch)
{
    (void)scratch;
    const int8_t *weights = p->weights;
    for (uint32_t o = 0; o < p->out_ch; o++, weights += p->in_ch) {
        out[o] = finished(p, o, p->bias[o] + dot(weights, in, p->in_ch));
    }
}

void nas_conv1x1(const nas_conv_t *p, const int8_t *in, int8_t *out, void *scratch)
{
    for (uint32_t y = 0; y < p->out_h; y++) {
        const int8_t *pixel = in + (size_t)y * p->stride * p->in_w * p->in_ch;
        for (uint32_t x = 0; x < p->out_w; x++) {
            nas_fully_connected(p, pixel, out, scratch);
            pixel += p->stride * p->in_ch;
            out += p->out_ch;
        }
    }
}

/* The window of one output pixel on one group of channels; what lies outside the input is in_zero. */
static int32_t window(const nas_conv_t *p, const int8_t *group, const int8_t *weights, int32_t top, int32_t left)
{
    int32_t sum = 0, depth = p->in_ch / p->groups;
    int32_t from = left < 0 ? -left : 0, to = p->in_w - left < p->kernel_w ? p->in_w - left : p->kernel_w;
    /* all columns of one group lie together */
    int32_t step = p->groups == 1 ? to - from : 1;
    for (int32_t y = top; y < top + p->kernel_h; y++, weights += p->kernel_w * depth) {
        if (y < 0 || y >= p->in_h || from >= to) {
            sum += p->in_zero * total(weights, (uint32_t)(p->kernel_w * depth));
            continue;
        }
        const int8_t *pixel = group + (size_t)(y * p->in_w + left + from) * p->in_ch;
        sum += p->in_zero * total(weights, (uint32_t)(from * depth));
        for (int32_t x = from; x < to; x += step, pixel += p->in_ch) {
            sum += dot(weights + x * depth, pixel, (uint32_t)(step * depth));
        }
        sum += p->in_zero * total(weights + to * depth, (uint32_t)((p->kernel_w - to) * depth));
    }
    return sum;
}

void nas_conv(const nas_conv_t *p, const int8_t *in, int8_t *out, void *scratch)
{
    (void)scratch;
    uint32_t depth = (uint32_t)(p->in_ch / p->groups), per = (uint32_t)(p->out_ch / p->groups);
    size_t size = (size_t)p->kernel_h * p->kernel_w * depth;
    for (int32_t y = 0; y < p->out_h; y++) {
        for (int32_t x = 0; x < p->out_w; x++) {
            const int8_t *group = in, *weights = p->weights;
            for (uint32_t o = 0, left = per; o < p->out_ch; o++, left--, weights += size) {
                if (left == 0) {
                    left = per;
                    group += depth;
                }
                int32_t sum = window(p, group, weights, y * p->stride - p->pad_top, x * p->stride - p->pad_left);
                *out++ = finished(p, o, p->bias[o] + sum);
            }
        }
    }
}

#define STRIP 32u /* channels at a time, with their accumulators on the stack */

/* sums[c] += weights[c] * in[c] */
static void tap(int32_t *sums, const int8_t *weights, const int8_t *in, uint32_t count)
{
    const int8_t *end = in + (count & ~3u);
    for (; in != end; in += 4, weights += 4, sums += 4) {
        sums[0] += weights[0] * in[0];
        sums[1] += weights[1] * in[1];
        sums[2] += weights[2] * in[2];
        sums[3] += weights[3] * in[3];
    }
    for (end += count & 3u; in != end;) {
        *sums++ += *weights++ * *in++;
    }
}

/* One output pixel, a strip of channels from c on; outside: a strip of in_zero. */
static void pixel_strip(const nas_conv_t *p, const int8_t *in, int8_t *out, int32_t top, int32_t left, uint32_t c,
                        const int8_t *outside)
{
    int32_t sums[STRIP];
    uint32_t count = p->out_ch - c < STRIP ? p->out_ch - c : STRIP;
    const int8_t *weights = p->weights + c;
    memcpy(sums, p->bias + c, count * sizeof *sums);
    for (int32_t y = top; y < top + p->kernel_h; y++) {
        for (int32_t x = left; x < left + p->kernel_w; x++, weights += p->in_ch) {
            int apart = y < 0 || y >= p->in_h || x < 0 || x >= p->in_w;
            tap(sums, weights, apart ? outside : in + (size_t)(y * p->in_w + x) * p->in_ch + c, count);
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        out[c + i] = finished(p, c + i, sums[i]);
    }
}

void nas_depthwise(const nas_conv_t *p, const int8_t *in, int8_t *out, void *scratch)
{
    (void)scratch;
    int8_t outside[STRIP];
    memset(outside, p->in_zero, sizeof outside);
    for (int32_t y = 0; y < p->out_h; y++) {
        for (int32_t x = 0; x < p->out_w; x++, out += p->out_ch) {
            for (uint32_t c = 0; c < p->out_ch; c += STRIP) {
                pixel_strip(p, in, out, y * p->stride - p->pad_top, x * p->stride - p->pad_left, c, outside);
            }
        }
    }
}

void nas_add(const nas_add_t *p, const int8_t *x, const int8_t *y, int8_t *out)
{
    for (uint32_t i = 0; i < p->count; i++) {
        int32_t sum = nas_scaled((x[i] - p->zero[0]) * (1 << NAS_ADD_BITS), p->multiplier[0], p->shift[0]);
        sum += nas_scaled((y[i] - p->zero[1]) * (1 << NAS_ADD_BITS), p->multiplier[1], p->shift[1]);
        sum = nas_scaled(sum, p->out_multiplier, p->out_shift);
        out[i] = nas_clamped(sum + p->out_zero, p->act_min, p->act_max);
    }
}

void nas_mul(const nas_mul_t *p, const int8_t *x, const int8_t *gate, int8_t *out)
{
    for (uint32_t i = 0; i < p->pixels; i++) {
        for (uint32_t c = 0; c < p->ch; c++) {
            int32_t product = (*x++ - p->zero) * (gate[c] - p->gate_zero);
            product = nas_scaled(product, p->multiplier, p->shift);
            *out++ = nas_clamped(product + p->out_zero, p->act_min, p->act_max);
        }
        if (p->gate_pixels > 1) {
            gate += p->ch;
        }
    }
}

#endif

void nas_mean(const nas_mean_t *p, const int8_t *in, int8_t *out)
{
    for (uint32_t c = 0; c < p->ch; c++) {
        int32_t sum = -p->in_zero * (int32_t)p->pixels;
        for (uint32_t i = 0; i < p->pixels; i++) {
            sum += in[(size_t)i * p->ch + c];
        }
        out[c] = nas_clamped(nas_scaled(sum, p->multiplier, p->shift) + p->out_zero, -128, 127);
    }
}

void nas_lookup(const int8_t table[256], uint32_t count, const int8_t *in, int8_t *out)
{
    for (uint32_t i = 0; i < count; i++) {
        out[i] = table[in[i] + 128];
    }
}

void nas_pad(const nas_pad_t *p, const int8_t *in, int8_t *out)
{
    size_t row = (size_t)p->in_w * p->ch, left = (size_t)p->left * p->ch, right = (size_t)p->right * p->ch;
    size_t before = (left + row + right) * p->top, after = (left + row + right) * p->bottom;
    memset(out, p->zero, before);
    out += before;
    for (uint32_t y = 0; y < p->in_h; y++) {
        memset(out, p->zero, left);
        memcpy(out + left, in, row);
        memset(out + left + row, p->zero, right);
        out += left + row + right;
        in += row;
    }
    memset(out, p->zero, after);
}

void nas_shuffle(const nas_shuffle_t *p, const int8_t *in, int8_t *out)
{
    for (uint32_t i = 0; i < p->pixels; i++, in += (size_t)p->groups * p->per) {
        for (uint32_t c = 0; c < p->per; c++) {
            for (uint32_t g = 0; g < p->groups; g++) {
                *out++ = in[(size_t)g * p->per + c];
            }
        }
    }
}
