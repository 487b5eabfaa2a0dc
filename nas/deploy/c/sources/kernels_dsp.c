/* Kernels for cores with DSP instructions (Cortex-M4, M7, M33): the same results as kernels.c, to the bit.
 *
 * SMLAD adds two products of 16 bits at once, so inputs are widened to 16 bits in scratch, once for all output channels.
 * SXTB16 widens bytes 0 and 2 of a word, and, rotated, bytes 1 and 3: "even" and "odd" below. All operands are in that
 * order, so nothing is ever shuffled.
 */
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
__attribute__((noinline)) static int8_t slowly(int32_t a, int32_t multiplier, int32_t shift, int32_t zero)
{
    return nas_clamped(nas_scaled(a, multiplier, shift) + zero, -128, 127);
}

static inline int8_t scaled(int32_t a, scale_t s, int32_t zero)
{
    return quick(s.shift) ? (int8_t)rounded(a, s) : slowly(a, s.multiplier, s.shift, zero);
}

/* An activation that ends within a byte's range is rare: it costs a pass of its own. */
static void clamp(int8_t *out, uint32_t count, int32_t least, int32_t most)
{
    if (least == -128 && most == 127) {
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        out[i] = nas_clamped(out[i], least, most);
    }
}

/* ---- convolutions: two pixels, two channels ---- */

/* The last bytes of a row of weights, the rest 0. */
static inline uint32_t end_of(const int8_t *at, uint32_t count)
{
    uint32_t w = 0;
    for (uint32_t i = 0; i < count; i++) {
        w |= (uint32_t)(uint8_t)at[i] << (8 * i);
    }
    return w;
}

/* count bytes to even, odd, (two words of somebody else's), even, odd, ...; the last four filled up with 0. */
static void widen(const int8_t *in, uint32_t count, uint32_t step, int32_t *x)
{
    #pragma GCC unroll 4
    for (; count >= 4; count -= 4, in += 4, x += step) {
        uint32_t w = word(in);
        x[0] = even(w);
        x[1] = odd(w);
    }
    if (count) {
        uint32_t w = end_of(in, count);
        x[0] = even(w);
        x[1] = odd(w);
    }
}

/* Four inputs of two pixels times the weights of two channels: 16 products. */
#define STEP                                                                                                           \
    {                                                                                                                  \
        int32_t v, e, p, q, r, s;                                                                                      \
        __asm__("ldr %[v], [%[w]], #4\n\t"                                                                             \
                "ldrd %[p], %[q], [%[x]], #8\n\t"                                                                      \
                "ldrd %[r], %[s], [%[x]], #8\n\t"                                                                      \
                "sxtb16 %[e], %[v]\n\t"                                                                                \
                "sxtb16 %[v], %[v], ror #8\n\t"                                                                        \
                "smlad %[a], %[e], %[p], %[a]\n\t"                                                                     \
                "smlad %[b], %[e], %[r], %[b]\n\t"                                                                     \
                "smlad %[a], %[v], %[q], %[a]\n\t"                                                                     \
                "smlad %[b], %[v], %[s], %[b]\n\t"                                                                     \
                "ldr %[v], [%[u]], #4\n\t"                                                                             \
                "sxtb16 %[e], %[v]\n\t"                                                                                \
                "sxtb16 %[v], %[v], ror #8\n\t"                                                                        \
                "smlad %[c], %[e], %[p], %[c]\n\t"                                                                     \
                "smlad %[d], %[e], %[r], %[d]\n\t"                                                                     \
                "smlad %[c], %[v], %[q], %[c]\n\t"                                                                     \
                "smlad %[d], %[v], %[s], %[d]"                                                                         \
                : [v] "=&r"(v), [e] "=&r"(e), [p] "=&r"(p), [q] "=&r"(q), [r] "=&r"(r), [s] "=&r"(s), [x] "+&r"(x),    \
                  [w] "+&r"(w), [u] "+&r"(u), [a] "+&r"(a), [b] "+&r"(b), [c] "+&r"(c), [d] "+&r"(d)                   \
                :                                                                                                      \
                : "memory");                                                                                           \
    }

