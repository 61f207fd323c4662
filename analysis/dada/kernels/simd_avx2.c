/* The kernel for AVX2 (Haswell, Zen and later). Positions come from TZCNT and BLSR; the rest is vectors of 256 bits. */
#include <immintrin.h>

#include "plain.h"

#define VECTOR_WORDS 4

static __m256i load(const void *from)
{
    return _mm256_loadu_si256((const __m256i *)from);
}

static void store(void *to, __m256i v)
{
    _mm256_storeu_si256((__m256i *)to, v);
}

static bool plane_meets(const uint8_t *plane, const uint64_t *valid, size_t words)
{
    __m256i any = _mm256_setzero_si256();
    for (size_t w = 0; w < words; w += VECTOR_WORDS)
        any = _mm256_or_si256(any, _mm256_and_si256(load(plane + 8 * w), load(valid + w)));
    return !_mm256_testz_si256(any, any);
}

static uint64_t plane_and(const uint8_t *plane, const uint64_t *valid, size_t words, uint64_t *out, uint64_t *used)
{
    return plane_and_plain(plane, valid, words, out, used);
}

static size_t list_positions(const uint64_t *bits, uint64_t used, uint16_t *list, unsigned times)
{
    return list_positions_plain(bits, used, list, times);
}

static uint64_t sum_epu32(__m256i v)
{
    uint32_t lanes[8];
    uint64_t sum = 0;
    store(lanes, v);
    for (unsigned i = 0; i < 8; i++)
        sum += lanes[i];
    return sum;
}

static int64_t sum_epi32(__m256i v)
{
    int32_t lanes[8];
    int64_t sum = 0;
    store(lanes, v);
    for (unsigned i = 0; i < 8; i++)
        sum += lanes[i];
    return sum;
}

