#include "chunk.h"

#include <limits.h>
#include <lz4.h>
#include <stdlib.h>
#include <string.h>

#include "lz4_decode.h"

#define DEFAULT_BITSHUFFLE_BLOCK 8192
#define HEADER_BYTES 12

static uint64_t big_endian(const uint8_t *bytes, unsigned n)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < n; i++)
        value = value << 8 | bytes[i];
    return value;
}

static size_t bytes_left(const ChunkWalk *walk)
{
    return (size_t)(walk->end - walk->at);
}

static int decode_buffer_grow(DecodeBuffer *buffer, size_t size)
{
    if (size <= buffer->size)
        return STATUS_OK;
    free(buffer->memory);
    buffer->size = 0;
    buffer->memory = aligned_alloc(64, (LZ4_MARGIN + size + SLACK + 63) / 64 * 64);
    if (!buffer->memory)
        return STATUS_MEMORY;
    buffer->data = buffer->memory + LZ4_MARGIN;
    memset(buffer->memory, 0, LZ4_MARGIN);
    memset(buffer->data + size, 0, SLACK);
    buffer->size = size;
    return STATUS_OK;
}

void decode_buffer_free(DecodeBuffer *buffer)
{
    free(buffer->memory);
    *buffer = (DecodeBuffer){0};
}

/* Both compressed formats begin with the decoded size (8 bytes) and the block size in bytes (4), big endian. */
static int read_header(ChunkWalk *walk)
{
    if (bytes_left(walk) < HEADER_BYTES)
        return STATUS_TRUNCATED;
    uint64_t total = big_endian(walk->at, 8);
    size_t block = (size_t)big_endian(walk->at + 8, 4);
    walk->at += HEADER_BYTES;
    if (total != (uint64_t)walk->n_pixels * walk->element)
        return STATUS_SIZE;
    bool shuffled = walk->codec == CODEC_BITSHUFFLE_LZ4;
    if (block == 0 && shuffled)
        block = DEFAULT_BITSHUFFLE_BLOCK;
    if (block == 0 || block % walk->element || (shuffled && block / walk->element % 8))
        return STATUS_BLOCK_SIZE;
    walk->block_pixels = block / walk->element;
    return STATUS_OK;
}

int chunk_open(ChunkWalk *walk, const Kernel *kernel, enum codec codec, const uint8_t *data, size_t length,
               size_t n_pixels, unsigned element)
{
    *walk = (ChunkWalk){.at = data, .end = data + length, .codec = codec, .element = element,
                        .n_pixels = n_pixels, .block_pixels = n_pixels, .kernel = kernel};
    if (length == 0)
        return STATUS_EMPTY;
    switch (codec) {
    case CODEC_NONE:
        if (length != n_pixels * element)
            return length < n_pixels * element ? STATUS_TRUNCATED : STATUS_SIZE;
        walk->block_pixels = TILE;
        return STATUS_OK;
    case CODEC_LZ4:
    case CODEC_BITSHUFFLE_LZ4:
        return read_header(walk);
    default:
        return STATUS_CODEC;
    }
}

/* Pixels as they are in the chunk: unfiltered frames, raw LZ4 blocks, the up to 7 pixels behind the last plane. */
static int take_raw(ChunkWalk *walk, DecodeBuffer *buffer, Block *block, size_t n)
{
    size_t size = n * walk->element;
    if (bytes_left(walk) < size)
        return STATUS_TRUNCATED;
    int status = decode_buffer_grow(buffer, size);
    if (status)
        return status;
    memcpy(buffer->data, walk->at, size);
    walk->at += size;
    *block = (Block){.data = buffer->data, .first = walk->next, .n = n};
    walk->next += n;
    return STATUS_OK;
}

/* Our decoder reads beyond a block, so the last ones of a chunk are left to liblz4. */
static bool decode_block(const ChunkWalk *walk, size_t stored, uint8_t *data, size_t size)
{
    if (walk->kernel->lz4_decode && bytes_left(walk) - stored >= LZ4_MARGIN)
        return walk->kernel->lz4_decode(walk->at, stored, data, size);
    int decoded = LZ4_decompress_safe((const char *)walk->at, (char *)data, (int)stored, (int)size);
    return decoded >= 0 && (size_t)decoded == size;
}

/* The next tile of a large block. */
static int take_streamed(ChunkWalk *walk, Block *block)
{
    size_t n = walk->streaming < TILE ? walk->streaming : TILE;
    const uint8_t *piece = lz4_stream_next(walk->stream, n * walk->element);
    if (!piece)
        return STATUS_BLOCK;
    *block = (Block){.data = piece, .first = walk->next, .n = n};
    walk->next += n;
    walk->streaming -= n;
    return STATUS_OK;
}

/* LZ4 blocks from this size on, in bytes, are streamed: EIGER1 detectors write one for the whole frame. */
#define STREAM_FROM 32768

static int begin_stream(ChunkWalk *walk, size_t stored, size_t n, Block *block)
{
    size_t size = n * walk->element;
    if (!walk->stream)
        walk->stream = malloc(sizeof *walk->stream);
    if (!walk->stream)
        return STATUS_MEMORY;
    lz4_stream_begin(walk->stream, walk->at, stored, size, stored == size);
    walk->at += stored;
    walk->streaming = n;
    return take_streamed(walk, block);
}

void chunk_close(ChunkWalk *walk)
{
    free(walk->stream);
    walk->stream = NULL;
}

static int take_compressed(ChunkWalk *walk, DecodeBuffer *buffer, Block *block, size_t n)
{
    size_t size = n * walk->element;
    if (bytes_left(walk) < 4)
        return STATUS_TRUNCATED;
    size_t stored = (size_t)big_endian(walk->at, 4);
    walk->at += 4;
    if (stored > bytes_left(walk))
        return STATUS_TRUNCATED;
    if (walk->codec == CODEC_LZ4 && size >= STREAM_FROM)
        return begin_stream(walk, stored, n, block);
    if (walk->codec == CODEC_LZ4 && stored == size)
        return take_raw(walk, buffer, block, n);
    if (size > INT_MAX || stored > INT_MAX || stored == 0)
        return STATUS_BLOCK;
    int status = decode_buffer_grow(buffer, size);
    if (status)
        return status;
    if (!decode_block(walk, stored, buffer->data, size))
        return STATUS_BLOCK;
    walk->at += stored;
    *block = (Block){.data = buffer->data, .planes = walk->codec == CODEC_BITSHUFFLE_LZ4, .first = walk->next,
                     .n = n};
    walk->next += n;
    return STATUS_OK;
}

int chunk_next(ChunkWalk *walk, DecodeBuffer *buffer, Block *block)
{
    size_t left = walk->n_pixels - walk->next;
    block->n = 0;
    if (left == 0)
        return STATUS_OK;
    if (walk->streaming)
        return take_streamed(walk, block);
    size_t n = left < walk->block_pixels ? left : walk->block_pixels;
    if (walk->codec == CODEC_NONE)
        return take_raw(walk, buffer, block, n);
    if (walk->codec == CODEC_BITSHUFFLE_LZ4) {
        if (left < 8)
            return take_raw(walk, buffer, block, left);
        n -= n % 8;
    }
    return take_compressed(walk, buffer, block, n);
}
