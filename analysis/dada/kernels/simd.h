/* What the kernels for AVX2 and AVX-512 have in common: the same vector operations in the same order, on vectors of either
 * length. Included by simd_avx2.c and simd_avx512.c, which define before it
 *
 *   Vector, V(op)                  the vector type, and the intrinsic `op` for it
 *   Lanes, L(op)                   the same for the vector in which the values of 8 frames are turned around
 *   load, store, zero, both        unaligned access, all bits 0, bitwise and
 *   first_values(values, n)        the first n of a vector of values, the others 0; all of them where n is larger
 *   sum_epi32, sum_epu32           sum of 32-bit elements, signed or unsigned, as 64 bits
 *   count_up()                     16-bit elements 0, 1, 2, ...
 *   widen(bytes), load_lanes       bytes to 16-bit values; a Lanes of values
 *   store_transposed(groups, to)   transpose groups of 8 x 8 bits; each 128 bits of them are stored 128 bytes apart
 *   PLANE(k)                       the place in which store_transposed wants plane k of 8
 */

#define VALUES (sizeof(Vector) / sizeof(uint16_t))   /* 16-bit values in a vector */
#define PIXELS (8 * sizeof(Vector))                  /* bits in a vector: pixels of a plane */

/* Sums over a list of positions. Pairs of products are added up in 32 bits: with at most MAX_COLUMNS columns |x| < 4096, a
 * list has at most MAX_LIST / 16 = 96 steps, and 96 * 2 * 4096^2 fits into 32 bits without a sign (48 steps of 32 values
 * fit into 31 bits). */
typedef struct {
    Vector x, y, xx, yy, xy;
} Moments;

static inline void moments_add(Moments *moments, Vector x, Vector y)
{
    const Vector one = V(set1_epi16)(1);
    moments->x = V(add_epi32)(moments->x, V(madd_epi16)(x, one));
    moments->xx = V(add_epi32)(moments->xx, V(madd_epi16)(x, x));
    moments->y = V(add_epi32)(moments->y, V(madd_epi16)(y, one));
    moments->yy = V(add_epi32)(moments->yy, V(madd_epi16)(y, y));
    moments->xy = V(add_epi32)(moments->xy, V(madd_epi16)(x, y));
}

static inline void moments_end(const Moments *moments, LocalSums *sums)
{
    sums->x += sum_epi32(moments->x);
    sums->y += sum_epi32(moments->y);
    sums->xx += sum_epu32(moments->xx);
    sums->yy += sum_epi32(moments->yy);
    sums->xy += sum_epi32(moments->xy);
}

/* One vector of each of 8 planes to PIXELS bytes, one a pixel: the planes' bytes are interleaved, then each group of 8 x 8
 * bits is transposed. */
static inline void planes_to_bytes(const Vector *p, uint8_t *bytes)
{
    Vector a[8], b[8];
    for (unsigned i = 0; i < 4; i++) {
        a[2 * i] = V(unpacklo_epi8)(p[2 * i], p[2 * i + 1]);
        a[2 * i + 1] = V(unpackhi_epi8)(p[2 * i], p[2 * i + 1]);
    }
    for (unsigned i = 0; i < 2; i++) {
        b[4 * i] = V(unpacklo_epi16)(a[4 * i], a[4 * i + 2]);
        b[4 * i + 1] = V(unpackhi_epi16)(a[4 * i], a[4 * i + 2]);
        b[4 * i + 2] = V(unpacklo_epi16)(a[4 * i + 1], a[4 * i + 3]);
        b[4 * i + 3] = V(unpackhi_epi16)(a[4 * i + 1], a[4 * i + 3]);
    }
    for (unsigned i = 0; i < 8; i++)
        store_transposed(i % 2 ? V(unpackhi_epi32)(b[i / 2], b[i / 2 + 4]) : V(unpacklo_epi32)(b[i / 2], b[i / 2 + 4]),
                         bytes + 16 * i);
}

/* Bytes `half` (0 the low ones) of the values of PIXELS pixels from word w on. */
static inline void value_bytes(const uint8_t *planes, size_t stride, const uint64_t *valid, size_t w, int half, int top,
                               uint8_t *bytes)
{
    Vector p[8], mask = load(valid + w);
    for (int k = 0; k < 8; k++)
        p[PLANE(k)] = 8 * half + k > top ? zero() : both(mask, load(planes + (size_t)(8 * half + k) * stride + 8 * w));
    planes_to_bytes(p, bytes);
}

static void planes_to_values(const uint8_t *planes, size_t stride, const uint64_t *valid, size_t n, int top,
                             uint16_t *values)
{
    for (size_t done = 0; done < n; done += PIXELS) {
        uint8_t low[PIXELS], high[PIXELS];
        value_bytes(planes, stride, valid, done / 64, 0, top, low);
        if (top >= 8)
            value_bytes(planes, stride, valid, done / 64, 1, top, high);
        for (size_t i = 0; i < PIXELS; i += VALUES) {
            Vector v = widen(low + i);
            if (top >= 8)
                v = V(add_epi16)(v, V(slli_epi16)(widen(high + i), 8));
            store(values + done + i, v);
        }
    }
}

