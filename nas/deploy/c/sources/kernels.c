/* The kernels in portable C99. Those under NAS_DSP have a form of their own in kernels_dsp.c. */
#include "nas_kernels.h"

#include <string.h>

#if !NAS_DSP

static int32_t dot(const int8_t *a, const int8_t *b, uint32_t count)
{
    int32_t sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        sum += a[i] * b[i];
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
    int32_t sum = 0;
    uint32_t depth = (uint32_t)(p->in_ch / p->groups);
    for (int32_t y = top; y < top + p->kernel_h; y++) {
        for (int32_t x = left; x < left + p->kernel_w; x++, weights += depth) {
            if (y < 0 || y >= p->in_h || x < 0 || x >= p->in_w) {
                sum += p->in_zero * total(weights, depth);
            } else {
                sum += dot(weights, group + ((size_t)y * p->in_w + (size_t)x) * p->in_ch, depth);
            }
        }
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

static int32_t column(const nas_conv_t *p, const int8_t *in, const int8_t *weights, int32_t top, int32_t left)
{
    int32_t sum = 0;
    for (int32_t y = top; y < top + p->kernel_h; y++) {
        for (int32_t x = left; x < left + p->kernel_w; x++, weights += p->in_ch) {
            int outside = y < 0 || y >= p->in_h || x < 0 || x >= p->in_w;
            sum += *weights * (outside ? p->in_zero : in[((size_t)y * p->in_w + (size_t)x) * p->in_ch]);
        }
    }
    return sum;
}

static int32_t inner_column(const nas_conv_t *p, const int8_t *in, const int8_t *weights)
{
    int32_t sum = 0;
    size_t row = (size_t)p->in_w * p->in_ch;
    for (uint32_t y = 0; y < p->kernel_h; y++, in += row) {
        const int8_t *pixel = in;
        for (uint32_t x = 0; x < p->kernel_w; x++, pixel += p->in_ch, weights += p->in_ch) {
            sum += *weights * *pixel;
        }
    }
    return sum;
}

void nas_depthwise(const nas_conv_t *p, const int8_t *in, int8_t *out, void *scratch)
{
    (void)scratch;
    for (int32_t y = 0; y < p->out_h; y++) {
        int32_t top = y * p->stride - p->pad_top;
        for (int32_t x = 0; x < p->out_w; x++) {
            int32_t left = x * p->stride - p->pad_left;
            int inside = top >= 0 && left >= 0 && top + p->kernel_h <= p->in_h && left + p->kernel_w <= p->in_w;
            const int8_t *corner = inside ? in + ((size_t)top * p->in_w + (size_t)left) * p->in_ch : in;
            for (uint32_t c = 0; c < p->out_ch; c++) {
                const int8_t *weights = p->weights + c;
                int32_t sum = inside ? inner_column(p, corner + c, weights) : column(p, in + c, weights, top, left);
                *out++ = finished(p, c, p->bias[c] + sum);
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
