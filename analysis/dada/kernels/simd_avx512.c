/* The kernel for AVX-512 (Ice Lake, Zen 4 and later): population counts, compression of positions, bit transposes. */
#include <immintrin.h>

#include "lz4_decode.h"
#include "plain.h"

#define VECTOR_WORDS 8

static bool plane_meets(const uint8_t *plane, const uint64_t *valid, size_t words)
{
    __m512i any = _mm512_setzero_si512();
    for (size_t w = 0; w < words; w += VECTOR_WORDS) {
        __m512i bits = _mm512_loadu_si512(plane + 8 * w);
        any = _mm512_or_si512(any, _mm512_and_si512(bits, _mm512_loadu_si512(valid + w)));
    }
    return _mm512_test_epi64_mask(any, any) != 0;
}

static uint64_t plane_and(const uint8_t *plane, const uint64_t *valid, size_t words, uint64_t *out, uint64_t *used)
{
    __m512i count = _mm512_setzero_si512();
    uint64_t in_use = 0;
    for (size_t w = 0; w < words; w += VECTOR_WORDS) {
        __m512i bits = _mm512_and_si512(_mm512_loadu_si512(plane + 8 * w), _mm512_loadu_si512(valid + w));
        _mm512_storeu_si512(out + w, bits);
        count = _mm512_add_epi64(count, _mm512_popcnt_epi64(bits));
        in_use |= (uint64_t)_mm512_test_epi64_mask(bits, bits) << w;
    }
    *used = in_use;
    return (uint64_t)_mm512_reduce_add_epi64(count);
}

/* Positions are compressed as bytes within their word, then widened; 64 of them are written, n of them kept. */
static size_t list_positions(const uint64_t *bits, uint64_t used, uint16_t *list, unsigned times)
{
    const __m512i bytes = _mm512_set_epi8(63, 62, 61, 60, 59, 58, 57, 56, 55, 54, 53, 52, 51, 50, 49, 48, 47, 46, 45, 44,
                                          43, 42, 41, 40, 39, 38, 37, 36, 35, 34, 33, 32, 31, 30, 29, 28, 27, 26, 25, 24,
                                          23, 22, 21, 20, 19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2,
                                          1, 0);
    uint16_t *end = list;
    for (; used; used &= used - 1) {
        unsigned w = (unsigned)_tzcnt_u64(used);
        unsigned n = (unsigned)_mm_popcnt_u64(bits[w]);
        __m512i packed = _mm512_maskz_compress_epi8((__mmask64)bits[w], bytes);
        __m512i base = _mm512_set1_epi16((short)(64 * w));
        __m512i low = _mm512_add_epi16(base, _mm512_cvtepu8_epi16(_mm512_castsi512_si256(packed)));
        __m512i high = _mm512_add_epi16(base, _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64(packed, 1)));
        for (unsigned t = 0; t < times; t++) {
            _mm512_storeu_si512(end, low);
            if (n > 32)
                _mm512_storeu_si512(end + 32, high);
            end += n;
        }
    }
    return (size_t)(end - list);
}

static int64_t sum_epi32(__m512i v)
{
    __m512i low = _mm512_cvtepi32_epi64(_mm512_castsi512_si256(v));
    __m512i high = _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(v, 1));
    return _mm512_reduce_add_epi64(_mm512_add_epi64(low, high));
}

static int64_t sum_epu32(__m512i v)
{
    __m512i low = _mm512_cvtepu32_epi64(_mm512_castsi512_si256(v));
    __m512i high = _mm512_cvtepu32_epi64(_mm512_extracti64x4_epi64(v, 1));
    return _mm512_reduce_add_epi64(_mm512_add_epi64(low, high));
}

/* 16-bit columns and rows, pairwise products in 32 bits. With at most MAX_COLUMNS columns |x| < 4096, a list has at most
 * MAX_LIST / 32 = 48 steps, and 48 * 2 * 4096^2 fits into 31 bits. */