/* Steps of VALUES values of one row, the column of value i in step g being x + VALUES g + i: products with i and i*i in
 * pairs of 16 bits, products with g by adding up running sums (after G steps, `late` is the sum of (G - g) times step g).
 * Values are below 4096 and a row has at most 256 steps here, so that every 32-bit sum stays below 2^32. */
typedef struct {
    Vector sum, late, later, first, first_late, second;
} Steps;

static inline void step_values(Vector v, Steps *steps)
{
    const Vector i = count_up();
    steps->sum = V(add_epi32)(steps->sum, V(madd_epi16)(v, V(set1_epi16)(1)));
    steps->late = V(add_epi32)(steps->late, steps->sum);
    steps->later = V(add_epi32)(steps->later, steps->late);
    steps->first = V(add_epi32)(steps->first, V(madd_epi16)(v, i));
    steps->first_late = V(add_epi32)(steps->first_late, steps->first);
    steps->second = V(add_epi32)(steps->second, V(madd_epi16)(v, V(mullo_epi16)(i, i)));
}

static inline void row_moments(const uint16_t *values, size_t n, int64_t y, int64_t x, LocalSums *sums)
{
    const int64_t width = VALUES;
    Steps steps = {0};
    int64_t g = 0;
    for (size_t i = 0; i < n; i += VALUES, g++)
        step_values(first_values(values + i, n - i), &steps);
    int64_t s = sum_epu32(steps.sum), late = sum_epu32(steps.late), later = sum_epu32(steps.later);
    int64_t first = sum_epu32(steps.first), first_late = sum_epu32(steps.first_late);
    /* sum of g s_g and of g g s_g, from sums weighted with (G - g) and (G - g)(G - g + 1) / 2 */
    int64_t sg = g * s - late;
    int64_t sgg = 2 * later - late - g * g * s + 2 * g * sg;
    int64_t s1 = width * sg + first;
    int64_t s2 = width * width * sgg + 2 * width * (g * first - first_late) + sum_epu32(steps.second);
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

/* The values of 8 frames turned around, in each 128 bits by themselves: bits 128 L of turned[j] hold the 8 frames' values of
 * pixel 8 L + j. */
static inline void turn_around(uint16_t (*values)[TILE + 64], size_t i, Lanes *turned)
{
    Lanes a[8], b[8];
    for (unsigned l = 0; l < 8; l++)
        a[l] = load_lanes(values[l] + i);
    for (unsigned l = 0; l < 4; l++) {
        b[2 * l] = L(unpacklo_epi16)(a[2 * l], a[2 * l + 1]);
        b[2 * l + 1] = L(unpackhi_epi16)(a[2 * l], a[2 * l + 1]);
    }
    for (unsigned l = 0; l < 2; l++) {
        a[4 * l] = L(unpacklo_epi32)(b[4 * l], b[4 * l + 2]);
        a[4 * l + 1] = L(unpackhi_epi32)(b[4 * l], b[4 * l + 2]);
        a[4 * l + 2] = L(unpacklo_epi32)(b[4 * l + 1], b[4 * l + 3]);
        a[4 * l + 3] = L(unpackhi_epi32)(b[4 * l + 1], b[4 * l + 3]);
    }
    for (unsigned j = 0; j < 4; j++) {
        turned[2 * j] = L(unpacklo_epi64)(a[j], a[j + 4]);
        turned[2 * j + 1] = L(unpackhi_epi64)(a[j], a[j + 4]);
    }
}

/* Add the 8 frames' values of one pixel to its cell. */
static inline void add_lane(uint32_t *count, const uint16_t *values)
{
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)values));
    _mm256_storeu_si256((__m256i *)count, _mm256_add_epi32(wide, _mm256_loadu_si256((const __m256i *)count)));
}

static void add_lanes(const uint16_t *cells, uint16_t (*values)[TILE + 64], size_t n, uint32_t *counts)
{
    const size_t step = sizeof(Lanes) / sizeof(uint16_t);
    for (size_t i = 0; i + step <= n; i += step) {
        Lanes turned[8];
        turn_around(values, i, turned);
        const uint16_t *of_pixel = (const uint16_t *)turned;
        for (unsigned j = 0; j < 8; j++)
            for (unsigned lane = 0; lane < step / 8; lane++)
                add_lane(counts + (size_t)cells[i + 8 * lane + j] * LANES, of_pixel + step * j + 8 * lane);
    }
    for (size_t i = n / step * step; i < n; i++)
        for (unsigned l = 0; l < LANES; l++)
            counts[(size_t)cells[i] * LANES + l] += values[l][i];
}
