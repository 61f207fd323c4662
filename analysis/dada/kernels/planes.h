/* The reduction of a tile on its bit planes: one algorithm, included once per instruction set.
 *
 * Whoever includes this defines before it, for arrays of `words` 64-bit words (pixel p at bit p mod 64 of word p / 64):
 *
 *   bool plane_meets(plane, valid, words)                 whether any bit of plane AND valid is set
 *   uint64_t plane_and(plane, valid, words, out, used)    out = plane AND valid; returns how many bits are set, and in
 *                                                         *used which words are not 0
 *   size_t list_positions(bits, used, list, times)        append the positions of the set bits, each `times` times
 *   void list_moments(list, n, rows, sums)                LocalSums of a list of positions
 *   void planes_to_values(planes, stride, valid, n, top, values)   16-bit values of all pixels, 0 where not valid
 *   void value_moments(values, n, rows, sums)             LocalSums of n values
 *   void add_lanes(cells, values, n, counts)              counts[cells[i]][l] += values[l][i] for all lanes l
 *   int64_t keep_valid(values, valid, n, out)             out = valid values as 16 bits, others 0; returns the largest valid
 *                                                         one (also where it needs more bits), -1 without any
 *   uint64_t value_common(values, mask, n)                sum of the values whose bit in mask is set
 *   uint64_t plane_common(bits, mask, words)              how many bits of bits AND mask are set
 *
 * A sparse tile becomes one list of positions, a pixel with value v in it v times; what follows are straight loops over
 * that list. A dense tile becomes values. Planes above the highest count of a valid pixel are never looked at twice:
 * ANDed with the valid pixels they are empty, however many invalid pixels set them all. */
#include <string.h>

#include "plan.h"
#include "tile.h"

#define WORDS (TILE / 64)
#define MAX_STARTS 9           /* row starts in a tile */
#define MAX_COLUMNS 8190       /* beyond, 32-bit partial sums could overflow: the plain way is taken */
#define LIST_PLANES 3          /* planes whose bits go into the list, 1, 2 and 4 times */
#define MAX_LIST 1536          /* positions in a list; more is dense */
#define MAX_HEAVY 128          /* bits in higher planes, added one by one; more is dense */
#define VALUE_PLANES 12        /* planes of the values of a dense tile; more is added the plain way */

/* Where rows begin in a tile. */
typedef struct {
    uint64_t y;                /* row of the first pixel */
    int32_t x;                 /* its column, from plan->middle */
    int32_t columns;
    unsigned n_starts;
    uint16_t starts[MAX_STARTS + 1];
} Rows;

/* Sums about row Rows.y and column plan->middle. */
typedef struct {
    int64_t n, y, x, yy, xx, xy;
} LocalSums;

typedef struct {
    const Plan *plan;
    const uint8_t *planes;
    size_t stride, first, n, words;
    uint64_t valid[WORDS + 8];
    int top;
    Rows rows;
    FrameSums *sums;
} Tile;

static bool plane_meets(const uint8_t *plane, const uint64_t *valid, size_t words);
static uint64_t plane_and(const uint8_t *plane, const uint64_t *valid, size_t words, uint64_t *out, uint64_t *used);
static size_t list_positions(const uint64_t *bits, uint64_t used, uint16_t *list, unsigned times);
static void list_moments(const uint16_t *list, size_t n, const Rows *rows, LocalSums *sums);
static void planes_to_values(const uint8_t *planes, size_t stride, const uint64_t *valid, size_t n, int top,
                             uint16_t *values);
static void value_moments(const uint16_t *values, size_t n, const Rows *rows, LocalSums *sums);
static uint64_t plane_common(const uint64_t *bits, const uint8_t *mask, size_t words);
static int64_t keep_valid(const uint32_t *values, const uint64_t *valid, size_t n, uint16_t *out);
static uint64_t value_common(const uint16_t *values, const uint8_t *mask, size_t n);
static void add_lanes(const uint16_t *cells, uint16_t (*values)[TILE + 64], size_t n, uint32_t *counts);

