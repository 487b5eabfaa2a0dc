/* Depthwise convolutions by DSP instructions: four channels of the rows that a step sees, one channel at a time. */
#include "kernels_dsp.h"

#if NAS_DSP
static inline void put(int16_t *at, uint32_t two)
{
    memcpy(at, &two, 4);
}

/* count columns of four channels to four rows of 16 bits, size apart. */
static void spread(const int8_t *in, uint32_t chs, uint32_t count, int16_t *to, uint32_t size)
{
    int16_t *far = to + 2 * size;
    #pragma GCC unroll 2
    for (; count > 1; count -= 2, in += 2 * chs, to += 2, far += 2) {
        uint32_t left = word(in), right = word(in + chs);
        uint32_t low = (left & 0xFFFFu) | right << 16, high = left >> 16 | (right & 0xFFFF0000u);
        put(to, (uint32_t)even(low));
        put(to + size, (uint32_t)odd(low));
        put(far, (uint32_t)even(high));
        put(far + size, (uint32_t)odd(high));
    }
    if (count) {
        to[0] = in[0];
        to[size] = in[1];
        far[0] = in[2];
        far[size] = in[3];
    }
}

static void blank(int16_t *to, uint32_t count, uint32_t size, int16_t zero)
{
    for (uint32_t i = 0; i < count; i++, to++) {
        to[0] = to[size] = to[2 * size] = to[3 * size] = zero;
    }
}

/* One row of weights (w0, w1), (w1, w2), ... on one row of input, for four columns of output. With stride 1 those at odd
 * columns begin within a word. */
__attribute__((always_inline)) static inline void taps(uint32_t width, uint32_t stride, const int32_t *x, const int32_t *w,
                                                       int32_t sum[4])
{
    #pragma GCC unroll 6
    for (uint32_t i = 0; i < width - 1; i++) {
        const int32_t *at = x + (i + 1) / 2;
        int last = i == width - 2;
        if (stride == 1 && i % 2 == 0) {
            sum[0] = __smlad(at[0], w[i], sum[0]);
            sum[2] = __smlad(at[1], w[i], sum[2]);
            sum[1] = i == 0 ? __smlatb(at[0], w[i], sum[1]) : sum[1];
            sum[3] = i == 0 ? __smlatb(at[1], w[i], sum[3]) : sum[3];
        } else if (stride == 1) {
            sum[1] = __smlad(at[0], w[i], sum[1]);
            sum[3] = __smlad(at[1], w[i], sum[3]);
            sum[0] = last ? __smlabt(at[0], w[i], sum[0]) : sum[0];
            sum[2] = last ? __smlabt(at[1], w[i], sum[2]) : sum[2];
        } else if (i % 2 == 0) {
            #pragma GCC unroll 4
            for (int k = 0; k < 4; k++) {
                sum[k] = __smlad(at[k], w[i], sum[k]);
            }
        } else if (last) {
            #pragma GCC unroll 4
            for (int k = 0; k < 4; k++) {
                sum[k] = __smlabt(at[k], w[i], sum[k]);
            }
        }
    }
}

/* A row of output of one channel, four columns at a time; rows: kernel_h of them, each of so many words. */
__attribute__((always_inline)) static inline void slide(const nas_conv_t *p, uint32_t width, uint32_t stride,
                                                        const int32_t *rows, uint32_t words, const int32_t *pairs,
                                                        int32_t bias, scale_t s, int8_t *out)
{
    uint32_t ch = p->out_ch, height = p->kernel_h;
    for (uint32_t left = p->out_w;; left -= 4, rows += 2 * stride, out += 4 * ch) {
        int32_t sum[4] = {bias, bias, bias, bias};
        if (width == 3) {
            taps(3, stride, rows, pairs, sum);
            taps(3, stride, rows + words, pairs + 2, sum);
            taps(3, stride, rows + 2 * words, pairs + 4, sum);
        } else {
            const int32_t *x = rows, *w = pairs;
            for (uint32_t row = 0; row < height; row++, x += words, w += width - 1) {
                taps(width, stride, x, w, sum);
            }
        }
        int32_t a = rounded(sum[0], s), b = rounded(sum[1], s), c = rounded(sum[2], s);
        out[0] = (int8_t)a;
        if (left < 4) {
            if (left > 1) {
                out[ch] = (int8_t)b;
            }
            if (left > 2) {
                out[2 * ch] = (int8_t)c;
            }
            return;
        }
        out[ch] = (int8_t)b;
        out[2 * ch] = (int8_t)c;
        out[3 * ch] = (int8_t)rounded(sum[3], s);
        if (left == 4) {
            return;
        }
    }
}

