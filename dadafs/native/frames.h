/* The two messages that move blocks (dadafs/wire/messages.py), as a node sends and receives them, without I/O. */
#ifndef DADAFS_FRAMES_H
#define DADAFS_FRAMES_H

#include "wire.h"

#define REQUEST_ROOM 160
#define BLOCK_SIZE (16u << 10)
#define MOST_BLOCKS 256u /* of the largest fragment */
#define MOST_NAMED 64u   /* so many `sent` can name; of more blocks all are sent, and it is -1 */

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

/* A whole frame with `request` in `out` (REQUEST_ROOM bytes); its length. */
size_t frames_request(uint8_t *out, uint32_t id, const struct block_request *request);

/* 0 where `metadata` is a `Blocks` of the kind above and nothing else; otherwise -1. */
int frames_blocks(const uint8_t *metadata, size_t length, struct blocks *blocks);

#endif