static const uint8_t *plane(const Tile *tile, int k)
{
    return tile->planes + (size_t)k * tile->stride;
}

/* The tile's valid bits, 0 behind its end. Returns whether there are any. */
static bool load_valid(Tile *tile)
{
    memcpy(tile->valid, tile->plan->valid + tile->first / 8, tile->words * 8);
    if (tile->n % 64)
        tile->valid[tile->words - 1] &= (1ULL << (tile->n % 64)) - 1;
    uint64_t any = 0;
    for (size_t w = 0; w < tile->words; w++)
        any |= tile->valid[w];
    for (size_t w = tile->words; w % 8; w++)
        tile->valid[w] = 0;
    return any != 0;
}

static int highest_plane(const Tile *tile, int from)
{
    int k = from;
    while (k >= 0 && !plane_meets(plane(tile, k), tile->valid, tile->words))
        k--;
    return k;
}

/* Valid bits of one word of the tile whose value is >= limit, compared bit by bit from the highest plane in use. */
static uint64_t at_least(const Tile *tile, size_t w, uint32_t limit)
{
    uint64_t equal = tile->valid[w], larger = 0;
    for (int k = tile->top; k >= 0; k--) {
        uint64_t bits;
        memcpy(&bits, plane(tile, k) + 8 * w, 8);
        if (limit >> k & 1) {
            equal &= bits;
        } else {
            larger |= equal & bits;
            equal &= ~bits;
        }
    }
    return larger | equal;
}

/* Words in which some valid pixel has a bit set that a value >= cut needs. */
static uint64_t suspect_words(const Tile *tile)
{
    uint64_t bits[WORDS + 8], used, suspect = 0;
    for (int k = tile->top; k >= tile->plan->cut_bit && k >= 0; k--) {
        plane_and(plane(tile, k), tile->valid, tile->words, bits, &used);
        suspect |= used;
    }
    return tile->plan->cut_bit < 0 ? ~0ULL : suspect;
}

/* Take pixels with values >= cut out of the valid ones. */
static void drop_invalid(Tile *tile)
{
    uint64_t suspect = suspect_words(tile);
    for (size_t w = 0; w < tile->words; w++) {
        if (!(suspect >> w & 1))
            continue;
        uint64_t bad = at_least(tile, w, tile->plan->cut);
        tile->valid[w] &= ~bad;
        for (; bad; bad &= bad - 1)
            tile_drop_pixel(tile->plan, tile->first + 64 * w + (size_t)__builtin_ctzll(bad), tile->sums);
    }
}

/* Take pixels with values below the threshold out of the tile: they are valid and count as 0. */
static void drop_small(Tile *tile)
{
    uint32_t threshold = tile->plan->threshold;
    bool none = tile->top < 31 && threshold >> (tile->top + 1);
    for (size_t w = 0; w < tile->words; w++)
        tile->valid[w] = none ? 0 : at_least(tile, w, threshold);
    tile->top = highest_plane(tile, none ? -1 : tile->top);
}

static bool any_valid(const Tile *tile)
{
    uint64_t any = 0;
    for (size_t w = 0; w < tile->words; w++)
        any |= tile->valid[w];
    return any != 0;
}

/* The largest value: from the top, keep the pixels that have the bit set where some do. */
static void find_maximum(const Tile *tile)
{
    uint64_t left[WORDS + 8], next[WORDS + 8], used;
    int64_t largest = 0;
    memcpy(left, tile->valid, sizeof left);
    for (int k = tile->top; k >= 0; k--) {
        if (!plane_and(plane(tile, k), left, tile->words, next, &used))
            continue;
        memcpy(left, next, sizeof left);
        largest |= 1LL << k;
    }
    if (largest > tile->sums->maximum)
        tile->sums->maximum = largest;
}