/* Channels ch to end of the two pixels whose count inputs lie in x, widened, four of one and four of the other in turns.
 * Of a single channel or pixel both of a pair are the same one, written twice, at last from the first's inputs.
 * Rows of weights that are no multiple of four are read on into the next, times 0; the last ones end where they end. */
static void two_pixels(const nas_conv_t *conv, uint32_t ch, uint32_t end, const int32_t *inputs, uint32_t count,
                       int8_t *first, int8_t *second)
{
    const int8_t *w, *u = conv->weights + ch * count;
    int32_t middle = 2 * conv->out_zero + 1;
    uint32_t rest = (0u - count) & 3u;
    for (uint32_t other; ch < end; ch += 2) {
        other = ch + 1u < end ? ch + 1u : ch;
        w = u;
        u += other == ch ? 0u : count;
        uint32_t length = count + rest - (other + 1u == conv->out_ch && rest ? 4u : 0u);
        const int8_t *last = w + (length & ~15u);
        const int32_t *x = inputs;
        int32_t a = conv->bias[ch], b = a, c = conv->bias[other], d = c;
        while (w < last) {
            STEP STEP STEP STEP
        }
        for (last = w + (length & 12u); w < last;) {
            STEP
        }
        if (length < count) {
            uint32_t v = end_of(w, 4u - rest), z = end_of(u, 4u - rest);
            a = __smlad(odd(v), x[1], __smlad(even(v), x[0], a));
            b = __smlad(odd(v), x[3], __smlad(even(v), x[2], b));
            c = __smlad(odd(z), x[1], __smlad(even(z), x[0], c));
            d = __smlad(odd(z), x[3], __smlad(even(z), x[2], d));
        }
        u -= rest;
        int32_t i = conv->shift[ch], j = conv->shift[other];
        if (__builtin_expect(quick(i) && quick(j), 1)) {
            scale_t s = {conv->multiplier[ch], i, middle * (1 << (i - 1))};
            second[ch] = (int8_t)rounded(b, s);
            first[ch] = (int8_t)rounded(a, s);
            scale_t t = {conv->multiplier[other], j, middle * (1 << (j - 1))};
            second[other] = (int8_t)rounded(d, t);
            first[other] = (int8_t)rounded(c, t);
        } else {
            second[ch] = slowly(b, conv->multiplier[ch], i, conv->out_zero);
            first[ch] = slowly(a, conv->multiplier[ch], i, conv->out_zero);
            second[other] = slowly(d, conv->multiplier[other], j, conv->out_zero);
            first[other] = slowly(c, conv->multiplier[other], j, conv->out_zero);
        }
    }
}

void nas_conv1x1(const nas_conv_t *p, const int8_t *in, int8_t *out, void *scratch)
{
    int32_t *x = scratch;
    uint32_t pixels = (uint32_t)p->out_h * p->out_w, jump = (uint32_t)p->stride * p->in_ch;
    for (uint32_t i = 0; i < pixels; i++) {
        uint32_t row = i / p->out_w, second = i & 1u;
        widen(in + (row * p->in_w + i - row * p->out_w) * jump, p->in_ch, 4, x + 2 * second);
        if (second || i + 1 == pixels) {
            int8_t *first = out + (i - second) * p->out_ch;
            two_pixels(p, 0, p->out_ch, x, p->in_ch, first, first + second * p->out_ch);
            clamp(first, (1 + second) * p->out_ch, p->act_min, p->act_max);
        }
    }
}

static inline int8_t *copy(int8_t *to, const int8_t *from, uint32_t count)
{
    for (; count >= 4; count -= 4, from += 4, to += 4) {
        memcpy(to, from, 4);
    }
    for (; count; count--) {
        *to++ = *from++;
    }
    return to;
}

