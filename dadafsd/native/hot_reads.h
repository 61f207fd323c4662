/* What the files of this module say to each other. */
#ifndef DADAFSD_HOT_READS_H
#define DADAFSD_HOT_READS_H

#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>

#include <stddef.h>
#include <stdint.h>

#define BLOCK_SIZE (16 << 10)
#define HEADER_SIZE 20
#define MOST_BLOCKS 64       /* of a reply: so many bits has its mask */
#define PACKED_FROM (64 << 10) /* smaller payloads always go raw, see packing.py */
#define MOST_METADATA 256  /* of a request that is understood here */
#define MOST_REPLY 1024    /* header and metadata of a reply to it: at most 9 bytes a checksum */
#define MOST_TOLD 32       /* the name of a tier, as a node is told */
#define KEY_SIZE 320       /* FragmentKey.packed, see store/record.py */

/* --- frames.c: the wire format, without Python and without I/O -------------------------------------------------- */

/* A `Read` without known checksums. */
struct request {
    uint32_t id;
    uint64_t handle;
    uint64_t dev, ino, size;
    int64_t mtime_ns, ctime_ns;
    uint64_t fragment, first, count;
    size_t frame; /* bytes of the whole frame */
};

enum frame_kind { FRAME_INCOMPLETE, FRAME_READ, FRAME_OTHER };

/* What the `have` bytes from `at` on begin with. */
enum frame_kind frames_parse(const uint8_t *at, size_t have, struct request *request);

/* Header and metadata of a `Blocks` with `size` bytes of raw, settled payload; returns their length. */
size_t frames_reply(uint8_t *into, uint32_t id, const uint64_t *checksums, size_t count, uint64_t size, const char *told,
                    size_t told_length);

/* Find XXH3 in the extension module at `path`, which is loaded; 0, or -1 where it has none. */
int frames_find_xxh3(const char *path);

/* --- entry.c: what can be sent at once -------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    PyObject *owner;    /* the `Record` or `Piece`: whoever holds it may rely on `fd` and `data` */
    PyObject *version;  /* of the file */
    PyObject *identity; /* the same file in any version, (device, inode) */
    PyObject *tier;     /* by which name it is counted */
    PyObject *data;     /* bytes, or NULL where it is in a file */
    int fd;
    int in_memory; /* the file is on a tmpfs */
    int64_t offset;
    uint64_t length;
    int64_t asks_ns; /* from then on Python is to be asked; 0: never */
    int64_t used_ns; /* when it was used here last; 0: never */
    int used;        /* since it was last asked */
    char told[MOST_TOLD];
    size_t told_length;
    size_t blocks;
    uint64_t *checksums;
} Entry;

extern PyTypeObject Entry_Type;

/* Whether bytes `start` .. of the entry can be sent without waiting for a disk. `buffer` has room for SMALL bytes. */
int entry_ready(const Entry *entry, uint64_t start, uint64_t length, uint8_t *buffer);

/* Send `head` and these bytes, which are ready, as far as the socket takes them; how many bytes it took. */
uint64_t entry_send(const Entry *entry, int sock, const uint8_t *head, size_t head_length, uint64_t start,
                    uint64_t length, const uint8_t *buffer);

#define SMALL (128 << 10) /* so much of a file is copied; more goes by sendfile */

/* --- answers.c: one connection ---------------------------------------------------------------------------------- */

extern PyTypeObject Answers_Type;
int64_t now_ns(void);

#endif
