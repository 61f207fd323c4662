/* The primitives of planes.h in plain C, which compilers turn into what the machine offers. Names end in _plain, so that
 * an instruction set takes those that it does not replace. */
#include <string.h>

#include "planes.h"

static inline uint64_t load_word(const uint8_t *bytes, size_t w)
{
    uint64_t word;
    memcpy(&word, bytes + 8 * w, 8);
    return word;
}

static inline bool plane_meets_plain(const uint8_t *plane, const uint64_t *valid, size_t words)
{
    uint64_t any = 0;
    for (size_t w = 0; w < words; w++)
        any |= load_word(plane, w) & valid[w];
    return any != 0;
}

static inline uint64_t plane_and_plain(const uint8_t *plane, const uint64_t *valid, size_t words, uint64_t *out,
                                       uint64_t *used)
{
    uint64_t count = 0;
    *used = 0;
    for (size_t w = 0; w < words; w++) {
        out[w] = load_word(plane, w) & valid[w];
        count += (uint64_t)__builtin_popcountll(out[w]);
        *used |= (uint64_t)(out[w] != 0) << w;
    }
    return count;
}

static inline size_t list_positions_plain(const uint64_t *bits, uint64_t used, uint16_t *list, unsigned times)
{
    size_t n = 0;
    for (; used; used &= used - 1) {
        unsigned w = (unsigned)__builtin_ctzll(used);
        for (uint64_t word = bits[w]; word; word &= word - 1) {
            uint16_t p = (uint16_t)(64 * w + (unsigned)__builtin_ctzll(word));
            for (unsigned t = 0; t < times; t++)
                list[n++] = p;
        }
    }
    return n;
}

static inline void list_moments_plain(const uint16_t *list, size_t n, const Rows *rows, LocalSums *sums)
{
    for (size_t i = 0; i < n; i++) {
        int64_t x = rows->x + list[i], y = 0;
        for (unsigned s = 0; s < rows->n_starts; s++)
            y += list[i] >= rows->starts[s];
        x -= y * rows->columns;
        sums->x += x;
        sums->y += y;
        sums->xx += x * x;
        sums->yy += y * y;
        sums->xy += x * y;
    }
}

/* Transposes 8 x 8 bits at a time: byte j of each of 8 planes becomes 8 values. */
static inline void planes_to_values_plain(const uint8_t *planes, size_t stride, const uint64_t *valid, size_t n,
                                          int top, uint16_t *values)
{
    const uint8_t *mask = (const uint8_t *)valid;
    for (size_t i = 0; i < n / 8; i++) {
        uint64_t rows = 0, high = 0;
        for (int k = 0; k <= top && k < 8; k++)
            rows |= (uint64_t)(planes[(size_t)k * stride + i] & mask[i]) << (8 * k);
        for (int k = 8; k <= top; k++)
            high |= (uint64_t)(planes[(size_t)k * stride + i] & mask[i]) << (8 * (k - 8));
        rows = transpose_8x8(rows);
        high = high ? transpose_8x8(high) : 0;
        for (unsigned j = 0; j < 8; j++)
            values[8 * i + j] = (uint16_t)((rows >> (8 * j) & 0xFF) | (high >> (8 * j) & 0xFF) << 8);
    }
}

/* Sums of v, v i and v i i over up to 64 values below 4096: each fits into 31 bits. */
static inline void short_moments_plain(const uint16_t *values, unsigned n, uint32_t *sums)
{
    uint32_t s = 0, s1 = 0, s2 = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t v = values[i];
        s += v;
        s1 += v * i;
        s2 += v * (i * i);
    }
    sums[0] = s;
    sums[1] = s1;
    sums[2] = s2;
}

/* Values from..to of one row: `y` rows below the tile's first, the first of them at column x from the middle. */
static inline void row_moments_plain(const uint16_t *values, size_t n, int64_t y, int64_t x, LocalSums *sums)
{
    int64_t row = 0, row_x = 0, row_xx = 0;
    for (size_t done = 0; done < n; done += 64, x += 64) {
        uint32_t part[3];
        short_moments_plain(values + done, n - done < 64 ? (unsigned)(n - done) : 64, part);
        int64_t s = part[0], s1 = part[1], s2 = part[2];
        row += s;
        row_x += s * x + s1;
        row_xx += s * x * x + 2 * x * s1 + s2;
    }
    sums->n += row;
    sums->x += row_x;
    sums->xx += row_xx;
    sums->y += row * y;
    sums->yy += row * y * y;
    sums->xy += row_x * y;
}

static inline void value_moments_plain(const uint16_t *values, size_t n, const Rows *rows, LocalSums *sums)
{
    size_t from = 0;
    for (unsigned s = 0; s <= rows->n_starts; s++) {
        size_t to = s < rows->n_starts ? rows->starts[s] : n;
        int64_t x = rows->x + (int64_t)from - (int64_t)s * rows->columns;
        row_moments_plain(values + from, to - from, s, x, sums);
        from = to;
    }
}

static inline uint64_t plane_common_plain(const uint64_t *bits, const uint8_t *mask, size_t words)
{
    uint64_t count = 0;
    for (size_t w = 0; w < words; w++)
        count += (uint64_t)__builtin_popcountll(bits[w] & load_word(mask, w));
    return count;
}

static inline void add_lanes_plain(const uint16_t *cells, uint16_t (*values)[TILE + 64], size_t n, uint32_t *counts)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t *count = counts + (size_t)cells[i] * LANES;
        for (unsigned l = 0; l < LANES; l++)
            count[l] += values[l][i];
    }
}

static inline int64_t keep_valid_plain(const uint32_t *values, const uint64_t *valid, size_t n, uint16_t *out)
{
    uint32_t largest = 0;
    uint64_t any = 0;
    for (size_t w = 0; w < (n + 63) / 64; w++) {
        size_t end = n - 64 * w < 64 ? n - 64 * w : 64;
        any |= valid[w];
        for (size_t i = 0; i < end; i++) {
            uint32_t value = values[64 * w + i] & -(uint32_t)(valid[w] >> i & 1);
            out[64 * w + i] = (uint16_t)value;
            largest = value > largest ? value : largest;
        }
    }
    return any ? (int64_t)largest : -1;
}

static inline uint64_t value_common_plain(const uint16_t *values, const uint8_t *mask, size_t n)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += values[i] & -(uint32_t)(mask[i / 8] >> (i % 8) & 1);
    return sum;
}