static __m256i count_up(void)
{
    return _mm256_set_epi16(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
}

/* 16-bit columns and rows, pairwise products in 32 bits. With at most MAX_COLUMNS columns |x| < 4096, a list has at most
 * MAX_LIST / 16 = 96 steps, and 96 * 2 * 4096^2 fits into 32 bits. */
static void list_moments(const uint16_t *list, size_t n, const Rows *rows, LocalSums *sums)
{
    const __m256i one = _mm256_set1_epi16(1), columns = _mm256_set1_epi16((short)rows->columns);
    const __m256i x0 = _mm256_set1_epi16((short)rows->x), zero = _mm256_setzero_si256();
    __m256i sx = zero, sy = zero, sxx = zero, syy = zero, sxy = zero;
    for (size_t i = 0; i < n; i += 16) {
        size_t left = n - i < 16 ? n - i : 16;
        __m256i keep = _mm256_cmpgt_epi16(_mm256_set1_epi16((short)left), count_up());
        __m256i p = load(list + i), x = _mm256_add_epi16(p, x0), y = zero;
        for (unsigned s = 0; s < rows->n_starts; s++) {
            __m256i beyond = _mm256_cmpgt_epi16(p, _mm256_set1_epi16((short)(rows->starts[s] - 1)));
            x = _mm256_sub_epi16(x, _mm256_and_si256(beyond, columns));
            y = _mm256_sub_epi16(y, beyond);
        }
        x = _mm256_and_si256(x, keep);
        y = _mm256_and_si256(y, keep);
        sx = _mm256_add_epi32(sx, _mm256_madd_epi16(x, one));
        sxx = _mm256_add_epi32(sxx, _mm256_madd_epi16(x, x));
        sy = _mm256_add_epi32(sy, _mm256_madd_epi16(y, one));
        syy = _mm256_add_epi32(syy, _mm256_madd_epi16(y, y));
        sxy = _mm256_add_epi32(sxy, _mm256_madd_epi16(x, y));
    }
    sums->x += sum_epi32(sx);
    sums->y += sum_epi32(sy);
    sums->xx += (int64_t)sum_epu32(sxx);
    sums->yy += sum_epi32(syy);
    sums->xy += sum_epi32(sxy);
}

/* One step of the transpose in transpose_8x8, on four groups of 8 x 8 bits. */
static __m256i swap_bits(__m256i v, int shift, uint64_t mask)
{
    __m256i t = _mm256_and_si256(_mm256_xor_si256(v, _mm256_srli_epi64(v, shift)), _mm256_set1_epi64x((long long)mask));
    return _mm256_xor_si256(v, _mm256_xor_si256(t, _mm256_slli_epi64(t, shift)));
}

/* 32 bytes of each of 8 planes to 256 bytes, one a pixel: the planes' bytes are interleaved, then each group of 8 x 8 bits
 * is transposed. */
static void transpose_256(const __m256i *p, uint8_t *bytes)
{
    __m256i a[8], b[8];
    for (unsigned i = 0; i < 4; i++) {
        a[2 * i] = _mm256_unpacklo_epi8(p[2 * i], p[2 * i + 1]);
        a[2 * i + 1] = _mm256_unpackhi_epi8(p[2 * i], p[2 * i + 1]);
    }
    for (unsigned i = 0; i < 2; i++) {
        b[4 * i] = _mm256_unpacklo_epi16(a[4 * i], a[4 * i + 2]);
        b[4 * i + 1] = _mm256_unpackhi_epi16(a[4 * i], a[4 * i + 2]);
        b[4 * i + 2] = _mm256_unpacklo_epi16(a[4 * i + 1], a[4 * i + 3]);
        b[4 * i + 3] = _mm256_unpackhi_epi16(a[4 * i + 1], a[4 * i + 3]);
    }
    for (unsigned i = 0; i < 8; i++) {
        __m256i group = i % 2 ? _mm256_unpackhi_epi32(b[i / 2], b[i / 2 + 4]) : _mm256_unpacklo_epi32(b[i / 2], b[i / 2 + 4]);
        group = swap_bits(group, 7, 0x00AA00AA00AA00AAULL);
        group = swap_bits(group, 14, 0x0000CCCC0000CCCCULL);
        group = swap_bits(group, 28, 0x00000000F0F0F0F0ULL);
        _mm_storeu_si128((__m128i *)(bytes + 16 * i), _mm256_castsi256_si128(group));
        _mm_storeu_si128((__m128i *)(bytes + 16 * i + 128), _mm256_extracti128_si256(group, 1));
    }
}

/* Bytes `half` of the values of 256 pixels from word w on. */
static void value_bytes(const uint8_t *planes, size_t stride, const uint64_t *valid, size_t w, int half, int top,
                        uint8_t *bytes)
{
    __m256i p[8], mask = load(valid + w);
    for (int k = 0; k < 8; k++)
        p[k] = 8 * half + k > top ? _mm256_setzero_si256()
                                  : _mm256_and_si256(mask, load(planes + (size_t)(8 * half + k) * stride + 8 * w));
    transpose_256(p, bytes);
}

static void planes_to_values(const uint8_t *planes, size_t stride, const uint64_t *valid, size_t n, int top,
                             uint16_t *values)
{
    for (size_t done = 0; done < n; done += 256) {
        uint8_t low[256], high[256];
        size_t end = n - done < 256 ? n - done : 256;
        value_bytes(planes, stride, valid, done / 64, 0, top, low);
        if (top >= 8)
            value_bytes(planes, stride, valid, done / 64, 1, top, high);
        for (size_t i = 0; i < end; i += 16) {
            __m256i v = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(low + i)));
            if (top >= 8) {
                __m256i h = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(high + i)));
                v = _mm256_or_si256(v, _mm256_slli_epi16(h, 8));
            }
            store(values + done + i, v);
        }
    }
}

/* Steps of 16 values of one row, as in simd_avx512.c: with at most 256 steps of values below 4096 every 32-bit sum stays
 * below 2^32. */
typedef struct {
    __m256i sum, late, later, first, first_late, second;
} Steps;

static void step_values(__m256i v, Steps *steps)
{
    __m256i i = count_up();
    steps->sum = _mm256_add_epi32(steps->sum, _mm256_madd_epi16(v, _mm256_set1_epi16(1)));
    steps->late = _mm256_add_epi32(steps->late, steps->sum);
    steps->later = _mm256_add_epi32(steps->later, steps->late);
    steps->first = _mm256_add_epi32(steps->first, _mm256_madd_epi16(v, i));
    steps->first_late = _mm256_add_epi32(steps->first_late, steps->first);
    steps->second = _mm256_add_epi32(steps->second, _mm256_madd_epi16(v, _mm256_mullo_epi16(i, i)));
}

