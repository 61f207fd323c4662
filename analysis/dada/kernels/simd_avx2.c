/* The kernel for AVX2 (Haswell, Zen and later). Positions come from a table of bytes; the rest is vectors of 256 bits. */
#include <immintrin.h>

#include "plain.h"

#define VECTOR_WORDS 4

typedef __m256i Vector;
typedef __m128i Lanes;
#define V(op) _mm256_##op
#define L(op) _mm_##op
#define PLANE(k) (k)

static inline Vector load(const void *from)
{
    return _mm256_loadu_si256((const __m256i *)from);
}

static inline void store(void *to, Vector v)
{
    _mm256_storeu_si256((__m256i *)to, v);
}

static inline Vector zero(void)
{
    return _mm256_setzero_si256();
}

static inline Vector both(Vector a, Vector b)
{
    return _mm256_and_si256(a, b);
}

static inline Vector count_up(void)
{
    return _mm256_set_epi16(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
}

/* All bits of the first n of 16 elements. */
static inline Vector first_elements(size_t n)
{
    return _mm256_cmpgt_epi16(_mm256_set1_epi16((short)(n < 16 ? n : 16)), count_up());
}

static inline Vector first_values(const uint16_t *values, size_t n)
{
    return n < 16 ? both(load(values), first_elements(n)) : load(values);
}

static inline Vector widen(const uint8_t *bytes)
{
    return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)bytes));
}

static inline Lanes load_lanes(const uint16_t *values)
{
    return _mm_loadu_si128((const __m128i *)values);
}

static inline int64_t sum_epu32(Vector v)
{
    uint32_t lanes[8];
    int64_t sum = 0;
    store(lanes, v);
    for (unsigned i = 0; i < 8; i++)
        sum += lanes[i];
    return sum;
}

static inline int64_t sum_epi32(Vector v)
{
    int32_t lanes[8];
    int64_t sum = 0;
    store(lanes, v);
    for (unsigned i = 0; i < 8; i++)
        sum += lanes[i];
    return sum;
}

/* One step of the transpose in transpose_8x8, on four groups of 8 x 8 bits. */
static inline Vector swap_bits(Vector v, int shift, uint64_t mask)
{
    Vector t = both(_mm256_xor_si256(v, _mm256_srli_epi64(v, shift)), _mm256_set1_epi64x((long long)mask));
    return _mm256_xor_si256(v, _mm256_xor_si256(t, _mm256_slli_epi64(t, shift)));
}

/* Transpose each group of 8 x 8 bits; the halves belong 128 bytes apart. */
static inline void store_transposed(Vector groups, uint8_t *bytes)
{
    groups = swap_bits(groups, 7, 0x00AA00AA00AA00AAULL);
    groups = swap_bits(groups, 14, 0x0000CCCC0000CCCCULL);
    groups = swap_bits(groups, 28, 0x00000000F0F0F0F0ULL);
    _mm_storeu_si128((__m128i *)bytes, _mm256_castsi256_si128(groups));
    _mm_storeu_si128((__m128i *)(bytes + 128), _mm256_extracti128_si256(groups, 1));
}

#include "simd.h"

static bool plane_meets(const uint8_t *plane, const uint64_t *valid, size_t words)
{
    Vector any = zero();
    for (size_t w = 0; w < words; w += VECTOR_WORDS)
        any = _mm256_or_si256(any, both(load(plane + 8 * w), load(valid + w)));
    return !_mm256_testz_si256(any, any);
}

static void list_moments(const uint16_t *list, size_t n, const Rows *rows, LocalSums *sums)
{
    const Vector columns = _mm256_set1_epi16((short)rows->columns), x0 = _mm256_set1_epi16((short)rows->x);
    Moments moments = {0};
    for (size_t i = 0; i < n; i += VALUES) {
        Vector keep = first_elements(n - i), p = load(list + i), x = _mm256_add_epi16(p, x0), y = zero();
        for (unsigned s = 0; s < rows->n_starts; s++) {
            Vector beyond = _mm256_cmpgt_epi16(p, _mm256_set1_epi16((short)(rows->starts[s] - 1)));
            x = _mm256_sub_epi16(x, both(beyond, columns));
            y = _mm256_sub_epi16(y, beyond);
        }
        moments_add(&moments, both(x, keep), both(y, keep));
    }
    moments_end(&moments, sums);
}

static uint64_t plane_and(const uint8_t *plane, const uint64_t *valid, size_t words, uint64_t *out, uint64_t *used)
{
    return plane_and_plain(plane, valid, words, out, used);
}

/* The positions of the bits that are set in byte b, packed into 8 bytes. */
#define PLACE(b, k) ((uint64_t)((b) >> (k) & 1) * (k) << 8 * __builtin_popcount((b) & ((1 << (k)) - 1)))
#define PLACES_1(b) \
    (PLACE(b, 0) | PLACE(b, 1) | PLACE(b, 2) | PLACE(b, 3) | PLACE(b, 4) | PLACE(b, 5) | PLACE(b, 6) | PLACE(b, 7))
#define PLACES_4(b) PLACES_1(b), PLACES_1((b) + 1), PLACES_1((b) + 2), PLACES_1((b) + 3)
#define PLACES_16(b) PLACES_4(b), PLACES_4((b) + 4), PLACES_4((b) + 8), PLACES_4((b) + 12)
#define PLACES_64(b) PLACES_16(b), PLACES_16((b) + 16), PLACES_16((b) + 32), PLACES_16((b) + 48)

static const uint64_t places[256] = {PLACES_64(0), PLACES_64(64), PLACES_64(128), PLACES_64(192)};

/* For each byte 8 positions are written and as many kept as it has bits: a loop over the bits would be mispredicted at the
 * end of nearly every word. */
static size_t list_positions(const uint64_t *bits, uint64_t used, uint16_t *list, unsigned times)
{
    uint16_t *end = list;
    for (; used; used &= used - 1) {
        unsigned w = (unsigned)_tzcnt_u64(used);
        for (unsigned t = 0; t < times; t++) {
            uint64_t word = bits[w];
            for (unsigned b = 0; b < 8; b++, word >>= 8) {
                __m128i in_byte = _mm_cvtepu8_epi16(_mm_cvtsi64_si128((long long)places[word & 0xFF]));
                __m128i base = _mm_set1_epi16((short)(64 * w + 8 * b));
                _mm_storeu_si128((__m128i *)end, _mm_add_epi16(in_byte, base));
                end += _mm_popcnt_u32((unsigned)word & 0xFF);
            }
        }
    }
    return (size_t)(end - list);
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

const Kernel kernel_avx2 = {"avx2", add_planes, add_values, NULL, add_pending, add_pixels};
