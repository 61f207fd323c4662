/* Reductions of one tile of values in straight loops, and the way from bit planes to values. */
#ifndef DADA_TILE_H
#define DADA_TILE_H

#include "plan.h"

/* Values of `n` pixels (a multiple of 8) whose 8 * element bit planes lie `stride` bytes apart. */
void unshuffle(const uint8_t *planes, size_t stride, size_t n, unsigned element, uint32_t *values);

/* Add `n` <= TILE values, pixels first .. first + n, to the sums. The values are overwritten. */
void tile_add_values(const Plan *plan, uint32_t *values, size_t first, size_t n, FrameSums *sums);

/* Account for an unmasked pixel whose value is >= cut. */
void tile_drop_pixel(const Plan *plan, size_t pixel, FrameSums *sums);

#endif