/* Without moments all pixels count as one row. */
static void find_rows(Tile *tile)
{
    const Plan *plan = tile->plan;
    if (!plan->moments)
        return;
    size_t x = tile->first % plan->n_columns;
    tile->rows = (Rows){.y = tile->first / plan->n_columns, .x = (int32_t)x - plan->middle,
                        .columns = (int32_t)plan->n_columns};
    for (size_t start = plan->n_columns - x; start < tile->n; start += plan->n_columns)
        tile->rows.starts[tile->rows.n_starts++] = (uint16_t)start;
}

/* Move sums from (row y, middle column) to (0, 0) and add them `times` times. */
static void add_local(const Tile *tile, const LocalSums *local, unsigned shift)
{
    __extension__ typedef __int128 i128;
    i128 y0 = (i128)tile->rows.y, x0 = tile->plan->middle, n = local->n;
    i128 x = x0 * n + local->x, y = y0 * n + local->y;
    FrameSums *sums = tile->sums;
    sums->sum += (u128)n << shift;
    sums->sum_y += (u128)y << shift;
    sums->sum_x += (u128)x << shift;
    sums->sum_yy += (u128)(y0 * (y + local->y) + local->yy) << shift;
    sums->sum_xx += (u128)(x0 * (x + local->x) + local->xx) << shift;
    sums->sum_xy += (u128)(y0 * x + x0 * local->y + local->xy) << shift;
}

/* A pixel with a bit in a plane too high for the list. */
static void add_heavy_pixel(const Tile *tile, size_t p, unsigned k, LocalSums *local)
{
    if (tile->plan->cells)
        tile->sums->cells[tile->plan->cells[tile->first + p]] += 1U << k;
    int64_t x = tile->rows.x + (int64_t)p, y = 0;
    for (unsigned s = 0; s < tile->rows.n_starts && tile->rows.starts[s] <= p; s++) {
        x -= tile->rows.columns;
        y++;
    }
    local->n++;
    local->y += y;
    local->x += x;
    local->yy += y * y;
    local->xx += x * x;
    local->xy += x * y;
}

static void add_heavy_plane(const Tile *tile, unsigned k)
{
    uint64_t bits[WORDS + 8], used;
    LocalSums local = {0};
    plane_and(plane(tile, (int)k), tile->valid, tile->words, bits, &used);
    for (; used; used &= used - 1) {
        size_t w = (size_t)__builtin_ctzll(used);
        for (uint64_t word = bits[w]; word; word &= word - 1)
            add_heavy_pixel(tile, 64 * w + (size_t)__builtin_ctzll(word), k, &local);
    }
    if (tile->plan->moments)
        add_local(tile, &local, k);
    else
        tile->sums->sum += (u128)local.n << k;
}

static void add_list(const Tile *tile, const uint16_t *list, size_t n)
{
    if (tile->plan->moments) {
        LocalSums local = {.n = (int64_t)n};
        list_moments(list, n, &tile->rows, &local);
        add_local(tile, &local, 0);
    } else {
        tile->sums->sum += n;
    }
    if (tile->plan->cells) {
        const uint16_t *cells = tile->plan->cells + tile->first;
        uint32_t *counts = tile->sums->cells;
        for (size_t i = 0; i < n; i++)
            counts[cells[list[i]]]++;
    }
}

/* Four places of the tile in turn, because neighbours are often in one cell and would wait for each other. */
static void add_values_to_cells(const uint16_t *cells, const uint16_t *values, size_t n, uint32_t *counts)
{
    size_t quarter = n / 4;
    for (size_t i = 0; i < quarter; i++) {
        counts[cells[i]] += values[i];
        counts[cells[i + quarter]] += values[i + quarter];
        counts[cells[i + 2 * quarter]] += values[i + 2 * quarter];
        counts[cells[i + 3 * quarter]] += values[i + 3 * quarter];
    }
    for (size_t i = 4 * quarter; i < n; i++)
        counts[cells[i]] += values[i];
}