static void row_moments(const uint16_t *values, size_t n, int64_t y, int64_t x, LocalSums *sums)
{
    Steps steps = {0};
    int64_t g = 0;
    for (size_t i = 0; i < n; i += 16, g++) {
        __m256i v = load(values + i);
        if (n - i < 16)
            v = _mm256_and_si256(v, _mm256_cmpgt_epi16(_mm256_set1_epi16((short)(n - i)), count_up()));
        step_values(v, &steps);
    }
    int64_t s = (int64_t)sum_epu32(steps.sum), late = (int64_t)sum_epu32(steps.late);
    int64_t later = (int64_t)sum_epu32(steps.later), first = (int64_t)sum_epu32(steps.first);
    /* sum of g s_g and of g g s_g, from sums weighted with (G - g) and (G - g)(G - g + 1) / 2 */
    int64_t sg = g * s - late;
    int64_t sgg = 2 * later - late - g * g * s + 2 * g * sg;
    int64_t s1 = 16 * sg + first;
    int64_t s2 = 256 * sgg + 32 * (g * first - (int64_t)sum_epu32(steps.first_late)) + (int64_t)sum_epu32(steps.second);
    int64_t row_x = s * x + s1;
    sums->n += s;
    sums->x += row_x;
    sums->xx += s * x * x + 2 * x * s1 + s2;
    sums->y += s * y;
    sums->yy += s * y * y;
    sums->xy += row_x * y;
}

static void value_moments(const uint16_t *values, size_t n, const Rows *rows, LocalSums *sums)
{
    size_t from = 0;
    for (unsigned s = 0; s <= rows->n_starts; s++) {
        size_t to = s < rows->n_starts ? rows->starts[s] : n;
        row_moments(values + from, to - from, s, rows->x + (int64_t)from - (int64_t)s * rows->columns, sums);
        from = to;
    }
}

static uint64_t plane_common(const uint64_t *bits, const uint8_t *mask, size_t words)
{
    return plane_common_plain(bits, mask, words);
}

static int64_t keep_valid(const uint32_t *values, const uint64_t *valid, size_t n, uint16_t *out)
{
    return keep_valid_plain(values, valid, n, out);
}

static uint64_t value_common(const uint16_t *values, const uint8_t *mask, size_t n)
{
    return value_common_plain(values, mask, n);
}

/* 8 pixels of 8 frames, turned around: turned[j] holds the 8 frames' values of pixel j. */
static void turn_around(uint16_t (*values)[TILE + 64], size_t i, __m128i *turned)
{
    __m128i a[8], b[8];
    for (unsigned l = 0; l < 4; l++) {
        __m128i even = _mm_loadu_si128((const __m128i *)(values[2 * l] + i));
        __m128i odd = _mm_loadu_si128((const __m128i *)(values[2 * l + 1] + i));
        b[2 * l] = _mm_unpacklo_epi16(even, odd);
        b[2 * l + 1] = _mm_unpackhi_epi16(even, odd);
    }
    for (unsigned l = 0; l < 2; l++) {
        a[4 * l] = _mm_unpacklo_epi32(b[4 * l], b[4 * l + 2]);
        a[4 * l + 1] = _mm_unpackhi_epi32(b[4 * l], b[4 * l + 2]);
        a[4 * l + 2] = _mm_unpacklo_epi32(b[4 * l + 1], b[4 * l + 3]);
        a[4 * l + 3] = _mm_unpackhi_epi32(b[4 * l + 1], b[4 * l + 3]);
    }
    for (unsigned j = 0; j < 4; j++) {
        turned[2 * j] = _mm_unpacklo_epi64(a[j], a[j + 4]);
        turned[2 * j + 1] = _mm_unpackhi_epi64(a[j], a[j + 4]);
    }
}

static void add_lanes(const uint16_t *cells, uint16_t (*values)[TILE + 64], size_t n, uint32_t *counts)
{
    for (size_t i = 0; i + 8 <= n; i += 8) {
        __m128i turned[8];
        turn_around(values, i, turned);
        for (unsigned j = 0; j < 8; j++) {
            uint32_t *count = counts + (size_t)cells[i + j] * LANES;
            store(count, _mm256_add_epi32(load(count), _mm256_cvtepu16_epi32(turned[j])));
        }
    }
    for (size_t i = n / 8 * 8; i < n; i++)
        for (unsigned l = 0; l < LANES; l++)
            counts[(size_t)cells[i] * LANES + l] += values[l][i];
}

const Kernel kernel_avx2 = {"avx2", add_planes, add_values, NULL, add_pending, add_pixels};
