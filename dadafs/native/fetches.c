/* The replies of one data channel are received here, straight into the buffers they were asked for.
 *
 * Nearly all of them are `Blocks` of whole runs that nobody has yet, as they are. Those are asked for, received, verified
 * and handed over without the interpreter; for all else Python is asked where the payload goes (`take`) and told when it
 * is there (`landed`), as dadafs/data_channel.py has it. Requests begun here have numbers of their own, from FIRST_ID up.
 *
 * Everything happens in the thread of the loop, which holds the interpreter's lock; callbacks may begin, give up and
 * close. What the head sends is bounded before it is used, and whatever breaks the protocol ends the channel.
 */
#include "fetches_inside.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

static struct fetches *channels[CHANNELS];
static uint8_t scrap[64 << 10];

/* --- ends -------------------------------------------------------------------------------------------------------------- */

static int fail(struct fetches *self, const char *why)
{
    if (!self->over) {
        self->over = self->broken = 1;
        snprintf(self->trouble, sizeof self->trouble, "%s", why);
        shutdown(self->fd, SHUT_RDWR); /* whoever waits for the channel wakes up */
    }
    return -1;
}

static void end_fetch(struct fetches *self, struct fetch *fetch, const struct blocks *blocks, int intact)
{
    struct fetch ended = *fetch;

    fetch->id = 0;
    self->pending--;
    self->small -= ended.length < SMALL;
    if (self->current == fetch)
        self->current = NULL;
    if (ended.landed && ended.into)
        ended.landed(ended.whose, blocks, intact);
}

static void release_foreign(struct fetches *self)
{
    if (self->has_foreign_into)
        PyBuffer_Release(&self->foreign_into);
    self->has_foreign_into = 0;
}

/* The connection is lost, which is nobody's fault. */
static int lose(struct fetches *self, const char *what, const char *why)
{
    char text[sizeof self->trouble];

    snprintf(text, sizeof text, "%s%s", what, why);
    fail(self, text);
    self->broken = 0;
    return -1;
}

/* --- asking ------------------------------------------------------------------------------------------------------------- */

int fetches_open(const struct fetches *self)
{
    return !self->over && !self->held && self->pending < MOST &&
           self->requests_size < MOST_CORKED * REQUEST_ROOM - REQUEST_ROOM;
}

int fetches_over(const struct fetches *self)
{
    return self->over;
}

unsigned fetches_pending(const struct fetches *self)
{
    return self->pending;
}

static struct fetch *free_fetch(struct fetches *self)
{
    for (unsigned i = 0; i < MOST; i++) {
        struct fetch *fetch = &self->fetch[(self->turn + i) % MOST];

        if (!fetch->id) {
            self->turn = (self->turn + i + 1) % MOST;
            return fetch;
        }
    }
    return NULL;
}

/* Whether what waits to be sent is; 0 where nothing of it was, and it waits no more. */
static int send_requests(struct fetches *self)
{
    size_t size = self->requests_size;
    ssize_t sent = send(self->fd, self->requests, size, MSG_DONTWAIT | MSG_NOSIGNAL);

    self->requests_size = 0;
    if (sent == (ssize_t)size)
        return 1;
    if (sent > 0)
        lose(self, "a send was interrupted in the middle of a frame", "");
    return 0; /* where the connection is lost, whoever receives finds out */
}

void fetches_flush(struct fetches *self)
{
    self->corked = 0;
    if (!self->over && self->requests_size && !send_requests(self))
        lose(self, "the head takes no requests", "");
}

static int holding;

void fetches_hold_back(int whether)
{
    holding = whether;
}

void fetches_send_all(void)
{
    for (int i = 0; i < CHANNELS; i++)
        if (channels[i] && channels[i]->requests_size && !channels[i]->corked)
            fetches_flush(channels[i]);
}

uint32_t fetches_begin(struct fetches *self, const struct block_request *request, uint8_t *into, size_t length,
                       landed_fn *landed, void *whose)
{
    static uint32_t series;
    uint8_t *frame = self->requests + self->requests_size;
    struct fetch *fetch;
    uint32_t id;
    if (!fetches_open(self) || !request->count || request->count > MOST_BLOCKS || !(fetch = free_fetch(self)))
        return 0;
    series = (series + 1) % (FIRST_ID / MOST);
    id = FIRST_ID + series * MOST + (uint32_t)(fetch - self->fetch);
    self->requests_size += frames_request(frame, id, request);
    if (!self->corked && !holding && !send_requests(self))
        return 0;
    *fetch = (struct fetch){id, request->count, into, length, landed, whose};
    self->pending++;
    self->small += length < SMALL;
    return id;
}

struct fetch *fetches_find(struct fetches *self, uint32_t id)
{
    struct fetch *fetch = &self->fetch[id % MOST];

    return id >= FIRST_ID && fetch->id == id ? fetch : NULL;
}

int fetches_abandon(struct fetches *self, uint32_t id)
{
    struct fetch *fetch = fetches_find(self, id);

    if (!fetch || !fetch->into)
        return 0;
    fetch->into = NULL;
    if (self->current == fetch)
        self->into = NULL;
    return 1;
}