static void list_moments(const uint16_t *list, size_t n, const Rows *rows, LocalSums *sums)
{
    const __m512i one = _mm512_set1_epi16(1), columns = _mm512_set1_epi16((short)rows->columns);
    const __m512i x0 = _mm512_set1_epi16((short)rows->x), zero = _mm512_setzero_si512();
    __m512i sx = zero, sy = zero, sxx = zero, syy = zero, sxy = zero;
    for (size_t i = 0; i < n; i += 32) {
        __mmask32 keep = n - i < 32 ? (1U << (n - i)) - 1 : 0xFFFFFFFFU;
        __m512i p = _mm512_loadu_si512(list + i), y = zero;
        __m512i x = _mm512_maskz_add_epi16(keep, p, x0);
        for (unsigned s = 0; s < rows->n_starts; s++) {
            __mmask32 beyond = _mm512_mask_cmpge_epu16_mask(keep, p, _mm512_set1_epi16((short)rows->starts[s]));
            x = _mm512_mask_sub_epi16(x, beyond, x, columns);
            y = _mm512_mask_add_epi16(y, beyond, y, one);
        }
        sx = _mm512_add_epi32(sx, _mm512_madd_epi16(x, one));
        sxx = _mm512_add_epi32(sxx, _mm512_madd_epi16(x, x));
        sy = _mm512_add_epi32(sy, _mm512_madd_epi16(y, one));
        syy = _mm512_add_epi32(syy, _mm512_madd_epi16(y, y));
        sxy = _mm512_add_epi32(sxy, _mm512_madd_epi16(x, y));
    }
    sums->x += sum_epi32(sx);
    sums->y += sum_epi32(sy);
    sums->xx += sum_epu32(sxx);
    sums->yy += sum_epi32(syy);
    sums->xy += sum_epi32(sxy);
}

/* 64 bytes of each of 8 planes, highest first, to 512 bytes, one a pixel: bytes of the planes are interleaved, then each
 * group of 8 x 8 bits is transposed (by multiplying the identity with it, which turns the order of rows around). */
static void transpose_512(const __m512i *p, uint8_t *bytes)
{
    __m512i a[8], b[8];
    for (unsigned i = 0; i < 4; i++) {
        a[2 * i] = _mm512_unpacklo_epi8(p[2 * i], p[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_epi8(p[2 * i], p[2 * i + 1]);
    }
    for (unsigned i = 0; i < 2; i++) {
        b[4 * i] = _mm512_unpacklo_epi16(a[4 * i], a[4 * i + 2]);
        b[4 * i + 1] = _mm512_unpackhi_epi16(a[4 * i], a[4 * i + 2]);
        b[4 * i + 2] = _mm512_unpacklo_epi16(a[4 * i + 1], a[4 * i + 3]);
        b[4 * i + 3] = _mm512_unpackhi_epi16(a[4 * i + 1], a[4 * i + 3]);
    }
    const __m512i identity = _mm512_set1_epi64((long long)0x8040201008040201ULL);
    for (unsigned i = 0; i < 8; i++) {
        __m512i group = i % 2 ? _mm512_unpackhi_epi32(b[i / 2], b[i / 2 + 4]) : _mm512_unpacklo_epi32(b[i / 2], b[i / 2 + 4]);
        group = _mm512_gf2p8affine_epi64_epi8(identity, group, 0);
        _mm_storeu_si128((__m128i *)(bytes + 16 * i), _mm512_castsi512_si128(group));
        _mm_storeu_si128((__m128i *)(bytes + 16 * i + 128), _mm512_extracti64x2_epi64(group, 1));
        _mm_storeu_si128((__m128i *)(bytes + 16 * i + 256), _mm512_extracti64x2_epi64(group, 2));
        _mm_storeu_si128((__m128i *)(bytes + 16 * i + 384), _mm512_extracti64x2_epi64(group, 3));
    }
}

/* Bytes 8 * half of the values of 512 pixels from word w on. */
static void value_bytes(const uint8_t *planes, size_t stride, const uint64_t *valid, size_t w, int half, int top,
                        uint8_t *bytes)
{
    __m512i p[8], mask = _mm512_loadu_si512(valid + w);
    for (int k = 0; k < 8; k++)
        p[7 - k] = 8 * half + k > top ? _mm512_setzero_si512()
                                  : _mm512_and_si512(mask, _mm512_loadu_si512(planes + (size_t)(8 * half + k) * stride + 8 * w));
    transpose_512(p, bytes);
}

static void planes_to_values(const uint8_t *planes, size_t stride, const uint64_t *valid, size_t n, int top,
                             uint16_t *values)
{
    for (size_t done = 0; done < n; done += 512) {
        uint8_t low[512], high[512];
        value_bytes(planes, stride, valid, done / 64, 0, top, low);
        if (top >= 8)
            value_bytes(planes, stride, valid, done / 64, 1, top, high);
        for (size_t i = 0; i < 512; i += 32) {
            __m512i v = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)(low + i)));
            if (top >= 8) {
                __m512i h = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)(high + i)));
                v = _mm512_or_si512(v, _mm512_slli_epi16(h, 8));
            }
            _mm512_storeu_si512(values + done + i, v);
        }
    }
}

