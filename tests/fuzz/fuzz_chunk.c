/* Feeds hostile chunks to the decoder and to every kernel that this machine can run, under sanitizers.
 *
 * For each input: nothing may touch memory that is not its own; all kernels must give the same status and the same sums;
 * a frame that decodes must have the sums that its decoded pixels have.
 *
 * With clang this is a libFuzzer target (-fsanitize=fuzzer). Without, -DSTANDALONE adds a main that makes valid chunks,
 * damages them and runs for a number of seconds: fuzz_chunk SECONDS [SEED]. See README.md here. */
#include <lz4.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "batch.h"
#include "plan_build.h"

#define N_BINS 20
#define N_ROIS 3
#define MAX_PIXELS 20000

typedef struct {
    int status;
    u128 sums[6];
    uint64_t n_value_invalid;
    int64_t maximum, bins[N_BINS], bin_counts[N_BINS], rois[N_ROIS], roi_counts[N_ROIS];
} Outcome;

static uint64_t state = 88172645463325252ULL;

static uint64_t next_random(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static void fail(const char *what)
{
    fprintf(stderr, "fuzz_chunk: %s\n", what);
    abort();
}

/* A plan whose shape, type and cut follow from `kind`; tables are fixed patterns. */
static void make_plan(Plan *plan, uint8_t kind)
{
    static const size_t columns[] = {1, 7, 97, 1030, 2070, 300, 64, 9000};
    static const unsigned elements[] = {1, 2, 4};
    uint8_t valid[MAX_PIXELS / 8 + 1], rois[N_ROIS * (MAX_PIXELS / 8 + 1)];
    static uint16_t bins[MAX_PIXELS];
    memset(plan, 0, sizeof *plan);
    plan->n_columns = columns[kind % 8];
    plan->n_rows = 18500 / plan->n_columns > 60 ? 60 : 18500 / plan->n_columns;
    plan->n_pixels = plan->n_rows * plan->n_columns;
    plan->element = elements[kind / 8 % 3];
    plan->cut = kind & 64 ? 9 : (uint32_t)((1ULL << (8 * plan->element)) - 2);
    plan->threshold = kind / 24 % 2 ? 3 : 0;
    plan->moments = !(kind & 128);
    plan->n_bins = N_BINS;
    plan->n_rois = N_ROIS;
    size_t n_bytes = (plan->n_pixels + 7) / 8;
    for (size_t i = 0; i < n_bytes; i++)
        valid[i] = (uint8_t)(i % 13 == 5 ? 0 : i % 3 == 0 ? 0xF7 : 0xFF);
    if (plan->n_pixels % 8)
        valid[n_bytes - 1] &= (uint8_t)((1U << (plan->n_pixels % 8)) - 1);
    for (size_t i = 0; i < n_bytes * N_ROIS; i++)
        rois[i] = (uint8_t)(i * 37);
    for (size_t r = 0; plan->n_pixels % 8 && r < N_ROIS; r++)
        rois[(r + 1) * n_bytes - 1] &= (uint8_t)((1U << (plan->n_pixels % 8)) - 1);
    for (size_t p = 0; p < plan->n_pixels; p++)
        bins[p] = (uint16_t)(p / 5 % (N_BINS + 3));
    if (!plan_build(plan, valid, bins, rois))
        fail("no memory for a plan");
}

/* The chunk twice and a copy of it in one batch, so that frames are reduced together. */
static void reduce(const Plan *plan, const Kernel *kernel, const Chunk *chunk, Outcome *outcome)
{
    Chunk batch[3] = {*chunk, *chunk, *chunk};
    FrameSums sums[3];
    static Outcome tables[3];
    uint32_t *cells = calloc(3 * (plan->n_cells + 1), sizeof *cells);
    uint32_t *lanes = calloc(LANES * (plan->n_cells + 1), sizeof *lanes);
    Pending *pending = calloc(2, sizeof *pending);
    if (!cells || !lanes || !pending)
        fail("no memory");
    for (unsigned i = 0; i < 3; i++) {
        memset(&tables[i], 0, sizeof tables[i]);
        memcpy(tables[i].bin_counts, plan->bin_counts, sizeof tables[i].bin_counts);
        memcpy(tables[i].roi_counts, plan->roi_counts, sizeof tables[i].roi_counts);
        sums[i] = (FrameSums){.maximum = -1, .bins = tables[i].bins, .bin_counts = tables[i].bin_counts,
                              .rois = tables[i].rois, .roi_counts = tables[i].roi_counts, .lane = i,
                              .cells = cells + i * (plan->n_cells + 1), .lane_cells = lanes, .pending = pending};
    }
    if (reduce_batch(kernel, plan, batch, 3, sums))
        fail("reduce_batch failed");
    for (unsigned i = 0; i < 3; i++) {
        sums_fold(plan, &sums[i]);
        const u128 found[6] = {sums[i].sum, sums[i].sum_y, sums[i].sum_x, sums[i].sum_yy, sums[i].sum_xx, sums[i].sum_xy};
        tables[i].status = sums[i].status;
        memcpy(tables[i].sums, found, sizeof found);
        tables[i].n_value_invalid = sums[i].n_value_invalid;
        tables[i].maximum = sums[i].maximum;
        if (i && tables[i].status == STATUS_OK && memcmp(&tables[0], &tables[i], sizeof tables[0]))
            fail("the same chunk gave two results");
    }
    *outcome = tables[0];
    free(cells);
    free(lanes);
    free(pending);
}

/* The sums of decoded pixels, in the plainest way. */
static void reduce_pixels(const Plan *plan, const uint8_t *pixels, Outcome *outcome)
{
    memset(outcome, 0, sizeof *outcome);
    outcome->maximum = -1;
    for (size_t p = 0; p < plan->n_pixels; p++) {
        uint64_t v = 0, y = p / plan->n_columns, x = p % plan->n_columns;
        memcpy(&v, pixels + p * plan->element, plan->element);
        if (!(plan->valid[p / 8] >> (p % 8) & 1))
            continue;
        if (v >= plan->cut) {
            outcome->n_value_invalid++;
            continue;
        }
        if (v < plan->threshold)
            v = 0;
        const u128 weights[6] = {1, y, x, (u128)y * y, (u128)x * x, (u128)x * y};
        for (unsigned k = 0; k < (plan->moments ? 6 : 1); k++)
            outcome->sums[k] += v * weights[k];
        if ((int64_t)v > outcome->maximum)
            outcome->maximum = (int64_t)v;
        if (plan->bins[p] != NO_BIN) {
            outcome->bins[plan->bins[p]] += (int64_t)v;
            outcome->bin_counts[plan->bins[p]]++;
        }
        for (unsigned r = 0; r < N_ROIS; r++) {
            unsigned inside = plan->rois[r * plan->bit_stride + p / 8] >> (p % 8) & 1;
            outcome->rois[r] += inside ? (int64_t)v : 0;
            outcome->roi_counts[r] += inside;
        }
    }
}

/* A sound chunk twice, pixel by pixel, against its decoded pixels. */
static void check_pixels(const Plan *plan, const Kernel *kernel, const Chunk *chunk, const uint8_t *decoded)
{
    size_t n = plan->n_pixels;
    uint64_t *wide = calloc(n, 3 * sizeof *wide);
    uint32_t *narrow = calloc(n, 2 * sizeof *narrow);
    if (!wide || !narrow)
        fail("no memory");
    PixelSums pixels = {wide, wide + n, wide + 2 * n, narrow, narrow + n};
    FrameSums sums[2] = {{.pixels = &pixels}, {.pixels = &pixels}};
    Chunk batch[2] = {*chunk, *chunk};
    if (reduce_batch(kernel, plan, batch, 2, sums))
        fail("reduce_batch failed");
    if (sums[0].status || sums[1].status)
        fail("a chunk that was walked through could not be added");
    for (size_t p = 0; p < n; p++) {
        uint64_t v = 0;
        memcpy(&v, decoded + p * plan->element, plan->element);
        bool valid = plan->valid[p / 8] >> (p % 8) & 1, dropped = valid && v >= plan->cut;
        v = valid && !dropped && v >= plan->threshold ? v : 0;
        u128 squares = (u128)wide[2 * n + p] << 64 | wide[n + p];
        if (wide[p] != 2 * v || squares != (u128)v * v * 2 || narrow[p] != v || narrow[n + p] != 2U * dropped)
            fail("wrong sums of pixels");
    }
    free(wide);
    free(narrow);
}

static void check_chunk(const Plan *plan, const Chunk *chunk)
{
    static const char *names[] = {"portable", "avx2", "avx512"};
    uint8_t *pixels = malloc(plan->n_pixels * plan->element);
    Outcome expected, found;
    int status = decode_frame(chunk, plan->n_pixels, plan->element, pixels);
    if (status == STATUS_OK)
        reduce_pixels(plan, pixels, &expected);
    for (unsigned k = 0; k < 3; k++) {
        const Kernel *kernel = kernel_choose(names[k]);
        if (!kernel)
            continue;
        reduce(plan, kernel, chunk, &found);
        /* liblz4 lets some damaged blocks pass that our decoder refuses, never the other way round */
        bool lenient = status == STATUS_BLOCK && found.status == STATUS_OK && !kernel->lz4_decode;
        if (found.status != status && !lenient)
            fail("decoding and reducing disagree about a chunk");
        if (status == STATUS_OK && memcmp(&found, &expected, sizeof found))
            fail("wrong sums");
        if (status == STATUS_OK && walk_chunk(kernel, chunk, plan->n_pixels, plan->element) == STATUS_OK)
            check_pixels(plan, kernel, chunk, pixels);
    }
    free(pixels);
}

/* The first two bytes choose plan and codec, the rest is the chunk. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static Plan plans[256];
    static bool made[256];
    if (size < 2)
        return 0;
    if (!made[data[0]])
        make_plan(&plans[data[0]], data[0]);
    made[data[0]] = true;
    /* a copy of just this size, so that reading beyond it is noticed */
    uint8_t *bytes = malloc(size - 1);
    memcpy(bytes, data + 2, size - 2);
    Chunk chunk = {bytes, size - 2, (enum codec)(data[1] % 4)};
    check_chunk(&plans[data[0]], &chunk);
    free(bytes);
    return 0;
}