/* --- receiving ------------------------------------------------------------------------------------------------------- */

static ssize_t receive_some(struct fetches *self, struct iovec *parts, int count, int large)
{
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = (size_t)count};
    ssize_t got;

    if (large) {
        Py_BEGIN_ALLOW_THREADS
        got = recvmsg(self->fd, &message, MSG_DONTWAIT);
        Py_END_ALLOW_THREADS
    } else {
        got = recvmsg(self->fd, &message, MSG_DONTWAIT);
    }
    if (got > 0) {
        self->received += (size_t)got;
        return got;
    }
    if (got == 0)
        return lose(self, "the peer closed the connection", "");
    if (errno == EAGAIN || errno == EINTR)
        return 0;
    return lose(self, "the connection was lost: ", strerror(errno));
}

/* Blocks that are there whole are verified while they are in the processor's cache. */
static void verify(struct fetches *self)
{
    while (self->plain && self->verified < self->blocks.count) {
        size_t from = (size_t)self->verified * BLOCK_SIZE, to = from + BLOCK_SIZE;

        if (to > self->length)
            to = self->length;
        if (to > self->done || !self->into)
            return;
        if (wire_hash(self->into + from, to - from) != self->blocks.checksums[self->verified])
            self->intact = 0;
        self->verified++;
    }
}

static void payload_is_there(struct fetches *self)
{
    self->in_payload = 0;
    if (self->foreign) {
        PyObject *result;

        release_foreign(self);
        result = PyObject_CallFunction(self->landed, "I", (unsigned)self->foreign);
        if (!result)
            PyErr_WriteUnraisable((PyObject *)self);
        Py_XDECREF(result);
    } else if (self->current) {
        int plain = self->plain && self->verified == self->blocks.count;
        struct blocks blocks = self->blocks;

        end_fetch(self, self->current, plain ? &blocks : NULL, self->intact);
    }
}

/* Bytes received now, 0 where there are none, -1 at the end. */
static ssize_t receive_payload(struct fetches *self)
{
    struct iovec parts[2];
    size_t left = self->length - self->done, wanted = left;
    ssize_t got;
    size_t mine;

    self->start = self->end = 0; /* what was in the buffer was used before */
    if (wanted > PIECE)
        wanted = PIECE;
    if (!self->into && wanted > sizeof scrap)
        wanted = sizeof scrap;
    parts[0].iov_base = self->into ? self->into + self->done : scrap;
    parts[0].iov_len = wanted;
    parts[1].iov_base = self->buffer;
    parts[1].iov_len = READ_AHEAD;
    got = receive_some(self, parts, wanted == left ? 2 : 1, wanted >= LARGE);
    if (got <= 0)
        return got;
    mine = (size_t)got < wanted ? (size_t)got : wanted;
    self->end = (size_t)got - mine;
    self->done += mine;
    verify(self);
    if (self->done == self->length)
        payload_is_there(self);
    return got;
}

/* What the frame in the buffer, whole but for its payload, is about. 0, or -1 at the end. */
static int begin_payload(struct fetches *self, const struct wire_header *header)
{
    uint8_t *metadata = self->buffer + self->start + WIRE_HEADER;
    size_t there;

    self->current = NULL;
    self->foreign = 0;
    self->into = NULL;
    self->plain = 0;
    self->intact = 1;
    self->verified = 0;
    self->done = 0;
    self->length = header->payload;
    if (header->id >= FIRST_ID) {
        struct fetch *fetch = fetches_find(self, header->id);

        if (!fetch)
            return fail(self, "a reply to no request");
        self->current = fetch;
        self->into = fetch->into;
        self->plain = frames_blocks(metadata, header->metadata, &self->blocks) == 0 && !self->blocks.encoding &&
                      self->blocks.count == fetch->count && self->blocks.size == header->payload &&
                      header->payload == fetch->length && self->blocks.all;
        if (!self->plain)
            self->into = NULL;
    } else {
        PyObject *into = PyObject_CallFunction(self->take, "Iy#I", (unsigned)header->id, (const char *)metadata,
                                               (Py_ssize_t)header->metadata, (unsigned)header->payload);

        if (!into) {
            PyErr_WriteUnraisable((PyObject *)self);
            return fail(self, "a reply could not be taken");
        }
        if (self->over) { /* it was closed meanwhile */
            Py_DECREF(into);
            return -1;
        }
        self->foreign = header->id;
        if (into != Py_None && PyObject_GetBuffer(into, &self->foreign_into, PyBUF_CONTIG) == 0) {
            self->has_foreign_into = 1;
            if ((size_t)self->foreign_into.len >= self->length)
                self->into = self->foreign_into.buf;
        }
        PyErr_Clear();
        Py_DECREF(into);
    }
    self->start += WIRE_HEADER + header->metadata;
    there = self->end - self->start;
    if (there > self->length)
        there = self->length;
    if (self->into)
        memcpy(self->into, self->buffer + self->start, there);
    self->start += there;
    self->done = there;
    self->in_payload = 1;
    verify(self);
    if (self->done == self->length)
        payload_is_there(self);
    return 0;
}