/* Steps of 32 values of one row, the column of value i in step g being x + 32 g + i: products with i and i*i in pairs of
 * 16 bits, products with g by adding up running sums (after G steps, `late` is the sum of (G - g) times step g). Values
 * are below 4096 and a row has at most 128 steps here, so that every 32-bit sum stays below 2^31. */
typedef struct {
    __m512i sum, late, later, first, first_late, second;
} Steps;

static void step_values(__m512i v, Steps *steps)
{
    const __m512i one = _mm512_set1_epi16(1);
    const __m512i i = _mm512_set_epi16(31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16, 15, 14, 13, 12, 11,
                                       10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i ii = _mm512_mullo_epi16(i, i);
    __m512i first = _mm512_madd_epi16(v, i);
    steps->sum = _mm512_add_epi32(steps->sum, _mm512_madd_epi16(v, one));
    steps->late = _mm512_add_epi32(steps->late, steps->sum);
    steps->later = _mm512_add_epi32(steps->later, steps->late);
    steps->first = _mm512_add_epi32(steps->first, first);
    steps->first_late = _mm512_add_epi32(steps->first_late, steps->first);
    steps->second = _mm512_add_epi32(steps->second, _mm512_madd_epi16(v, ii));
}

static void row_moments(const uint16_t *values, size_t n, int64_t y, int64_t x, LocalSums *sums)
{
    Steps steps = {0};
    int64_t g = 0;
    for (size_t i = 0; i < n; i += 32, g++) {
        __mmask32 keep = n - i < 32 ? (1U << (n - i)) - 1 : 0xFFFFFFFFU;
        step_values(_mm512_maskz_loadu_epi16(keep, values + i), &steps);
    }
    int64_t s = sum_epu32(steps.sum), late = sum_epu32(steps.late), later = sum_epu32(steps.later);
    int64_t first = sum_epu32(steps.first), first_late = sum_epu32(steps.first_late);
    /* sum of g s_g and of g g s_g, from sums weighted with (G - g) and (G - g)(G - g + 1) / 2 */
    int64_t sg = g * s - late;
    int64_t sgg = 2 * later - late - g * g * s + 2 * g * sg;
    int64_t s1 = 32 * sg + first;
    int64_t s2 = 1024 * sgg + 64 * (g * first - first_late) + sum_epu32(steps.second);
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
    __m512i count = _mm512_setzero_si512();
    for (size_t w = 0; w < words; w += VECTOR_WORDS) {
        __m512i common = _mm512_and_si512(_mm512_loadu_si512(bits + w), _mm512_loadu_si512(mask + 8 * w));
        count = _mm512_add_epi64(count, _mm512_popcnt_epi64(common));
    }
    return (uint64_t)_mm512_reduce_add_epi64(count);
}

/* 32 pixels of 8 frames, turned around: lane L of turned[j] holds the 8 frames' values of pixel 8 L + j. */
static void turn_around(uint16_t (*values)[TILE + 64], size_t i, __m512i *turned)
{
    __m512i a[8], b[8];
    for (unsigned l = 0; l < 8; l++)
        a[l] = _mm512_loadu_si512(values[l] + i);
    for (unsigned l = 0; l < 4; l++) {
        b[2 * l] = _mm512_unpacklo_epi16(a[2 * l], a[2 * l + 1]);
        b[2 * l + 1] = _mm512_unpackhi_epi16(a[2 * l], a[2 * l + 1]);
    }
    for (unsigned l = 0; l < 2; l++) {
        a[4 * l] = _mm512_unpacklo_epi32(b[4 * l], b[4 * l + 2]);
        a[4 * l + 1] = _mm512_unpackhi_epi32(b[4 * l], b[4 * l + 2]);
        a[4 * l + 2] = _mm512_unpacklo_epi32(b[4 * l + 1], b[4 * l + 3]);
        a[4 * l + 3] = _mm512_unpackhi_epi32(b[4 * l + 1], b[4 * l + 3]);
    }
    for (unsigned j = 0; j < 4; j++) {
        turned[2 * j] = _mm512_unpacklo_epi64(a[j], a[j + 4]);
        turned[2 * j + 1] = _mm512_unpackhi_epi64(a[j], a[j + 4]);
    }
}

static void add_lane(uint32_t *count, const uint16_t *values)
{
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)values));
    _mm256_storeu_si256((__m256i *)count, _mm256_add_epi32(wide, _mm256_loadu_si256((const __m256i *)count)));
}

