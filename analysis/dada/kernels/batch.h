/* Reduces a batch of frames, block by block across the frames, so that a block's tables stay in the cache. */
#ifndef DADA_BATCH_H
#define DADA_BATCH_H

#include "chunk.h"

typedef struct {
    const uint8_t *data;
    size_t length;
    enum codec codec;
} Chunk;

/* sums[i] must be zeroed (maximum -1) and point to zeroed bins and rois and to counts that start at the plan's. A
 * frame that fails has its status set; its sums are then meaningless. Returns STATUS_MEMORY where it could not even
 * begin, else STATUS_OK. */
int reduce_batch(const Kernel *kernel, const Plan *plan, const Chunk *chunks, size_t n, FrameSums *sums);

/* Decode all blocks of a chunk and drop them. Returns a status. */
int walk_chunk(const Kernel *kernel, const Chunk *chunk, size_t n_pixels, unsigned element);

/* Decode one frame to pixels. Returns a status. */
int decode_frame(const Chunk *chunk, size_t n_pixels, unsigned element, uint8_t *pixels);

#endif