/* As receive_payload, of the next header and its metadata. */
static ssize_t receive_header(struct fetches *self)
{
    size_t have = self->end - self->start, need = WIRE_HEADER;
    struct wire_header header;
    struct iovec part;
    ssize_t got;

    if (have >= WIRE_HEADER) {
        if (wire_header(self->buffer + self->start, &header) != 0 || header.kind != WIRE_REPLY)
            return fail(self, "a frame that a head does not send on a data channel");
        if (header.metadata > MOST_METADATA || header.payload > MOST_PAYLOAD)
            return fail(self, "oversized frame");
        need += header.metadata;
        if (have >= need) {
            if (!wire_intact(self->buffer + self->start, &header))
                return fail(self, "damaged frame: its check does not match");
            return begin_payload(self, &header) == 0 ? (ssize_t)need : -1;
        }
    }
    memmove(self->buffer, self->buffer + self->start, have);
    self->start = 0;
    self->end = have;
    part.iov_base = self->buffer + have;
    part.iov_len = self->small ? SMALL * (self->small < 3 ? self->small : 3) : READ_AHEAD; /* small replies come whole */
    if (part.iov_len < need - have)
        part.iov_len = need - have;
    if (part.iov_len > ROOM + READ_AHEAD - have)
        part.iov_len = ROOM + READ_AHEAD - have;
    got = receive_some(self, &part, 1, 0);
    if (got > 0)
        self->end += (size_t)got;
    return got;
}

int fetches_take(struct fetches *self, ssize_t most)
{
    ssize_t left = most, got = 1;

    if (self->busy) /* a callback of ours waits for a reply: it must not */
        return 0;
    self->busy = 1;
    Py_INCREF(self);
    while (left > 0 && got > 0 && !self->over) {
        got = self->in_payload ? receive_payload(self) : receive_header(self);
        left -= got;
        if (got > 0 && !self->pending && self->start == self->end && !self->in_payload && !self->foreign)
            got = 0; /* nothing is owed that was not received */
    }
    self->busy = 0;
    left = self->over ? -1 : got > 0;
    Py_DECREF(self);
    return (int)left;
}

/* --- between the loop and us ------------------------------------------------------------------------------------------- */

int fetches_awaited(struct pollfd *fds, int room)
{
    int count = 0;

    for (int i = 0; i < CHANNELS && count < room; i++)
        if (channels[i] && channels[i]->pending && !channels[i]->over && !channels[i]->busy)
            fds[count++] = (struct pollfd){.fd = channels[i]->fd, .events = POLLIN};
    return count;
}

static struct fetches *channel_of(int fd)
{
    for (int i = 0; i < CHANNELS; i++)
        if (channels[i] && channels[i]->fd == fd && !channels[i]->over)
            return channels[i];
    return NULL;
}

void fetches_receive(int fd)
{
    struct fetches *self = channel_of(fd);

    if (self)
        fetches_take(self, PIECE);
}

static void set_mask(struct fetches *self, int masked)
{
    struct epoll_event event = {.events = masked ? 0 : EPOLLIN};

    if (epoll_ctl(self->gate, EPOLL_CTL_MOD, self->fd, &event) == 0)
        self->masked = masked;
}

void fetches_mask(int fd)
{
    struct fetches *self = channel_of(fd);

    if (self && !self->masked)
        set_mask(self, 1);
}

void fetches_unmask(void)
{
    for (int i = 0; i < CHANNELS; i++)
        if (channels[i] && channels[i]->masked)
            set_mask(channels[i], 0);
}

int fetches_enter(struct fetches *self)
{
    struct epoll_event event = {.events = EPOLLIN};

    self->gate = epoll_create1(EPOLL_CLOEXEC);
    if (self->gate < 0 || epoll_ctl(self->gate, EPOLL_CTL_ADD, self->fd, &event) != 0)
        return -1;
    for (int i = 0; i < CHANNELS; i++)
        if (!channels[i]) {
            channels[i] = self;
            break;
        }
    return 0;
}

void fetches_leave(struct fetches *self)
{
    if (!self->over)
        snprintf(self->trouble, sizeof self->trouble, "closed on this side");
    self->over = 1;
    for (int i = 0; i < CHANNELS; i++)
        if (channels[i] == self)
            channels[i] = NULL;
    release_foreign(self);
    self->in_payload = 0;
    self->into = NULL;
    for (unsigned i = 0; i < MOST; i++)
        if (self->fetch[i].id)
            end_fetch(self, &self->fetch[i], NULL, 0);
    if (self->fd >= 0)
        close(self->fd);
    if (self->gate >= 0)
        close(self->gate);
    self->fd = self->gate = -1;
}

void fetches_divert(struct fetches *self, uint32_t id)
{
    if (id && self->in_payload && self->foreign == id) {
        self->into = NULL;
        release_foreign(self);
    }
}