/* What the output at (row, col) sees of the depth channels from in on, in the order of the weights. */
static void gather(const nas_conv_t *p, const int8_t *in, uint32_t depth, int32_t row, int32_t col, int8_t *to)
{
    int32_t top = row * p->stride - p->pad_top, left = col * p->stride - p->pad_left;
    int32_t inside = left >= 0 && left + p->kernel_w <= p->in_w && depth == p->in_ch;
    for (int32_t y = top; y < top + p->kernel_h; y++) {
        const int8_t *line = in + (y * p->in_w + left) * p->in_ch;
        if (inside && y >= 0 && y < p->in_h) {
            to = copy(to, line, p->kernel_w * depth);
            continue;
        }
        for (int32_t x = left; x < left + p->kernel_w; x++, line += p->in_ch) {
            if (y < 0 || y >= p->in_h || x < 0 || x >= p->in_w) {
                memset(to, p->in_zero, depth);
                to += depth;
            } else {
                to = copy(to, line, depth);
            }
        }
    }
}

void nas_conv(const nas_conv_t *p, const int8_t *in, int8_t *out, void *scratch)
{
    uint32_t depth = p->in_ch / p->groups, per = p->out_ch / p->groups, count = p->kernel_h * p->kernel_w * depth;
    int32_t *x = scratch;
    int8_t *seen = (int8_t *)(x + ((count + 3u) & ~3u));
    for (int32_t row = 0; row < p->out_h; row++) {
        for (int32_t col = 0; col < p->out_w; col += 2) {
            uint32_t second = col + 1 < p->out_w;
            for (uint32_t group = 0; group < p->groups; group++) {
                for (uint32_t i = 0; i <= second; i++) {
                    gather(p, in + group * depth, depth, row, col + (int32_t)i, seen);
                    widen(seen, count, 4, x + 2 * i);
                }
                two_pixels(p, group * per, (group + 1) * per, x, count, out, out + second * p->out_ch);
            }
            clamp(out, (1 + second) * p->out_ch, p->act_min, p->act_max);
            out += (1 + second) * p->out_ch;
        }
    }
}

#define TWO_CHANNELS(first, second, x)                                                                                 \
    {                                                                                                                  \
        uint32_t v = first, z = second;                                                                                \
        a = __smlad(odd(v), (x)[1], __smlad(even(v), (x)[0], a));                                                      \
        b = __smlad(odd(z), (x)[1], __smlad(even(z), (x)[0], b));                                                      \
    }

void nas_fully_connected(const nas_conv_t *p, const int8_t *in, int8_t *out, void *scratch)
{
    uint32_t count = p->in_ch, tail = count & 3u;
    widen(in, count, 2, scratch);
    for (uint32_t ch = 0; ch < p->out_ch; ch += 2) {
        uint32_t other = ch + 1u < p->out_ch ? ch + 1u : ch;
        const int8_t *w = p->weights + ch * count, *u = p->weights + other * count;
        const int32_t *x = scratch;
        int32_t a = p->bias[ch], b = p->bias[other];
        for (const int8_t *end = w + (count & ~15u); w < end; w += 16, u += 16, x += 8) {
            #pragma GCC unroll 4
            for (uint32_t i = 0; i < 4; i++) {
                TWO_CHANNELS(word(w + 4 * i), word(u + 4 * i), x + 2 * i)
            }
        }
        for (const int8_t *end = w + (count & 12u); w < end; w += 4, u += 4, x += 2) {
            TWO_CHANNELS(word(w), word(u), x)
        }
        if (tail) {
            TWO_CHANNELS(end_of(w, tail), end_of(u, tail), x)
        }
        out[ch] = scaled(a, scale_of(p->multiplier[ch], p->shift[ch], p->out_zero), p->out_zero);
        out[other] = scaled(b, scale_of(p->multiplier[other], p->shift[other], p->out_zero), p->out_zero);
    }
    clamp(out, p->out_ch, p->act_min, p->act_max);
}

/* ---- depthwise: four channels of the rows that one row of output sees, one channel at a time ---- */

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

/* ---- element by element ---- */

