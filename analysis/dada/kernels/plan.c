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

/* ---- cells --------------------------------------------------------------------------------------------------- */

typedef struct {
    Plan *plan;
    size_t limit;
    uint32_t *first;           /* per bin (NO_BIN included): its first cell + 1 */
    uint32_t *next;            /* per cell: the next cell of the same bin + 1 */
} CellTable;

static uint64_t rois_of(const Plan *plan, size_t p)
{
    uint64_t found = 0;
    for (size_t r = 0; r < plan->n_rois; r++)
        found |= (uint64_t)(plan->rois[r * plan->bit_stride + p / 8] >> (p % 8) & 1) << r;
    return found;
}

/* The cell of pixels with this bin and these ROIs, made where there is none yet; `limit` where there are too many. */
static size_t cell_of(CellTable *table, uint16_t bin, uint64_t rois)
{
    Plan *plan = table->plan;
    uint32_t *link = &table->first[bin];
    while (*link) {
        if (plan->cell_rois[*link - 1] == rois)
            return *link - 1;
        link = &table->next[*link - 1];
    }
    if (plan->n_cells == table->limit)
        return table->limit;
    plan->cell_bin[plan->n_cells] = bin;
    plan->cell_rois[plan->n_cells] = rois;
    *link = (uint32_t)++plan->n_cells;
    return plan->n_cells - 1;
}

/* Number the cells; false where they become more than the table's limit. */
static bool number_cells(CellTable *table)
{
    Plan *plan = table->plan;
    for (size_t p = 0; p < plan->n_pixels; p++) {
        bool unmasked = plan->valid[p / 8] >> (p % 8) & 1;
        uint64_t rois = unmasked ? rois_of(plan, p) : 0;
        if (plan->bins[p] == NO_BIN && !rois) {
            plan->cells[p] = NO_BIN;
            continue;
        }
        size_t cell = cell_of(table, plan->bins[p], rois);
        if (cell == table->limit)
            return false;
        plan->cells[p] = (uint16_t)cell;
    }
    for (size_t p = 0; p < plan->n_pixels; p++)
        if (plan->cells[p] == NO_BIN)
            plan->cells[p] = (uint16_t)plan->n_cells;
    return true;
}

static void cells_are_bins(Plan *plan)
{
    plan->n_cells = plan->n_bins;
    for (size_t b = 0; b < plan->n_bins; b++) {
        plan->cell_bin[b] = (uint16_t)b;
        plan->cell_rois[b] = 0;
    }
    for (size_t p = 0; p < plan->n_pixels; p++)
        plan->cells[p] = plan->bins[p] == NO_BIN ? (uint16_t)plan->n_cells : plan->bins[p];
}

/* At most this many cells beyond the number of bins are worth it: their sums must stay in the cache. */
#define EXTRA_CELLS 4096

static bool build_cells(Plan *plan)
{
    size_t most = plan->n_bins + EXTRA_CELLS < NO_BIN ? plan->n_bins + EXTRA_CELLS : NO_BIN;
    CellTable table = {.plan = plan, .limit = most, .first = calloc(NO_BIN + 1, sizeof(uint32_t)),
                       .next = calloc(most, sizeof(uint32_t))};
    plan->cells = copy_with_slack(plan->bins, plan->n_pixels * sizeof *plan->bins);
    plan->cell_bin = calloc(most, sizeof *plan->cell_bin);
    plan->cell_rois = calloc(most, sizeof *plan->cell_rois);
    bool ok = plan->cells && plan->cell_bin && plan->cell_rois && table.first && table.next;
    if (ok) {
        plan->cells_hold_rois = plan->n_rois <= 64 && number_cells(&table);
        if (!plan->cells_hold_rois)
            cells_are_bins(plan);
    }
    free(table.first);
    free(table.next);
    return ok;
}

static void fold_cell(const Plan *plan, size_t c, int64_t count, FrameSums *sums)
{
    if (plan->cell_bin[c] != NO_BIN)
        sums->bins[plan->cell_bin[c]] += count;
    for (uint64_t rois = plan->cell_rois[c]; rois; rois &= rois - 1)
        sums->rois[__builtin_ctzll(rois)] += count;
}

void sums_fold(const Plan *plan, FrameSums *sums)
{
    sums->cells_total = 0;
    if (!plan->cells)
        return;
    for (size_t c = 0; c < plan->n_cells; c++) {
        fold_cell(plan, c, sums->cells[c], sums);
        sums->cells[c] = 0;
        if (sums->lane_cells) {
            fold_cell(plan, c, sums->lane_cells[c * LANES + sums->lane], sums);
            sums->lane_cells[c * LANES + sums->lane] = 0;
        }
    }
}

/* ---- whole plans --------------------------------------------------------------------------------------------- */

/* Tiles have at most this many row starts, see planes.h; a multiple of 64 pixels keeps planes and masks in step. */
#define TILE_ROWS 8

static void build_numbers(Plan *plan)
{
    plan->cut_bit = plan->cut ? 31 - __builtin_clz(plan->cut) : -1;
    plan->middle = (int32_t)(plan->n_columns / 2);
    size_t tile = plan->moments ? TILE_ROWS * plan->n_columns / 64 * 64 : TILE;
    plan->tile = tile < 64 ? 64 : tile > TILE ? TILE : tile;
}

bool plan_build(Plan *plan, const uint8_t *valid, const uint16_t *bins, const uint8_t *rois)
{
    build_numbers(plan);
    plan->valid = copy_with_slack(valid, (plan->n_pixels + 7) / 8);
    if (!plan->valid)
        return false;
    plan->n_masked = plan->n_pixels - count_bits(plan->valid, plan->n_pixels);
    if (bins && !build_bins(plan, bins))
        return false;
    if (plan->n_rois && !build_rois(plan, rois))
        return false;
    return !bins || build_cells(plan);
}

void plan_free(Plan *plan)
{
    free(plan->valid);
    free(plan->bins);
    free(plan->rois);
    free(plan->bin_counts);
    free(plan->roi_counts);
    free(plan->tile_rois);
    free(plan->cells);
    free(plan->cell_bin);
    free(plan->cell_rois);
}
