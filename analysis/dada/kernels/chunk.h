/* Walks through the stored bytes of one frame (an HDF5 chunk) block by block. The bytes are not trusted. */
#ifndef DADA_CHUNK_H
#define DADA_CHUNK_H

#include "lz4_stream.h"
#include "plan.h"

typedef struct {
    const uint8_t *at, *end;   /* what is left of the chunk */
    enum codec codec;
    unsigned element;
    size_t n_pixels, next;     /* pixels of the frame, pixels already handed out */
    size_t block_pixels;       /* of a full block */
    const Kernel *kernel;      /* whose LZ4 decoder is used */
    Lz4Stream *stream;         /* of a large LZ4 block; NULL until there is one */
    size_t streaming;          /* pixels of it that are still to come */
} ChunkWalk;

/* A decode buffer that grows to the largest block met, never beyond a frame. */
typedef struct {
    uint8_t *memory, *data;    /* data begins LZ4_MARGIN bytes into the memory */
    size_t size;
} DecodeBuffer;

/* Read the chunk's header. Returns a status. */
int chunk_open(ChunkWalk *walk, const Kernel *kernel, enum codec codec, const uint8_t *data, size_t length,
               size_t n_pixels, unsigned element);

/* Decode the next block into `buffer`. Returns a status; at the end of the frame STATUS_OK and block->n == 0. */
int chunk_next(ChunkWalk *walk, DecodeBuffer *buffer, Block *block);

/* Give back what the walk holds. */
void chunk_close(ChunkWalk *walk);

void decode_buffer_free(DecodeBuffer *buffer);

#endif
