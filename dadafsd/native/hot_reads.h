/* What the files of this module say to each other. */
#ifndef DADAFSD_HOT_READS_H
#define DADAFSD_HOT_READS_H

#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>

#include "wire.h" /* of the node's compiled part, which says the same */

#include <stddef.h>
#include <stdint.h>

#define BLOCK_SIZE (16 << 10)
#define MOST_BLOCKS 64       /* of a reply: so many bits has its mask */
#define PACKED_FROM (64 << 10) /* smaller payloads always go raw, see packing.py */
#define MOST_METADATA 256  /* of a request that is understood here */
#define MOST_REPLY 1024    /* header and metadata of a reply to it: at most 9 bytes a checksum */
#define MOST_TOLD 32       /* the name of a tier, as a node is told */
#define KEY_SIZE 320       /* FragmentKey.packed, see store/record.py */

/* --- frames.c: what is understood of the wire, without Python and without I/O -------------------------------------------------- */

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
    char dense; /* it does not shrink, so it goes raw whatever the network takes */
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

/* Send `head`, if any, and these bytes, as far as the socket takes them; how many bytes it took. What was read of a file is
 * in `buffer`; where that is NULL, it is sent from there. With `more` it may wait for what is sent next. */
uint64_t entry_send(const Entry *entry, int sock, const uint8_t *head, size_t head_length, uint64_t start,
                    uint64_t length, const uint8_t *buffer, int more);

#define SMALL (16 << 10) /* so much of a file is copied; more goes by sendfile */

/* --- answers.c: one connection -------------------------------------------------------------------------------- */

/* How a row of answers ended, as in dadafs/wire/channel.py; -1: with an exception. */
enum state { LEFT, WAIT, TURN, REST };

/* What of a reply is still to be sent; no entry: nothing. */
struct rest {
    Entry *entry;
    uint8_t head[MOST_REPLY];
    size_t head_sent, head_length;
    uint64_t start, length; /* of the entry's data */
    int64_t since_ns;
};

struct turn {
    int sock;
    uint8_t *buffer;
    size_t room, start, end; /* of the buffer, and what in it is not answered */
    uint64_t received, sent;
    int corked; /* the last reply may wait for the next one */
    struct rest rest;
};

typedef struct {
    PyObject_HEAD
    PyObject *table;    /* packed key -> Entry */
    PyObject *handles;  /* of the session: handle -> OpenFile */
    PyObject *requests; /* counted: (export, "Read") -> so many */
    PyObject *counted;  /* that key */
    PyObject *tally_of; /* tier -> what is counted of it for this node */
    PyObject *goes_raw; /* whether so many bytes go as they are */
    PyObject *tier;     /* whose tally is `tally` */
    PyObject *tally;
    uint64_t unasked; /* bytes sent since it was asked whether they go raw */
    int raw;          /* what the answer was */
    uint8_t key[KEY_SIZE];
    unsigned long long total; /* reads answered here */
    /* while it waits in a `Loop` */
    int parked;
    int writes; /* it waits until it can send the rest */
    Py_buffer view;
    struct turn turn;
    int state;
    PyObject *error; /* an exception that is to be raised where it is taken back, or NULL */
} Answers;

extern PyTypeObject Answers_Type;
int64_t now_ns(void);

/* Answer until that cannot go on, for some time at most; how it ended, or -1 with an exception. */
int answers_take_turn(Answers *self, struct turn *turn);

/* Send more of the rest; how many bytes the socket took. */
uint64_t answers_send_more(struct turn *turn);

/* Begin with what lies between `start` and `end` of `view`; 0, or -1 with an exception. */
int answers_begin(struct turn *turn, int sock, const Py_buffer *view, Py_ssize_t start, Py_ssize_t end);

/* What Python is told of it, the rest included, which is Python's then. */
PyObject *answers_moved(int state, struct turn *turn);

/* --- loop.c: all connections that wait for a request ------------------------------------------------------------ */

extern PyTypeObject Loop_Type;

#endif