static void add_lanes(const uint16_t *cells, uint16_t (*values)[TILE + 64], size_t n, uint32_t *counts)
{
    for (size_t i = 0; i + 32 <= n; i += 32) {
        __m512i turned[8];
        turn_around(values, i, turned);
        const uint16_t *of_pixel = (const uint16_t *)turned;
        for (unsigned j = 0; j < 8; j++)
            for (unsigned lane = 0; lane < 4; lane++)
                add_lane(counts + (size_t)cells[i + 8 * lane + j] * LANES, of_pixel + 32 * j + 8 * lane);
    }
    for (size_t i = n / 32 * 32; i < n; i++)
        for (unsigned l = 0; l < LANES; l++)
            counts[(size_t)cells[i] * LANES + l] += values[l][i];
}

static int64_t keep_valid(const uint32_t *values, const uint64_t *valid, size_t n, uint16_t *out)
{
    __m512i largest = _mm512_setzero_si512();
    uint64_t any = 0;
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 keep = (__mmask16)(valid[i / 64] >> (i % 64));
        __m512i value = _mm512_maskz_loadu_epi32(keep, values + i);
        largest = _mm512_max_epu32(largest, value);
        _mm256_storeu_si256((__m256i *)(out + i), _mm512_cvtepi32_epi16(value));
        any |= keep;
    }
    return any ? (int64_t)(uint32_t)_mm512_reduce_max_epu32(largest) : -1;
}

/* At most TILE / 32 = 128 steps of values below 4096. */
static uint64_t value_common(const uint16_t *values, const uint8_t *mask, size_t n)
{
    const __m512i one = _mm512_set1_epi16(1);
    __m512i sum = _mm512_setzero_si512();
    for (size_t i = 0; i < n; i += 32) {
        uint32_t bits;
        memcpy(&bits, mask + i / 8, 4);
        if (n - i < 32)
            bits &= (1U << (n - i)) - 1;
        sum = _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_maskz_loadu_epi16(bits, values + i), one));
    }
    return (uint64_t)sum_epu32(sum);
}

const Kernel kernel_avx512 = {"avx512", add_planes, add_values, lz4_decode_avx512, add_pending, add_pixels};
