/* The kernel in plain C: right everywhere, and what the others are compared with. */
#include <string.h>

#include "plan.h"
#include "tile.h"

static void add_planes(const Plan *plan, const uint8_t *planes, size_t stride, size_t first, size_t n,
                       FrameSums *sums)
{
    uint32_t values[TILE];
    unshuffle(planes, stride, n, plan->element, values);
    tile_add_values(plan, values, first, n, sums);
}

const Kernel kernel_portable = {"portable", add_planes, tile_add_values};
