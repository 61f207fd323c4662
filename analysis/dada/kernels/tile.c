#include "tile.h"

#include <string.h>

void unshuffle(const uint8_t *planes, size_t stride, size_t n, unsigned element, uint32_t *values)
{
    memset(values, 0, n * sizeof *values);
    for (unsigned byte = 0; byte < element; byte++) {
        const uint8_t *low = planes + 8 * byte * stride;
        for (size_t i = 0; i < n / 8; i++) {
            uint64_t rows = 0;
            for (unsigned k = 0; k < 8; k++)
                rows |= (uint64_t)low[k * stride + i] << (8 * k);
            if (!rows)
                continue;
            rows = transpose_8x8(rows);
            for (unsigned j = 0; j < 8; j++)
                values[8 * i + j] |= (uint32_t)(rows >> (8 * j) & 0xFF) << (8 * byte);
        }
    }
}

static unsigned bit_at(const uint8_t *bits, size_t p)
{
    return bits[p >> 3] >> (p & 7) & 1;
}

void tile_drop_pixel(const Plan *plan, size_t pixel, FrameSums *sums)
{
    sums->n_value_invalid++;
    if (sums->pixels) {
        sums->pixels->dropped[pixel]++;
        return;
    }
    if (plan->bins && plan->bins[pixel] != NO_BIN)
        sums->bin_counts[plan->bins[pixel]]--;
    for (size_t r = 0; r < plan->n_rois; r++)
        sums->roi_counts[r] -= bit_at(plan->rois + r * plan->bit_stride, pixel);
}

/* Set masked values and values >= cut to 0; returns the largest valid value, or -1 where no pixel is valid. */
static int64_t apply_validity(const Plan *plan, uint32_t *values, size_t first, size_t n, FrameSums *sums)
{
    int64_t largest = -1;
    for (size_t i = 0; i < n; i++) {
        bool unmasked = bit_at(plan->valid, first + i), small = values[i] < plan->cut;
        if (unmasked && !small)
            tile_drop_pixel(plan, first + i, sums);
        if (!(unmasked && small))
            values[i] = 0;
        else if ((int64_t)values[i] > largest)
            largest = values[i];
    }
    return largest;
}

/* Sums of I, I x and I xx over a stretch of one row, x counted from its first pixel. With n <= 1024 and 32-bit
 * values the last one is below 2^62. */
static void add_stretch(const uint32_t *values, size_t n, uint64_t y, uint64_t x, FrameSums *sums)
{
    uint64_t s = 0, s1 = 0, s2 = 0;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t v = values[i];
        s += v;
        s1 += v * i;
        s2 += v * (i * i);
    }
    u128 sx = (u128)s * x + s1;
    sums->sum += s;
    sums->sum_y += (u128)s * y;
    sums->sum_yy += (u128)s * y * y;
    sums->sum_x += sx;
    sums->sum_xx += (u128)s * x * x + (u128)s1 * (2 * x) + s2;
    sums->sum_xy += sx * y;
}

static void add_moments(const Plan *plan, const uint32_t *values, size_t first, size_t n, FrameSums *sums)
{
    size_t y = first / plan->n_columns, x = first % plan->n_columns;
    while (n) {
        size_t stretch = plan->n_columns - x;
        stretch = stretch < n ? stretch : n;
        stretch = stretch < 1024 ? stretch : 1024;
        add_stretch(values, stretch, y, x, sums);
        values += stretch;
        n -= stretch;
        x += stretch;
        if (x == plan->n_columns) {
            x = 0;
            y++;
        }
    }
}

static void add_total(const uint32_t *values, size_t n, FrameSums *sums)
{
    uint64_t s = 0;
    for (size_t i = 0; i < n; i++)
        s += values[i];
    sums->sum += s;
}

static void add_rois(const Plan *plan, const uint32_t *values, size_t first, size_t n, FrameSums *sums)
{
    uint64_t present = plan->tile_rois[first / TILE] | plan->tile_rois[(first + n - 1) / TILE];
    for (size_t r = 0; r < plan->n_rois; r++) {
        if (!(present >> (r % 64) & 1))
            continue;
        const uint8_t *bits = plan->rois + r * plan->bit_stride;
        uint64_t s = 0;
        for (size_t i = 0; i < n; i++)
            s += values[i] & -(uint32_t)bit_at(bits, first + i);
        sums->rois[r] += (int64_t)s;
    }
}

static void add_bins(const Plan *plan, const uint32_t *values, size_t first, size_t n, FrameSums *sums)
{
    const uint16_t *bins = plan->bins + first;
    for (size_t i = 0; i < n; i++)
        if (values[i] && bins[i] != NO_BIN)
            sums->bins[bins[i]] += values[i];
}

void tile_add_valid_values(const Plan *plan, const uint32_t *values, size_t first, size_t n, FrameSums *sums)
{
    if (plan->moments)
        add_moments(plan, values, first, n, sums);
    else
        add_total(values, n, sums);
    if (plan->bins)
        add_bins(plan, values, first, n, sums);
    if (plan->n_rois)
        add_rois(plan, values, first, n, sums);
}

void tile_add_values(const Plan *plan, uint32_t *values, size_t first, size_t n, FrameSums *sums)
{
    int64_t largest = apply_validity(plan, values, first, n, sums);
    if (largest > sums->maximum)
        sums->maximum = largest;
    if (largest > 0)
        tile_add_valid_values(plan, values, first, n, sums);
}

void tile_add_pixels(const Plan *plan, uint32_t *values, size_t first, size_t n, FrameSums *sums)
{
    if (apply_validity(plan, values, first, n, sums) <= 0)
        return;
    for (size_t i = 0; i < n; i++)
        if (values[i])
            pixel_add(sums->pixels, first + i, values[i]);
}
