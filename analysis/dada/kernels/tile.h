/* Reductions of one tile of values in straight loops, and the way from bit planes to values. */
#ifndef DADA_TILE_H
#define DADA_TILE_H

#include "plan.h"

/* Transpose an 8 x 8 matrix of bits, one row a byte (Hacker's Delight, 7-3). */
static inline uint64_t transpose_8x8(uint64_t x)
{
    uint64_t t = (x ^ (x >> 7)) & 0x00AA00AA00AA00AAULL;
    x ^= t ^ (t << 7);
    t = (x ^ (x >> 14)) & 0x0000CCCC0000CCCCULL;
    x ^= t ^ (t << 14);
    t = (x ^ (x >> 28)) & 0x00000000F0F0F0F0ULL;
    return x ^ t ^ (t << 28);
}

/* Values of `n` pixels (a multiple of 8) whose 8 * element bit planes lie `stride` bytes apart. */
void unshuffle(const uint8_t *planes, size_t stride, size_t n, unsigned element, uint32_t *values);

/* Add `n` <= TILE values, pixels first .. first + n, to the sums. The values are overwritten. */
void tile_add_values(const Plan *plan, uint32_t *values, size_t first, size_t n, FrameSums *sums);

/* The same where invalid values are 0 already and accounted for. */
void tile_add_valid_values(const Plan *plan, const uint32_t *values, size_t first, size_t n, FrameSums *sums);

/* Add `n` values, pixels first .. first + n, to sums->pixels. The values are overwritten. */
void tile_add_pixels(const Plan *plan, uint32_t *values, size_t first, size_t n, FrameSums *sums);

/* Account for an unmasked pixel whose value is >= cut. */
void tile_drop_pixel(const Plan *plan, size_t pixel, FrameSums *sums);

/* Add one pixel's valid value to its sums. */
static inline void pixel_add(const PixelSums *pixels, size_t pixel, uint32_t value)
{
    uint64_t square = (uint64_t)value * value;
    pixels->sum[pixel] += value;
    pixels->squares[pixel] += square;
    if (pixels->squares[pixel] < square)
        pixels->squares_high[pixel]++;
    if (value > pixels->maximum[pixel])
        pixels->maximum[pixel] = value;
}

#endif
