#include "plan_build.h"

#include <stdlib.h>
#include <string.h>

/* A copy of `size` bytes with SLACK zero bytes behind it. */
static void *copy_with_slack(const void *from, size_t size)
{
    uint8_t *copy = aligned_alloc(64, (size + SLACK + 63) / 64 * 64);
    if (copy) {
        memcpy(copy, from, size);
        memset(copy + size, 0, SLACK);
    }
    return copy;
}

static uint64_t count_bits(const uint8_t *bits, size_t n_pixels)
{
    uint64_t count = 0;
    for (size_t i = 0; i < (n_pixels + 7) / 8; i++)
        count += (uint64_t)__builtin_popcount(bits[i]);
    return count;
}

static bool any_bit(const uint8_t *bits, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (bits[i])
            return true;
    return false;
}

static bool build_bins(Plan *plan, const uint16_t *bins)
{
    plan->bins = copy_with_slack(bins, plan->n_pixels * sizeof *bins);
    plan->bin_counts = calloc(plan->n_bins + 1, sizeof *plan->bin_counts);
    if (!plan->bins || !plan->bin_counts)
        return false;
    for (size_t p = 0; p < plan->n_pixels; p++) {
        bool unmasked = plan->valid[p / 8] >> (p % 8) & 1;
        if (!unmasked || plan->bins[p] >= plan->n_bins)
            plan->bins[p] = NO_BIN;
        else
            plan->bin_counts[plan->bins[p]]++;
    }
    return true;
}

static void build_roi(Plan *plan, size_t r)
{
    uint8_t *bits = plan->rois + r * plan->bit_stride;
    size_t n_bytes = (plan->n_pixels + 7) / 8;
    for (size_t i = 0; i < n_bytes; i++)
        bits[i] &= plan->valid[i];
    plan->roi_counts[r] = (int64_t)count_bits(bits, plan->n_pixels);
    for (size_t tile = 0; tile * TILE < plan->n_pixels; tile++) {
        size_t from = tile * TILE / 8, left = n_bytes - from;
        if (any_bit(bits + from, left < TILE / 8 ? left : TILE / 8))
            plan->tile_rois[tile] |= 1ULL << (r % 64);
    }
}

static bool build_rois(Plan *plan, const uint8_t *rois)
{
    size_t n_bytes = (plan->n_pixels + 7) / 8;
    plan->bit_stride = (n_bytes + SLACK + 63) / 64 * 64;
    plan->rois = calloc(plan->n_rois, plan->bit_stride);
    plan->roi_counts = calloc(plan->n_rois, sizeof *plan->roi_counts);
    plan->tile_rois = calloc(plan->n_pixels / TILE + 1, sizeof *plan->tile_rois);
    if (!plan->rois || !plan->roi_counts || !plan->tile_rois)
        return false;
    for (size_t r = 0; r < plan->n_rois; r++) {
        memcpy(plan->rois + r * plan->bit_stride, rois + r * n_bytes, n_bytes);
        build_roi(plan, r);
    }
    return true;
}

bool plan_build(Plan *plan, const uint8_t *valid, const uint16_t *bins, const uint8_t *rois)
{
    plan->valid = copy_with_slack(valid, (plan->n_pixels + 7) / 8);
    if (!plan->valid)
        return false;
    plan->n_masked = plan->n_pixels - count_bits(plan->valid, plan->n_pixels);
    if (bins && !build_bins(plan, bins))
        return false;
    return plan->n_rois == 0 || build_rois(plan, rois);
}

void plan_free(Plan *plan)
{
    free(plan->valid);
    free(plan->bins);
    free(plan->rois);
    free(plan->bin_counts);
    free(plan->roi_counts);
    free(plan->tile_rois);
}
