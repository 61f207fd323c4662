/* What hot_reads.c, hot_file.c and hot_counts.c know of each other. */
#ifndef DADAFS_HOT_INSIDE_H
#define DADAFS_HOT_INSIDE_H

#include "fetches.h"
#include "hot_reads.h"
#include "turns.h"

#define HANDLES 256       /* open files that are attached at a time, at most */
#define ENDS 4            /* latest reads of a handle that are remembered */
#define TIERS 3

/* A file in one state, a Python object. */
struct hot_file {
    PyObject_HEAD
    struct fetches *channel;
    struct block_request request;
    uint64_t blocks_per_fragment, blocks, mask;
    long long until; /* monotonic, in ns */
    int cold;
    uint8_t *held; /* a bit a block, or for several ones of a large file: Python's cache has it, or may have */
};

struct tally {
    unsigned long long hits, hit_bytes, misses, miss_bytes, wire_bytes, requests, waited_ns, damaged, tiers[TIERS];
};

struct handle {
    uint64_t number; /* 0: free */
    struct hot_file *file;
    off_t ends[ENDS];
    unsigned next_end;
    struct tally tally;
};

/* A request of the kernel that waits for a block. */
struct waiting_read {
    struct waiting_read *next;
    fuse_req_t req; /* NULL: free */
    uint64_t unique, handle;
    int thread, interrupted;
    size_t size;
    off_t offset;
    long long since;
};

extern struct handle hot_handles[HANDLES];
extern PyTypeObject *hot_file_type;

/* The handle with this number where it is attached, or NULL. */
struct handle *hot_handle(uint64_t number);

/* Whether Python's cache may have this block. */
int hot_file_held(const struct hot_file *file, uint64_t block);

/* Nothing of this state of a file is kept. */
void hot_drop(const struct hot_file *file);

/* Count a read that a reply from `tier` has answered now, and a reply to it. */
void hot_count_wait(const struct waiting_read *read, int tier, long long now);
void hot_count_reply(const struct waiting_read *read, size_t length, int tier, long long now);

/* Count waiting times in these buckets; 0, or -1 with an exception. And begin anew. */
int hot_count_in(PyObject *limits);
void hot_forget_counts(void);

#endif
