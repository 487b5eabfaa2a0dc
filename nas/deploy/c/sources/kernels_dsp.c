/* Convolutions, fully connected layers, add and mul by DSP instructions. */
#include "kernels_dsp.h"

#if NAS_DSP
int8_t nas_dsp_slowly(int32_t a, int32_t multiplier, int32_t shift, int32_t zero)
{
    return nas_clamped(nas_scaled(a, multiplier, shift) + zero, -128, 127);
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
            second[ch] = nas_dsp_slowly(b, conv->multiplier[ch], i, conv->out_zero);
            first[ch] = nas_dsp_slowly(a, conv->multiplier[ch], i, conv->out_zero);
            second[other] = nas_dsp_slowly(d, conv->multiplier[other], j, conv->out_zero);
            first[other] = nas_dsp_slowly(c, conv->multiplier[other], j, conv->out_zero);
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
        out[i] = nas_dsp_slowly(sum, s.multiplier, s.shift, p->out_zero);
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
                out[c] = nas_dsp_slowly((x[c] - zero) * (gate[c] - gate_zero), s.multiplier, s.shift, p->out_zero);
            }
        }
        clamp(out, ch, p->act_min, p->act_max);
    }
}
#endif
