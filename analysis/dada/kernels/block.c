/* Cuts blocks of any size into tiles, and chooses the kernel. */
#include <stdlib.h>
#include <string.h>

#include "plan.h"
#include "tile.h"

static void widen(const uint8_t *data, unsigned element, size_t n, uint32_t *values)
{
    if (element == 1) {
        for (size_t i = 0; i < n; i++)
            values[i] = data[i];
    } else if (element == 2) {
        for (size_t i = 0; i < n; i++)
            values[i] = (uint32_t)(data[2 * i] | data[2 * i + 1] << 8);
    } else {
        for (size_t i = 0; i < n; i++)
            values[i] = data[4 * i] | (uint32_t)data[4 * i + 1] << 8 | (uint32_t)data[4 * i + 2] << 16 |
                        (uint32_t)data[4 * i + 3] << 24;
    }
}

static void drop_small(uint32_t threshold, size_t n, uint32_t *values)
{
    for (size_t i = 0; i < n; i++)
        values[i] = values[i] < threshold ? 0 : values[i];
}

void add_block(const Kernel *kernel, const Plan *plan, const Block *block, FrameSums *sums)
{
    uint32_t values[TILE];
    for (size_t done = 0; done < block->n; done += plan->tile) {
        size_t n = block->n - done < plan->tile ? block->n - done : plan->tile;
        if (block->planes) {
            (sums->pixels ? kernel->add_pixels : kernel->add_planes)(plan, block->data + done / 8, block->n / 8,
                                                                     block->first + done, n, sums);
            continue;
        }
        widen(block->data + done * plan->element, plan->element, n, values);
        if (plan->threshold > 1)
            drop_small(plan->threshold, n, values);
        (sums->pixels ? tile_add_pixels : kernel->add_values)(plan, values, block->first + done, n, sums);
    }
}

#ifdef DADA_X86
static bool can_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
}

static bool can_avx512(void)
{
    return can_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2") &&
           __builtin_cpu_supports("avx512vpopcntdq") && __builtin_cpu_supports("avx512bitalg") && __builtin_cpu_supports("gfni");
}
#endif

const Kernel *kernel_choose(const char *name)
{
    bool any = !name || !*name;
#ifdef DADA_X86
    __builtin_cpu_init();
    if ((any || !strcmp(name, "avx512")) && can_avx512())
        return &kernel_avx512;
    if ((any || !strcmp(name, "avx2")) && can_avx2())
        return &kernel_avx2;
#endif
    return any || !strcmp(name, "portable") ? &kernel_portable : NULL;
}