/* Fewer frames than this are added one by one. */
#define FEW_LANES 3

static void add_pending(const Plan *plan, Pending *pending)
{
    const uint16_t *cells = plan->cells + pending->first;
    bool few = __builtin_popcount(pending->filled) < FEW_LANES;
    for (unsigned l = 0; l < LANES && pending->filled; l++) {
        bool filled = pending->filled >> l & 1;
        if (filled && few)
            add_values_to_cells(cells, pending->values[l], pending->n, pending->sums[l]->cells);
        else if (!filled && !few)
            memset(pending->values[l], 0, pending->n * sizeof(uint16_t));
    }
    if (pending->filled && !few)
        add_lanes(cells, pending->values, pending->n, pending->counts);
    pending->filled = 0;
}

/* Where the values of a dense tile go: into the frame's lane, once what was pending there is added. */
static uint16_t *pending_values(const Tile *tile)
{
    FrameSums *sums = tile->sums;
    Pending *pending = &sums->pending[tile->first / tile->plan->tile % 2];
    bool same = pending->first == tile->first && pending->n == tile->n && pending->counts == sums->lane_cells;
    if (pending->filled && (!same || pending->filled >> sums->lane & 1))
        add_pending(tile->plan, pending);
    pending->first = tile->first;
    pending->n = tile->n;
    pending->counts = sums->lane_cells;
    pending->filled |= (uint8_t)(1U << sums->lane);
    pending->sums[sums->lane] = sums;
    return pending->values[sums->lane];
}

/* Sum and moments of the tile's values; returns the sum. */
static uint64_t add_value_moments(const Tile *tile, const uint16_t *values)
{
    LocalSums local = {0};
    value_moments(values, tile->n, &tile->rows, &local);
    if (tile->plan->moments)
        add_local(tile, &local, 0);
    else
        tile->sums->sum += (u128)local.n;
    return (uint64_t)local.n;
}

static void add_dense(const Tile *tile)
{
    uint16_t own[TILE + 64];
    bool together = tile->plan->cells && tile->sums->pending;
    uint16_t *values = together ? pending_values(tile) : own;
    planes_to_values(tile->planes, tile->stride, tile->valid, tile->n, tile->top, values);
    add_value_moments(tile, values);
    if (tile->plan->cells && !together)
        add_values_to_cells(tile->plan->cells + tile->first, values, tile->n, tile->sums->cells);
}

/* Everything value by value, for tiles that fit neither way. Invalid values were dropped already. */
static void add_plainly(const Tile *tile)
{
    uint32_t values[TILE];
    unshuffle(tile->planes, tile->stride, tile->n, tile->plan->element, values);
    for (size_t i = 0; i < tile->n; i++)
        values[i] &= -(uint32_t)(tile->valid[i / 64] >> (i % 64) & 1);
    tile_add_valid_values(tile->plan, values, tile->first, tile->n, tile->sums);
}

/* Counts in the 32-bit cells stay below this, with room for what is still pending. */
#define MAX_CELL_COUNTS (1ULL << 31)

static void reserve_cells(const Tile *tile, uint64_t counts)
{
    if (tile->sums->cells_total + counts > MAX_CELL_COUNTS)
        sums_fold(tile->plan, tile->sums);
    tile->sums->cells_total += counts;
}

/* ROIs by counting common bits, where cells do not hold them. */
static void add_rois(const Tile *tile)
{
    const Plan *plan = tile->plan;
    uint64_t present = plan->tile_rois[tile->first / TILE] | plan->tile_rois[(tile->first + tile->n - 1) / TILE];
    for (int k = 0; k <= tile->top; k++) {
        uint64_t bits[WORDS + 8], used;
        if (!plane_and(plane(tile, k), tile->valid, tile->words, bits, &used))
            continue;
        for (size_t r = 0; r < plan->n_rois; r++)
            if (present >> (r % 64) & 1)
                tile->sums->rois[r] += (int64_t)(plane_common(
                    bits, plan->rois + r * plan->bit_stride + tile->first / 8, tile->words) << k);
    }
}