/* Any width, stride and shift. */
static void plainly(const nas_conv_t *p, const int16_t *rows, uint32_t length, const int8_t *weights, int32_t bias,
                    scale_t s, int8_t *out)
{
    for (uint32_t col = 0; col < p->out_w; col++, rows += p->stride, out += p->out_ch) {
        const int8_t *w = weights;
        int32_t sum = bias;
        for (uint32_t row = 0; row < p->kernel_h; row++) {
            for (uint32_t i = 0; i < p->kernel_w; i++, w += p->in_ch) {
                sum += rows[row * length + i] * *w;
            }
        }
        *out = scaled(sum, s, p->out_zero);
    }
}

__attribute__((always_inline)) static inline void pack(const nas_conv_t *p, uint32_t width, const int8_t *w, int32_t *pair)
{
    uint32_t ch = p->in_ch;
    for (uint32_t row = 0; row < p->kernel_h; row++, pair += width - 1) {
        uint32_t last = (uint32_t)*w;
        w += ch;
        #pragma GCC unroll 6
        for (uint32_t i = 0; i < width - 1; i++, w += ch) {
            uint32_t next = (uint32_t)*w;
            pair[i] = (int32_t)((last & 0xFFFFu) | next << 16);
            last = next;
        }
    }
}

/* count rows of output of one channel; pairs: memory for its weights. */
static void channel(const nas_conv_t *p, uint32_t ch, const int32_t *rows, uint32_t words, uint32_t count, int32_t *pairs,
                    int8_t *out)
{
    scale_t s = scale_of(p->multiplier[ch], p->shift[ch], p->out_zero);
    const int8_t *w = p->weights + ch;
    int32_t bias = p->bias[ch];
    uint32_t down = p->stride * words, across = (uint32_t)p->out_w * p->out_ch;
#define ROWS(width, stride)                                                                                            \
    pack(p, width, w, pairs);                                                                                          \
    for (; count; count--, rows += down, out += across) {                                                              \
        slide(p, width, stride, rows, words, pairs, bias, s, out);                                                     \
    }                                                                                                                  \
    break;
    switch (p->stride < 3 && quick(s.shift) && (p->kernel_w != 3 || p->kernel_h == 3) ? p->kernel_w * 2 + p->stride : 0) {
    case 7: ROWS(3, 1)
    case 8: ROWS(3, 2)
    case 11: ROWS(5, 1)
    case 12: ROWS(5, 2)
    case 15: ROWS(7, 1)
    case 16: ROWS(7, 2)
    default:
        for (; count; count--, rows += down, out += across) {
            plainly(p, (const int16_t *)rows, 2 * words, w, bias, s, out);
        }
    }
}

/* At least four channels. Small maps take several rows at once, which share inputs and weights. */
void nas_depthwise(const nas_conv_t *p, const int8_t *in, int8_t *out, void *scratch)
{
    uint32_t chs = p->in_ch, once = 24u / p->out_w;
    once = once > p->out_h ? p->out_h : once > 1 ? once : 1;
    uint32_t words = (p->stride * ((p->out_w + 3u) & ~3u) + p->kernel_w) / 2;
    uint32_t size = words * ((once - 1) * p->stride + p->kernel_h);
    uint32_t inside = p->in_w < 2 * words - p->pad_left ? p->in_w : 2 * words - p->pad_left;
    int32_t *four = scratch;
    for (uint32_t i = 0; i < 4 * size; i++) { /* outside the input, except below it, nothing else is written */
        four[i] = (int32_t)(((uint32_t)p->in_zero & 0xFFFFu) * 0x10001u);
    }
    for (uint32_t row = 0; row < p->out_h; row += once) {
        once = once < p->out_h - row ? once : p->out_h - row;
        for (uint32_t next = 0; next < chs; next += 4) {
            uint32_t ch = next + 4 <= chs ? next : chs - 4;
            for (uint32_t k = 0; k < (once - 1) * p->stride + p->kernel_h; k++) {
                int32_t y = (int32_t)(row * p->stride + k) - p->pad_top;
                int16_t *to = (int16_t *)(four + k * words) + p->pad_left;
                if (y >= p->in_h) {
                    blank(to, inside, 2 * size, p->in_zero);
                } else if (y >= 0) {
                    spread(in + (uint32_t)y * p->in_w * chs + ch, chs, inside, to, 2 * size);
                }
            }
            for (uint32_t i = 0; i < 4; i++) {
                channel(p, ch + i, four + i * size, words, once, four + 4 * size, out + ch + i);
            }
        }
        clamp(out, once * p->out_w * chs, p->act_min, p->act_max);
        out += once * p->out_w * chs;
    }
}
#endif
