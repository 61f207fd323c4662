/* Frames of the wire (dadafs/wire/frame.py) and the two messages that move blocks (dadafs/wire/messages.py), without I/O. */
#ifndef DADAFS_FRAMES_H
#define DADAFS_FRAMES_H

#include <stddef.h>
#include <stdint.h>

enum { FRAME_HEADER = 20, FRAME_REPLY = 3, FRAME_REQUEST_ROOM = 160 };
#define BLOCK_SIZE (16u << 10)
#define MOST_BLOCKS 256u /* of the largest fragment */
#define MOST_NAMED 64u   /* so many `sent` can name; of more blocks all are sent, and it is -1 */

struct frame_header {
    uint32_t id, metadata, payload, check;
    uint8_t kind;
};

/* One state of one file, in the order of messages.Version. */
struct file_version {
    uint64_t dev, ino;
    int64_t size, mtime_ns, ctime_ns;
};

/* messages.Read, without `known`. */
struct block_request {
    uint64_t handle;
    struct file_version version;
    uint64_t fragment;
    uint32_t first, count;
    int prefetch;
};

enum { TIER_ORIGIN, TIER_SSD, TIER_MEMORY };

/* messages.Blocks, of at most MOST_BLOCKS blocks; `all`: all of them are sent. */
struct blocks {
    unsigned count;
    uint64_t checksums[MOST_BLOCKS];
    uint64_t size;
    int all;
    unsigned encoding;
    int settled, tier;
};

/* Find the functions that compute XXH3 in the module at `path` (that of the package xxhash); 0, or -1 where it has none. */
int frames_use_hash(const char *path);

/* Whether they were found. */
int frames_ready(void);

/* XXH3-64 of `data`. */
uint64_t frames_hash(const void *data, size_t length);

/* A whole frame with `request` in `out` (FRAME_REQUEST_ROOM bytes); its length. */
size_t frames_request(uint8_t *out, uint32_t id, const struct block_request *request);

/* The header in `in` (FRAME_HEADER bytes); 0, or -1 where it is none. */
int frames_header(const uint8_t *in, struct frame_header *header);

/* Whether header and metadata, which follow each other in `in`, are as they were sent. */
int frames_intact(const uint8_t *in, const struct frame_header *header);

/* 0 where `metadata` is a `Blocks` of the kind above and nothing else; otherwise -1. */
int frames_blocks(const uint8_t *metadata, size_t length, struct blocks *blocks);

#endif