/* Sum, moments and cells of a tile that has counts. */
static void add_counts(Tile *tile)
{
    const Plan *plan = tile->plan;
    uint64_t bits[LIST_PLANES][WORDS + 8], used[LIST_PLANES], ones[32], listed = 0, heavy = 0;
    for (int k = 0; k <= tile->top; k++) {
        uint64_t spare[WORDS + 8], unused;
        bool low = k < LIST_PLANES;
        ones[k] = plane_and(plane(tile, k), tile->valid, tile->words, low ? bits[k] : spare, low ? &used[k] : &unused);
        *(low ? &listed : &heavy) += low ? ones[k] << k : ones[k];
    }
    uint64_t total = 0;
    for (int k = 0; k <= tile->top; k++)
        total += ones[k] << k;
    if (plan->cells && total > MAX_CELL_COUNTS) {
        add_plainly(tile);
        return;
    }
    reserve_cells(tile, total);
    if (!plan->moments && !plan->cells) {
        tile->sums->sum += total;
    } else if (listed <= MAX_LIST && heavy <= MAX_HEAVY) {
        uint16_t list[MAX_LIST + 64];
        size_t n = 0;
        for (int k = 0; k <= tile->top && k < LIST_PLANES; k++)
            n += list_positions(bits[k], used[k], list + n, 1U << k);
        add_list(tile, list, n);
        for (int k = LIST_PLANES; k <= tile->top; k++)
            if (ones[k])
                add_heavy_plane(tile, (unsigned)k);
    } else if (tile->top < VALUE_PLANES) {
        add_dense(tile);
    } else {
        add_plainly(tile);
        return;
    }
    if (plan->n_rois && !plan->cells_hold_rois)
        add_rois(tile);
}

/* Whether the rows of a tile fit into Rows, and its columns into 16 bits. */
static bool few_rows(const Plan *plan, size_t n)
{
    return !plan->moments || (plan->n_columns <= MAX_COLUMNS && n / plan->n_columns < MAX_STARTS);
}

/* Find the valid pixels of a tile and its highest plane in use. Returns whether there are valid pixels. */
static bool load_counts(Tile *tile)
{
    const Plan *plan = tile->plan;
    if (!load_valid(tile))
        return false;
    tile->top = highest_plane(tile, (int)(8 * plan->element) - 1);
    if (tile->top >= plan->cut_bit) {
        drop_invalid(tile);
        if (!any_valid(tile))
            return false;
        tile->top = highest_plane(tile, tile->top);
    }
    if (plan->threshold > 1)
        drop_small(tile);
    return true;
}

static void add_planes(const Plan *plan, const uint8_t *planes, size_t stride, size_t first, size_t n,
                       FrameSums *sums)
{
    Tile tile = {.plan = plan, .planes = planes, .stride = stride, .first = first, .n = n, .words = (n + 63) / 64,
                 .sums = sums};
    if (!load_counts(&tile))
        return;
    if (sums->maximum < 0 || (tile.top >= 0 && sums->maximum < (2LL << tile.top) - 1))
        find_maximum(&tile);
    if (tile.top < 0)
        return;
    if (!few_rows(plan, n)) {
        add_plainly(&tile);
        return;
    }
    find_rows(&tile);
    add_counts(&tile);
}

/* Sums of a tile of 16-bit values. */
static void add_valid_values(const Tile *tile, const uint16_t *values)
{
    const Plan *plan = tile->plan;
    uint64_t total = add_value_moments(tile, values);
    if (plan->cells) {
        reserve_cells(tile, total);
        if (tile->sums->pending)
            memcpy(pending_values(tile), values, tile->n * sizeof *values);
        else
            add_values_to_cells(plan->cells + tile->first, values, tile->n, tile->sums->cells);
    }
    if (!plan->n_rois || plan->cells_hold_rois)
        return;
    uint64_t present = plan->tile_rois[tile->first / TILE] | plan->tile_rois[(tile->first + tile->n - 1) / TILE];
    for (size_t r = 0; r < plan->n_rois; r++)
        if (present >> (r % 64) & 1)
            tile->sums->rois[r] +=
                (int64_t)value_common(values, plan->rois + r * plan->bit_stride + tile->first / 8, tile->n);
}