/* One input of an addition; half rounds the shift to the right. */
typedef struct {
    int32_t multiplier, shift, zero, half;
} addend_t;

/* The input of the larger scale is halved, by 2^30 / 2^31; that is 2^31 - 1 and a shift by 1 as well: what is added is a
 * multiple of 2^20 and below 2^28, so that the missing 1 is rounded away. */
static addend_t addend_of(const nas_add_t *p, int i)
{
    int32_t halved = p->multiplier[i] == 1 << 30 && p->shift[i] == 0, shift = halved ? 1 : p->shift[i];
    int32_t multiplier = halved ? INT32_MAX : p->multiplier[i];
    addend_t r = {multiplier, shift, p->zero[i] * (2 << NAS_ADD_BITS), shift > 0 ? 1 << (shift - 1) : 0};
    return r;
}

/* nas_scaled of what is added, shifted to the right. */
static inline int32_t part(int32_t byte, addend_t s)
{
    int32_t twice = byte * (2 << NAS_ADD_BITS) - s.zero, y = s.half + (twice >> 31);
    __asm__("smmlar %0, %1, %2, %0" : "+r"(y) : "r"(twice), "r"(s.multiplier));
    return y >> s.shift;
}

/* A few at a time: the three scales do not fit into the registers at once. */
__attribute__((always_inline)) static inline void add(const int8_t *x, const int8_t *y, int8_t *out, uint32_t count,
                                                      addend_t a, addend_t b, scale_t s)
{
    int32_t sum[4];
    #pragma GCC unroll 4
    for (uint32_t i = 0; i < count; i++) {
        sum[i] = part(x[i], a);
    }
    #pragma GCC unroll 4
    for (uint32_t i = 0; i < count; i++) {
        sum[i] += part(y[i], b);
    }
    #pragma GCC unroll 4
    for (uint32_t i = 0; i < count; i++) {
        out[i] = (int8_t)rounded(sum[i], s);
    }
}

void nas_add(const nas_add_t *p, const int8_t *x, const int8_t *y, int8_t *out)
{
    addend_t a = addend_of(p, 0), b = addend_of(p, 1);
    scale_t s = scale_of(p->out_multiplier, p->out_shift, p->out_zero);
    uint32_t i = 0;
    if (quick(s.shift) && a.shift > 0 && b.shift > 0) {
        for (; i + 4 <= p->count; i += 4) {
            add(x + i, y + i, out + i, 4, a, b, s);
        }
        for (; i < p->count; i++) {
            add(x + i, y + i, out + i, 1, a, b, s);
        }
    }
    for (; i < p->count; i++) {
        int32_t sum = nas_scaled((x[i] - p->zero[0]) * (1 << NAS_ADD_BITS), p->multiplier[0], p->shift[0]);
        sum += nas_scaled((y[i] - p->zero[1]) * (1 << NAS_ADD_BITS), p->multiplier[1], p->shift[1]);
        out[i] = slowly(sum, s.multiplier, s.shift, p->out_zero);
    }
    clamp(out, p->count, p->act_min, p->act_max);
}

void nas_mul(const nas_mul_t *p, const int8_t *x, const int8_t *gate, int8_t *out)
{
    scale_t s = scale_of(p->multiplier, p->shift, p->out_zero);
    int32_t zero = p->zero, gate_zero = p->gate_zero;
    uint32_t ch = p->ch, step = p->gate_pixels > 1 ? ch : 0;
    for (uint32_t i = 0; i < p->pixels; i++, x += ch, out += ch, gate += step) {
        if (quick(s.shift)) {
            for (uint32_t c = 0; c < ch; c++) {
                out[c] = (int8_t)rounded((x[c] - zero) * (gate[c] - gate_zero), s);
            }
        } else {
            for (uint32_t c = 0; c < ch; c++) {
                out[c] = slowly((x[c] - zero) * (gate[c] - gate_zero), s.multiplier, s.shift, p->out_zero);
            }
        }
        clamp(out, ch, p->act_min, p->act_max);
    }
}
#endif
