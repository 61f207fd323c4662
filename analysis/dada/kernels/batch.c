#include "batch.h"

#include <stdlib.h>
#include <string.h>

#include "tile.h"

/* One block of one frame. Returns whether the frame goes on. */
static bool step(const Kernel *kernel, const Plan *plan, ChunkWalk *walk, DecodeBuffer *buffer, FrameSums *sums)
{
    Block block;
    sums->status = chunk_next(walk, buffer, &block);
    if (sums->status || block.n == 0)
        return false;
    add_block(kernel, plan, &block, sums);
    return true;
}

int reduce_batch(const Kernel *kernel, const Plan *plan, const Chunk *chunks, size_t n, FrameSums *sums)
{
    ChunkWalk *walks = calloc(n, sizeof *walks);
    bool *active = calloc(n, sizeof *active);
    DecodeBuffer buffer = {0};
    if (!walks || !active) {
        free(walks);
        free(active);
        return n ? STATUS_MEMORY : STATUS_OK;
    }
    for (size_t i = 0; i < n; i++) {
        sums[i].status = chunk_open(&walks[i], kernel, chunks[i].codec, chunks[i].data, chunks[i].length,
                                    plan->n_pixels, plan->element);
        active[i] = sums[i].status == STATUS_OK;
    }
    for (bool more = true; more;) {
        more = false;
        for (size_t i = 0; i < n; i++)
            if (active[i])
                more |= active[i] = step(kernel, plan, &walks[i], &buffer, &sums[i]);
    }
    for (unsigned i = 0; n && sums[0].pending && i < 2; i++)
        kernel->add_pending(plan, &sums[0].pending[i]);
    for (size_t i = 0; i < n; i++)
        chunk_close(&walks[i]);
    decode_buffer_free(&buffer);
    free(walks);
    free(active);
    return STATUS_OK;
}

int walk_chunk(const Kernel *kernel, const Chunk *chunk, size_t n_pixels, unsigned element)
{
    ChunkWalk walk;
    DecodeBuffer buffer = {0};
    Block block;
    int status = chunk_open(&walk, kernel, chunk->codec, chunk->data, chunk->length, n_pixels, element);
    while (status == STATUS_OK) {
        status = chunk_next(&walk, &buffer, &block);
        if (block.n == 0)
            break;
    }
    chunk_close(&walk);
    decode_buffer_free(&buffer);
    return status;
}

static void write_pixels(const Block *block, unsigned element, uint8_t *pixels)
{
    uint32_t values[TILE];
    for (size_t done = 0; done < block->n; done += TILE) {
        size_t n = block->n - done < TILE ? block->n - done : TILE;
        unshuffle(block->data + done / 8, block->n / 8, n, element, values);
        uint8_t *to = pixels + (block->first + done) * element;
        for (size_t i = 0; i < n; i++)
            for (unsigned byte = 0; byte < element; byte++)
                to[i * element + byte] = (uint8_t)(values[i] >> (8 * byte));
    }
}

int decode_frame(const Chunk *chunk, size_t n_pixels, unsigned element, uint8_t *pixels)
{
    ChunkWalk walk;
    DecodeBuffer buffer = {0};
    Block block;
    int status = chunk_open(&walk, kernel_choose(NULL), chunk->codec, chunk->data, chunk->length, n_pixels, element);
    while (status == STATUS_OK) {
        status = chunk_next(&walk, &buffer, &block);
        if (status || block.n == 0)
            break;
        if (block.planes)
            write_pixels(&block, element, pixels);
        else
            memcpy(pixels + block.first * element, block.data, block.n * element);
    }
    chunk_close(&walk);
    decode_buffer_free(&buffer);
    return status;
}