static void add_values(const Plan *plan, uint32_t *values, size_t first, size_t n, FrameSums *sums)
{
    uint16_t kept[TILE + 64];
    Tile tile = {.plan = plan, .first = first, .n = n, .words = (n + 63) / 64, .sums = sums};
    if (first % 8 == 0 && few_rows(plan, n)) {
        if (!load_valid(&tile))
            return;
        int64_t largest = keep_valid(values, tile.valid, n, kept);
        if (largest < (int64_t)plan->cut && largest < 1 << VALUE_PLANES) {
            if (largest > sums->maximum)
                sums->maximum = largest;
            if (largest > 0) {
                find_rows(&tile);
                add_valid_values(&tile, kept);
            }
            return;
        }
    }
    tile_add_values(plan, values, first, n, sums);
}

/* Add all values of a tile to its pixels: straight loops for the compiler. `n` values below 2^16. */
static void add_dense_pixels(const PixelSums *pixels, const uint16_t *values, size_t first, size_t n)
{
    uint64_t *sum = pixels->sum + first, *squares = pixels->squares + first;
    uint32_t *maximum = pixels->maximum + first;
    for (size_t i = 0; i < n; i++)
        sum[i] += values[i];
    for (size_t i = 0; i < n; i++)
        maximum[i] = values[i] > maximum[i] ? values[i] : maximum[i];
    uint64_t carries = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t square = (uint32_t)values[i] * values[i];
        squares[i] += square;
        carries += squares[i] < square;
    }
    for (size_t i = 0; carries && i < n; i++)
        pixels->squares_high[first + i] += squares[i] < (uint32_t)values[i] * values[i];
}

/* Up to this many pixels with counts, a tile is added pixel by pixel. */
#define FEW_PIXELS 512

static void add_pixel_values(const Tile *tile, const uint16_t *values)
{
    uint64_t bits[WORDS + 8] = {0}, used = 0, spare[WORDS + 8], ones = 0;
    for (int k = 0; k <= tile->top; k++) {
        uint64_t in_use;
        ones += plane_and(plane(tile, k), tile->valid, tile->words, spare, &in_use);
        for (size_t w = 0; w < tile->words; w++)
            bits[w] |= spare[w];
        used |= in_use;
    }
    if (ones > FEW_PIXELS) {
        add_dense_pixels(tile->sums->pixels, values, tile->first, tile->n);
        return;
    }
    uint16_t list[FEW_PIXELS + 64];
    size_t n = list_positions(bits, used, list, 1);
    for (size_t i = 0; i < n; i++)
        pixel_add(tile->sums->pixels, tile->first + list[i], values[list[i]]);
}

static void add_pixels(const Plan *plan, const uint8_t *planes, size_t stride, size_t first, size_t n, FrameSums *sums)
{
    Tile tile = {.plan = plan, .planes = planes, .stride = stride, .first = first, .n = n, .words = (n + 63) / 64,
                 .sums = sums};
    if (!load_counts(&tile) || tile.top < 0)
        return;
    if (tile.top < 16) {
        uint16_t values[TILE + 64];
        planes_to_values(planes, stride, tile.valid, n, tile.top, values);
        add_pixel_values(&tile, values);
        return;
    }
    uint32_t values[TILE];
    unshuffle(planes, stride, n, plan->element, values);
    for (size_t i = 0; i < n; i++)
        if (values[i] && tile.valid[i / 64] >> (i % 64) & 1)
            pixel_add(sums->pixels, first + i, values[i]);
}
