/* The kernel for AVX-512 (Ice Lake, Zen 4 and later): population counts, compression of positions, bit transposes. */
#include <immintrin.h>

#include "lz4_decode.h"
#include "plain.h"

#define VECTOR_WORDS 8

typedef __m512i Vector;
typedef __m512i Lanes;
#define V(op) _mm512_##op
#define L(op) _mm512_##op
#define PLANE(k) (7 - (k)) /* store_transposed turns the order around */

static inline Vector load(const void *from)
{
    return _mm512_loadu_si512(from);
}

static inline void store(void *to, Vector v)
{
    _mm512_storeu_si512(to, v);
}

static inline Vector zero(void)
{
    return _mm512_setzero_si512();
}

static inline Vector both(Vector a, Vector b)
{
    return _mm512_and_si512(a, b);
}

static inline Vector count_up(void)
{
    return _mm512_set_epi16(31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8,
                            7, 6, 5, 4, 3, 2, 1, 0);
}

static inline __mmask32 first_elements(size_t n)
{
    return n < 32 ? (1U << n) - 1 : 0xFFFFFFFFU;
}

static inline Vector first_values(const uint16_t *values, size_t n)
{
    return _mm512_maskz_loadu_epi16(first_elements(n), values);
}

static inline Vector widen(const uint8_t *bytes)
{
    return _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)bytes));
}

static inline Lanes load_lanes(const uint16_t *values)
{
    return load(values);
}

static inline int64_t sum_epi32(Vector v)
{
    __m512i low = _mm512_cvtepi32_epi64(_mm512_castsi512_si256(v));
    __m512i high = _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(v, 1));
    return _mm512_reduce_add_epi64(_mm512_add_epi64(low, high));
}

static inline int64_t sum_epu32(Vector v)
{
    __m512i low = _mm512_cvtepu32_epi64(_mm512_castsi512_si256(v));
    __m512i high = _mm512_cvtepu32_epi64(_mm512_extracti64x4_epi64(v, 1));
    return _mm512_reduce_add_epi64(_mm512_add_epi64(low, high));
}

/* Transpose each group of 8 x 8 bits, by multiplying the identity with it, which turns the order of rows around; the quarters
 * belong 128 bytes apart. */
static inline void store_transposed(Vector groups, uint8_t *bytes)
{
    groups = _mm512_gf2p8affine_epi64_epi8(_mm512_set1_epi64((long long)0x8040201008040201ULL), groups, 0);
    _mm_storeu_si128((__m128i *)bytes, _mm512_castsi512_si128(groups));
    _mm_storeu_si128((__m128i *)(bytes + 128), _mm512_extracti64x2_epi64(groups, 1));
    _mm_storeu_si128((__m128i *)(bytes + 256), _mm512_extracti64x2_epi64(groups, 2));
    _mm_storeu_si128((__m128i *)(bytes + 384), _mm512_extracti64x2_epi64(groups, 3));
}

#include "simd.h"

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

static void list_moments(const uint16_t *list, size_t n, const Rows *rows, LocalSums *sums)
{
    const Vector one = _mm512_set1_epi16(1), columns = _mm512_set1_epi16((short)rows->columns);
    const Vector x0 = _mm512_set1_epi16((short)rows->x);
    Moments moments = {0};
    for (size_t i = 0; i < n; i += VALUES) {
        __mmask32 keep = first_elements(n - i);
        Vector p = load(list + i), x = _mm512_maskz_add_epi16(keep, p, x0), y = zero();
        for (unsigned s = 0; s < rows->n_starts; s++) {
            __mmask32 beyond = _mm512_mask_cmpge_epu16_mask(keep, p, _mm512_set1_epi16((short)rows->starts[s]));
            x = _mm512_mask_sub_epi16(x, beyond, x, columns);
            y = _mm512_mask_add_epi16(y, beyond, y, one);
        }
        moments_add(&moments, x, y);
    }
    moments_end(&moments, sums);
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
