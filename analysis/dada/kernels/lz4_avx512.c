/* An LZ4 block decoder for AVX-512 VBMI, made for bit planes: short literals and short matches at short distances, where
 * branches on lengths and distances are mispredicted and where reading back what was just stored stalls.
 *
 * The last 64 bytes of output are kept in a register, so that a match at a distance up to 64, overlapping itself or not,
 * is one permutation. Lengths up to 64 are copied without a branch on them: 64 bytes are stored, the next step overwrites
 * what was too much.
 *
 * The format: https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md. Blocks that break its rules are refused as by
 * LZ4_decompress_safe, and those with an offset of 0 too. */
#include <immintrin.h>

#include "lz4_decode.h"

#define NEAR 64
#define LAST_LITERALS 5        /* the format: a block ends with at least so many literals, */
#define LAST_MATCH 12          /* and no match begins closer to its end than this */
#define LAST_SEQUENCE 8        /* so that every sequence but the last is followed by at least these bytes of input */

typedef struct {
    const uint8_t *in, *in_end;
    uint8_t *begin, *out, *out_end;
    __m512i last;              /* the 64 bytes before `out` */
} Decoder;

#define ROW4(f, o, j) f(o, j), f(o, (j) + 1), f(o, (j) + 2), f(o, (j) + 3)
#define ROW16(f, o, j) ROW4(f, o, j), ROW4(f, o, (j) + 4), ROW4(f, o, (j) + 8), ROW4(f, o, (j) + 12)
#define ROW64(f, o) {ROW16(f, o, 0), ROW16(f, o, 16), ROW16(f, o, 32), ROW16(f, o, 48)}
#define REPEAT(o, j) (uint8_t)(64 - (o) + (j) % (o))
#define ROWS8(o)                                                                                                       \
    ROW64(REPEAT, o), ROW64(REPEAT, (o) + 1), ROW64(REPEAT, (o) + 2), ROW64(REPEAT, (o) + 3), ROW64(REPEAT, (o) + 4),  \
        ROW64(REPEAT, (o) + 5), ROW64(REPEAT, (o) + 6), ROW64(REPEAT, (o) + 7)

/* Row o - 1: which of the last 64 bytes are the next 64 of a match at distance o. */
static const uint8_t repeat[NEAR][64] __attribute__((aligned(64))) = {ROWS8(1),  ROWS8(9),  ROWS8(17), ROWS8(25),
                                                                      ROWS8(33), ROWS8(41), ROWS8(49), ROWS8(57)};
static const uint8_t nothing[64] __attribute__((aligned(64)));

/* `bytes` were written at d->out; n of them count. */
static inline void advance(Decoder *d, __m512i bytes, size_t n)
{
    const __m512i count = _mm512_set_epi8(63, 62, 61, 60, 59, 58, 57, 56, 55, 54, 53, 52, 51, 50, 49, 48, 47, 46, 45, 44, 43,
                                          42, 41, 40, 39, 38, 37, 36, 35, 34, 33, 32, 31, 30, 29, 28, 27, 26, 25, 24, 23, 22,
                                          21, 20, 19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    __m512i from = _mm512_add_epi8(count, _mm512_set1_epi8((char)n));
    d->last = _mm512_permutex2var_epi8(d->last, from, bytes);
    d->out += n;
}

static inline void reload(Decoder *d)
{
    d->last = _mm512_loadu_si512(d->out - 64);
}

/* Bytes that lengthen a length of 15; false where the input ends or the length is absurd. */
static bool lengthen(Decoder *d, size_t *length)
{
    uint8_t more;
    do {
        if (d->in == d->in_end || *length > (size_t)(d->out_end - d->begin))
            return false;
        more = *d->in++;
        *length += more;
    } while (more == 255);
    return true;
}

static inline void copy_literals(Decoder *d, size_t n)
{
    if (__builtin_expect(n <= 64, 1)) {
        __m512i bytes = _mm512_loadu_si512(d->in);
        _mm512_storeu_si512(d->out, bytes);
        advance(d, bytes, n);
        d->in += n;
        return;
    }
    for (size_t i = 0; i < n; i += 64)
        _mm512_storeu_si512(d->out + i, _mm512_loadu_si512(d->in + i));
    d->in += n;
    d->out += n;
    reload(d);
}

static inline void copy_match(Decoder *d, size_t offset, size_t n)
{
    bool near = offset <= NEAR;
    const uint8_t *far = near ? nothing : d->out - offset;
    __m512i row = _mm512_load_si512(repeat[near ? offset - 1 : 0]);
    __m512i bytes = _mm512_mask_permutexvar_epi8(_mm512_loadu_si512(far), near ? ~0ULL : 0, row, d->last);
    if (__builtin_expect(n <= 64, 1)) {
        _mm512_storeu_si512(d->out, bytes);
        advance(d, bytes, n);
        return;
    }
    size_t whole = near ? 64 - 64 % offset : 64; /* as many bytes as hold whole repetitions */
    for (size_t i = 0; i < n; i += whole)
        _mm512_storeu_si512(d->out + i, near ? bytes : _mm512_loadu_si512(far + i));
    d->out += n;
    reload(d);
}

bool lz4_decode_avx512(const uint8_t *in, size_t n_in, uint8_t *out, size_t n_out)
{
    Decoder d = {.in = in, .in_end = in + n_in, .begin = out, .out = out, .out_end = out + n_out};
    d.last = _mm512_setzero_si512();
    while (d.in < d.in_end) {
        unsigned token = *d.in++;
        size_t literals = token >> 4, match = token & 15;
        if (literals == 15 && !lengthen(&d, &literals))
            return false;
        if (literals > (size_t)(d.in_end - d.in) || literals > (size_t)(d.out_end - d.out))
            return false;
        copy_literals(&d, literals);
        size_t in_left = (size_t)(d.in_end - d.in), out_left = (size_t)(d.out_end - d.out);
        if (in_left < LAST_SEQUENCE || out_left < LAST_MATCH)
            return in_left == 0 && out_left == 0;
        size_t offset = (size_t)(d.in[0] | d.in[1] << 8);
        d.in += 2;
        if (match == 15 && !lengthen(&d, &match))
            return false;
        match += 4;
        if (offset - 1 >= (size_t)(d.out - d.begin) || match > out_left - LAST_LITERALS)
            return false;
        copy_match(&d, offset, match);
    }
    return false;
}
