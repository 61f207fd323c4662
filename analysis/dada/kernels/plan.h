/* What every part of the kernels shares: the plan of a scan, the sums of a frame, the status codes.
 *
 * A plan is built once per scan and never written afterwards, so any number of threads may use it. All bit arrays
 * have one bit per pixel in row-major order, pixel p at bit (p mod 8) of byte (p div 8): the order in which
 * bitshuffle stores a bit plane, so that a plane and a mask meet byte by byte. */
#ifndef DADA_PLAN_H
#define DADA_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

__extension__ typedef unsigned __int128 u128;

/* Pixels per tile: what is reduced at once, small enough that all its tables stay in the first-level cache. */
#define TILE 4096
/* Bytes that may be read (never used) behind every bit array and decode buffer, so that loops need no tail. */
#define SLACK 128
/* In Plan.bins: this pixel belongs to no bin. */
#define NO_BIN 65535

enum status {
    STATUS_OK = 0,
    STATUS_EMPTY = 1,        /* no bytes: the frame was never written */
    STATUS_TRUNCATED = 2,    /* the chunk ends before its frame does */
    STATUS_SIZE = 3,         /* the chunk says it holds another number of bytes than the frame has */
    STATUS_BLOCK_SIZE = 4,   /* a block size that cannot be */
    STATUS_BLOCK = 5,        /* a block that does not decode to its length */
    STATUS_CODEC = 6,        /* a codec these kernels do not decode */
    STATUS_OVERFLOW = 7,     /* a sum that does not fit into 64 bits */
    STATUS_MEMORY = 8,       /* no memory for a decode buffer */
};

enum codec { CODEC_NONE = 0, CODEC_LZ4 = 1, CODEC_BITSHUFFLE_LZ4 = 2, CODEC_OTHER = 3 };

typedef struct {
    size_t n_rows, n_columns, n_pixels;
    unsigned element;          /* bytes of one pixel: 1, 2 or 4 */
    uint32_t cut;              /* a value >= cut is invalid */
    uint32_t threshold;        /* a valid value below it counts as 0 */
    bool moments;
    size_t n_bins, n_rois;
    uint8_t *valid;            /* bits: 1 = not masked */
    uint16_t *bins;            /* bin of each pixel, or NO_BIN; NULL without bins. Masked pixels have NO_BIN */
    uint8_t *rois;             /* n_rois bit arrays of bit_stride bytes, each already ANDed with valid */
    size_t bit_stride;
    uint64_t n_masked;         /* pixels that the mask rules out */
    int64_t *bin_counts;       /* unmasked pixels of each bin */
    int64_t *roi_counts;       /* unmasked pixels of each ROI */
    uint64_t *tile_rois;       /* per tile of TILE pixels: bit r set where ROI r (mod 64) has a pixel in it */

    /* Bins refined until no ROI cuts one, so that one addition per count serves bins and ROIs. NULL without bins.
     * `cells_hold_rois` is false where that would take too many cells; then a cell is a bin. */
    uint16_t *cells;           /* cell of each pixel; n_cells where it is in no bin and no ROI */
    size_t n_cells;
    bool cells_hold_rois;
    uint16_t *cell_bin;        /* bin of each cell, or NO_BIN */
    uint64_t *cell_rois;       /* ROIs of each cell, as bits */

    int cut_bit;               /* highest set bit of `cut`, -1 where cut is 0 */
    size_t tile;               /* pixels to reduce at once: TILE, or less so that a tile has few rows */
    int32_t middle;            /* column about which tiles are summed, to keep numbers small */
} Plan;

/* Values of a dense tile, kept until the other frames of the batch have reached the same tile: then one pass over the
 * tile's cells serves LANES frames, each in its lane of a vector. */
#define LANES 8
typedef struct {
    size_t first, n;
    uint8_t filled;            /* bit l: lane l holds values; the others are ignored */
    uint32_t *counts;          /* [cell][lane] */
    struct FrameSums *sums[LANES];
    uint16_t values[LANES][TILE + 64];
} Pending;

/* Sums of each pixel over frames, n_pixels of each; pixels that are masked stay 0. */
typedef struct {
    uint64_t *sum, *squares;   /* of I and I^2 */
    uint64_t *squares_high;    /* what squares has lost modulo 2^64 */
    uint32_t *maximum;
    uint32_t *dropped;         /* frames in which its value was >= cut */
} PixelSums;

typedef struct FrameSums {
    u128 sum, sum_y, sum_x, sum_yy, sum_xx, sum_xy;
    uint64_t n_value_invalid;  /* unmasked pixels with value >= cut */
    int64_t maximum;           /* -1 while there was no valid pixel */
    int64_t *bins, *bin_counts, *rois, *roi_counts;
    uint32_t *cells;           /* n_cells + 1; emptied into bins and rois by sums_fold */
    uint64_t cells_total;      /* at most this many counts are in one cell */
    Pending *pending;          /* two of them, for even and odd tiles; NULL where frames are not reduced together */
    unsigned lane;
    uint32_t *lane_cells;      /* [cell][lane], shared by the frames of a group */
    PixelSums *pixels;         /* where not NULL, frames are added pixel by pixel and nothing else is summed */
    int status;
} FrameSums;

/* One stretch of pixels, decoded but not necessarily unshuffled. */
typedef struct {
    const uint8_t *data;       /* SLACK readable bytes behind it */
    bool planes;               /* bit planes (plane k at data + k * n / 8), else little-endian values */
    size_t first, n;           /* pixels first .. first + n; with planes, both are multiples of 8 */
} Block;

/* What one set of machine instructions can do; chosen once per process. */
typedef struct {
    const char *name;
    /* Add `n` (<= TILE) pixels from `first` on, whose bit planes lie `stride` bytes apart, to the sums. */
    void (*add_planes)(const Plan *plan, const uint8_t *planes, size_t stride, size_t first, size_t n,
                       FrameSums *sums);
    /* The same for 32-bit values, which are overwritten. */
    void (*add_values)(const Plan *plan, uint32_t *values, size_t first, size_t n, FrameSums *sums);
    /* Decode one LZ4 block as lz4_decode.h says, with its margins; NULL to use liblz4. */
    bool (*lz4_decode)(const uint8_t *in, size_t n_in, uint8_t *out, size_t n_out);
    /* Add pending values to their cells and leave nothing pending. */
    void (*add_pending)(const Plan *plan, Pending *pending);
    /* As add_planes, pixel by pixel into sums->pixels. */
    void (*add_pixels)(const Plan *plan, const uint8_t *planes, size_t stride, size_t first, size_t n,
                       FrameSums *sums);
} Kernel;

extern const Kernel kernel_portable;
#ifdef DADA_X86
extern const Kernel kernel_avx2;
extern const Kernel kernel_avx512;
#endif

/* Add what is in the cells to bins and ROIs, and empty the cells. */
void sums_fold(const Plan *plan, FrameSums *sums);

/* The kernel that this machine runs best, or the one that DADA_KERNEL names; NULL for a name it cannot run. */
const Kernel *kernel_choose(const char *name);

/* Add a block of any size. */
void add_block(const Kernel *kernel, const Plan *plan, const Block *block, FrameSums *sums);

#endif
