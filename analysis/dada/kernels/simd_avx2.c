/* The kernel for AVX2: for now the portable one, compiled with its instructions. */
#include "plan.h"
#define KERNEL kernel_avx2
#define KERNEL_NAME "avx2"
#include "tile.h"

static void add_planes(const Plan *plan, const uint8_t *planes, size_t stride, size_t first, size_t n,
                       FrameSums *sums)
{
    uint32_t values[TILE];
    unshuffle(planes, stride, n, plan->element, values);
    tile_add_values(plan, values, first, n, sums);
}

const Kernel kernel_avx2 = {"avx2", add_planes, tile_add_values};