#ifdef STANDALONE
static void put_big_endian(uint8_t *to, uint64_t value, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        to[i] = (uint8_t)(value >> (8 * (n - 1 - i)));
}

static void shuffle(const uint8_t *pixels, size_t n, unsigned element, uint8_t *planes)
{
    memset(planes, 0, n * element);
    for (size_t p = 0; p < n; p++)
        for (unsigned k = 0; k < 8 * element; k++)
            if (pixels[p * element + k / 8] >> (k % 8) & 1)
                planes[k * (n / 8) + p / 8] |= (uint8_t)(1U << (p % 8));
}

static void random_pixels(uint8_t *pixels, size_t n, unsigned element)
{
    unsigned bits = (unsigned)(next_random() % (8 * element)) + 1, rare = (unsigned)(next_random() % 60);
    memset(pixels, 0, n * element);
    for (size_t p = 0; p < n; p++) {
        uint64_t value = next_random() % 64 < rare ? 0 : next_random() >> (64 - bits);
        if (next_random() % 50 == 0)
            value = ~0ULL;
        memcpy(pixels + p * element, &value, element);
    }
}

/* A sound input for the plan and codec of its first two bytes; returns its size. */
static size_t sound_input(uint8_t *input)
{
    static uint8_t pixels[MAX_PIXELS * 4], planes[MAX_PIXELS * 4];
    Plan plan;
    input[0] = (uint8_t)next_random();
    input[1] = (uint8_t)(next_random() % 3);
    make_plan(&plan, input[0]);
    size_t n = plan.n_pixels, e = plan.element;
    plan_free(&plan);
    random_pixels(pixels, n, (unsigned)e);
    if (input[1] == CODEC_NONE) {
        memcpy(input + 2, pixels, n * e);
        return 2 + n * e;
    }
    bool shuffled = input[1] == CODEC_BITSHUFFLE_LZ4;
    size_t block = 8 * (1 + next_random() % (next_random() % 3 ? 1100 : 9000)) * 8 / e, end = shuffled ? n - n % 8 : n;
    block = block / 8 * 8 ? block / 8 * 8 : 8;
    put_big_endian(input + 2, n * e, 8);
    put_big_endian(input + 10, block * e, 4);
    uint8_t *at = input + 14;
    for (size_t first = 0; first < end; first += block) {
        size_t count = end - first < block ? end - first : block;
        const uint8_t *from = pixels + first * e;
        if (shuffled) {
            shuffle(from, count, (unsigned)e, planes);
            from = planes;
        }
        int size = LZ4_compress_default((const char *)from, (char *)at + 4, (int)(count * e), MAX_PIXELS * 5);
        if (!shuffled && (size_t)size >= count * e) {
            size = (int)(count * e);
            memcpy(at + 4, from, count * e);
        }
        put_big_endian(at, (uint64_t)size, 4);
        at += 4 + size;
    }
    memcpy(at, pixels + end * e, (n - end) * e);
    return (size_t)(at - input) + (n - end) * e;
}

static size_t damage(uint8_t *input, size_t size)
{
    switch (next_random() % 6) {
    case 0:
        return size; /* sound: must be reduced rightly */
    case 1:
        return 2 + next_random() % (size - 1);
    case 2:
        input[2 + next_random() % 20] = (uint8_t)next_random();
        return size;
    default:
        for (uint64_t i = next_random() % 6 + 1; i; i--)
            input[14 + next_random() % (size > 15 ? size - 14 : 1)] = (uint8_t)(next_random() >> next_random() % 8);
        return size;
    }
}

int main(int argc, char **argv)
{
    static uint8_t input[MAX_PIXELS * 12];
    double seconds = argc > 1 ? atof(argv[1]) : 5;
    if (argc > 2)
        state ^= strtoull(argv[2], NULL, 10) * 0x9E3779B97F4A7C15ULL;
    unsigned long runs = 0;
    time_t end = time(NULL) + (time_t)seconds;
    for (; runs < 50 || time(NULL) < end; runs++)
        LLVMFuzzerTestOneInput(input, damage(input, sound_input(input)));
    printf("%lu chunks\n", runs);
    return 0;
}
#endif
