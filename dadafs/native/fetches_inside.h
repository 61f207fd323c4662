/* What fetches.c, which asks and receives, and fetches_type.c, the Python object, know of each other. */
#ifndef DADAFS_FETCHES_INSIDE_H
#define DADAFS_FETCHES_INSIDE_H

#include "fetches.h"

#define FIRST_ID 0x80000000u
#define MOST 256u            /* requests under way on one channel */
#define CHANNELS 64          /* that are looked after */
#define READ_AHEAD 1024      /* bytes after a payload that are received with it: the next header */
#define SMALL (18u << 10)    /* replies of fewer bytes are received whole */
#define MOST_METADATA (64u << 10)
#define MOST_PAYLOAD (16u << 20)
#define ROOM (WIRE_HEADER + MOST_METADATA)
#define MOST_CORKED 64       /* requests that are sent together */
#define PIECE (256 << 10)    /* and in one call */
#define TURN (4 << 20)       /* bytes in a row, then others have their turn */
#define LARGE (64u << 10)    /* from here on the interpreter's lock is given up meanwhile */

struct fetch {
    uint32_t id; /* 0: free */
    unsigned count;
    uint8_t *into; /* NULL: given up */
    size_t length;
    landed_fn *landed;
    void *whose;
};

struct fetches {
    PyObject_HEAD
    int fd, over, broken, held, busy;
    int gate, masked; /* an epoll descriptor that tells of the channel, but for while `masked` */
    char trouble[160];
    PyObject *take, *landed;
    struct fetch fetch[MOST];
    int corked;
    uint8_t *requests; /* that wait for more to be sent with */
    size_t requests_size;
    unsigned pending, small, turn; /* requests under way, of which `small`; where to look for a free one */
    unsigned long long received;
    uint8_t *buffer;
    size_t start, end;
    /* the payload that is being received */
    int in_payload;
    struct fetch *current; /* whose it is, NULL: Python's, or nobody's */
    struct blocks blocks;
    int plain, intact;   /* `blocks` is all that was asked for; those that were verified are as they were sent */
    unsigned verified;
    uint32_t foreign;    /* the number of Python's request */
    Py_buffer foreign_into;
    int has_foreign_into;
    uint8_t *into;       /* NULL: into nowhere */
    size_t done, length;
};

/* Look after the channel from now on, 0, or -1 and errno; or no more, and end what it was asked for. */
int fetches_enter(struct fetches *self);
void fetches_leave(struct fetches *self);

/* Send the requests that were begun since the channel was corked. */
void fetches_flush(struct fetches *self);

/* The request `id` that was begun here and is under way, or NULL. */
struct fetch *fetches_find(struct fetches *self, uint32_t id);

/* Receive what is there, about `most` bytes: 1 where more may be there, 0 where nothing is, -1 at the end of the channel. */
int fetches_take(struct fetches *self, ssize_t most);

/* Write no more of the payload of Python's request `id` into its buffer. */
void fetches_divert(struct fetches *self, uint32_t id);

#endif
