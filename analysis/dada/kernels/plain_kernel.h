/* A whole kernel out of the plain primitives, for the compiler to make the best of. */
#include "plain.h"

static bool plane_meets(const uint8_t *plane, const uint64_t *valid, size_t words)
{
    return plane_meets_plain(plane, valid, words);
}

static uint64_t plane_and(const uint8_t *plane, const uint64_t *valid, size_t words, uint64_t *out, uint64_t *used)
{
    return plane_and_plain(plane, valid, words, out, used);
}

static size_t list_positions(const uint64_t *bits, uint64_t used, uint16_t *list, unsigned times)
{
    return list_positions_plain(bits, used, list, times);
}

static void list_moments(const uint16_t *list, size_t n, const Rows *rows, LocalSums *sums)
{
    list_moments_plain(list, n, rows, sums);
}

static void planes_to_values(const uint8_t *planes, size_t stride, const uint64_t *valid, size_t n, int top,
                             uint16_t *values)
{
    planes_to_values_plain(planes, stride, valid, n, top, values);
}

static void value_moments(const uint16_t *values, size_t n, const Rows *rows, LocalSums *sums)
{
    value_moments_plain(values, n, rows, sums);
}

static uint64_t plane_common(const uint64_t *bits, const uint8_t *mask, size_t words)
{
    return plane_common_plain(bits, mask, words);
}

static void add_lanes(const uint16_t *cells, uint16_t (*values)[TILE + 64], size_t n, uint32_t *counts)
{
    add_lanes_plain(cells, values, n, counts);
}

static int64_t keep_valid(const uint32_t *values, const uint64_t *valid, size_t n, uint16_t *out)
{
    return keep_valid_plain(values, valid, n, out);
}

static uint64_t value_common(const uint16_t *values, const uint8_t *mask, size_t n)
{
    return value_common_plain(values, mask, n);
}
