/* Small reads here and there need no decisions: ask the head for the block, verify it, answer.
 *
 * Python says of which open files that is so (`attach`), in which state they are believed to be and until when, and which
 * blocks its own cache holds. A read that lies within one other block is then answered without the interpreter: from the
 * ring of blocks kept here, or with what one request brings (fetches.c). Whatever is not plain sailing, a read that goes
 * on where another one ended, no answer, another version, damage, is Python's to do (`retry`), from the beginning.
 *
 * What is kept is a ring of some blocks, the oldest of which is overwritten first, unless it was read again. Everything
 * happens in the thread of the loop, which holds the interpreter's lock.
 */
#include "hot_inside.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define SMALL (16u << 10) /* shorter reads have no stride (SHORTEST_STRIDDEN in policy/prefetch.py) */
#define NEAR (256 << 10)  /* a read so far behind the end of another one goes on there */
#define MOST_SLOTS 4096
#define BUCKETS 8192u
#define MOST_READS 512

struct slot {
    struct hot_file *file; /* NULL: empty */
    uint64_t block;
    uint32_t fetch; /* under way */
    int ready, again;
    struct slot *next; /* in its bucket */
    struct waiting_read *readers;
    uint8_t *data;
};

struct handle hot_handles[HANDLES];
static struct slot slots[MOST_SLOTS];
static struct slot *table[BUCKETS];
static unsigned slot_count, hand;
static struct waiting_read reads[MOST_READS];
static struct waiting_read *free_reads;
static unsigned waiting;
static uint8_t *ring;

struct handle *hot_handle(uint64_t number)
{
    struct handle *handle = &hot_handles[number % HANDLES];

    return number && handle->number == number ? handle : NULL;
}

/* --- slots ------------------------------------------------------------------------------------------------------------- */

static struct slot **bucket_of(const struct hot_file *file, uint64_t block)
{
    return &table[((uintptr_t)file / sizeof *file + block * 0x9e3779b97f4a7c15u) >> 20 & (BUCKETS - 1)];
}

static struct slot *find_slot(const struct hot_file *file, uint64_t block)
{
    struct slot *slot = *bucket_of(file, block);

    while (slot && (slot->block != block || slot->file != file))
        slot = slot->next;
    return slot;
}

/* `slot`, which is empty, is for this block from now on. */
static void fill(struct slot *slot, struct hot_file *file, uint64_t block)
{
    struct slot **bucket = bucket_of(file, block);

    slot->file = file;
    slot->block = block;
    slot->next = *bucket;
    *bucket = slot;
    Py_INCREF(file);
}

static void empty(struct slot *slot)
{
    struct hot_file *file = slot->file;
    struct slot **link;

    if (!file)
        return;
    for (link = bucket_of(file, slot->block); *link != slot; link = &(*link)->next)
        ;
    *link = slot->next;
    slot->file = NULL;
    slot->ready = slot->again = 0;
    slot->fetch = 0;
    Py_DECREF(file);
}

/* A slot to be filled, what it held before dropped; NULL where all are being filled. */
static struct slot *take_slot(void)
{
    for (unsigned tries = 0; tries < 2 * slot_count; tries++) {
        struct slot *slot = &slots[hand];

        hand = (hand + 1) % slot_count;
        if (slot->fetch || slot->readers)
            continue;
        if (slot->again) {
            slot->again = 0;
            continue;
        }
        empty(slot);
        return slot;
    }
    return NULL;
}

void hot_drop(const struct hot_file *file)
{
    for (unsigned i = 0; i < slot_count; i++)
        if (slots[i].file == file && !slots[i].fetch)
            empty(&slots[i]);
}

/* --- reads that wait ------------------------------------------------------------------------------------------------------ */

static void free_read(struct waiting_read *read)
{
    read->req = NULL;
    read->next = free_reads;
    free_reads = read;
    waiting--;
}

static struct waiting_read *new_read(fuse_req_t req, uint64_t handle, size_t size, off_t offset, long long now)
{
    struct waiting_read *read = free_reads;

    if (!read)
        return NULL;
    free_reads = read->next;
    *read = (struct waiting_read){.req = req, .handle = handle, .size = size, .offset = offset, .since = now};
    interrupts_number(&read->unique, &read->thread);
    waiting++;
    return read;
}

/* Python answers them, from the beginning. */
static void hand_over(struct waiting_read *read)
{
    while (read) {
        struct waiting_read *next = read->next;
        PyObject *request = answers_request(read->req);

        if (request)
            Py_XDECREF(answers_ask(RETRY, Py_BuildValue("(NKiiKLn)", request, (unsigned long long)read->unique,
                                                        read->thread, read->interrupted,
                                                        (unsigned long long)read->handle, (long long)read->offset,
                                                        (Py_ssize_t)read->size)));
        else {
            PyErr_Clear();
            fuse_reply_err(read->req, EIO);
        }
        free_read(read);
        read = next;
    }
}

static void answer(struct slot *slot, const struct waiting_read *read)
{
    fuse_reply_buf(read->req, (const char *)slot->data + read->offset % BLOCK_SIZE, read->size);
}

/* A block has arrived, or not. */
static void landed(void *whose, const struct blocks *blocks, int intact)
{
    struct slot *slot = whose;
    struct waiting_read *read = slot->readers;
    struct hot_file *file = slot->file;
    long long now = monotonic_ns();
    struct handle *handle = read ? hot_handle(read->handle) : NULL;

    slot->readers = NULL;
    slot->fetch = 0;
    if (handle && blocks && !intact)
        handle->tally.damaged++;
    if (blocks && !blocks->settled)
        file->cold = 1; /* its times do not prove its state: Python knows what to do about that */
    if (!blocks || !intact || file->cold) {
        Py_INCREF(file);
        empty(slot);
        hand_over(read);
        Py_DECREF(file);
        return;
    }
    slot->ready = 1;
    if (read)
        hot_count_reply(read, blocks->size, blocks->tier, now);
    while (read) {
        struct waiting_read *next = read->next;

        answer(slot, read);
        hot_count_wait(read, blocks->tier, now);
        free_read(read);
        read = next;
    }
}

/* --- a read ------------------------------------------------------------------------------------------------------------ */

static int goes_on(struct handle *handle, off_t offset, size_t size)
{
    int near = 0;

    for (unsigned i = 0; i < ENDS; i++)
        near |= handle->ends[i] && offset >= handle->ends[i] - (off_t)SMALL && offset <= handle->ends[i] + NEAR;
    handle->ends[handle->next_end++ % ENDS] = offset + (off_t)size;
    return near;
}

static uint32_t ask(struct hot_file *file, struct slot *slot, uint64_t block)
{
    size_t left = (size_t)(file->request.version.size - (int64_t)(block * BLOCK_SIZE));

    file->request.fragment = block / file->blocks_per_fragment;
    file->request.first = (uint32_t)(block % file->blocks_per_fragment);
    return fetches_begin(file->channel, &file->request, slot->data, left < BLOCK_SIZE ? left : BLOCK_SIZE, landed, slot);
}

/* Ask for the block that `read` waits for; 0 where that cannot be done now. */
static int begin(struct handle *handle, struct hot_file *file, uint64_t block, struct waiting_read *read)
{
    struct slot *slot = take_slot();

    if (!slot)
        return 0;
    fill(slot, file, block);
    slot->fetch = ask(file, slot, block);
    if (!slot->fetch) {
        empty(slot);
        return 0;
    }
    slot->readers = read;
    handle->tally.requests++;
    return 1;
}

/* As hot_read, of a read within `block`. */
static int read_block(fuse_req_t req, struct handle *handle, uint64_t block, size_t size, off_t offset, int near)
{
    struct hot_file *file = handle->file;
    struct slot *slot = find_slot(file, block);
    struct waiting_read *read;

    if (slot && slot->ready) {
        slot->again = 1;
        handle->tally.hits++;
        handle->tally.hit_bytes += size;
        fuse_reply_buf(req, (const char *)slot->data + offset % BLOCK_SIZE, size);
        return 1;
    }
    if (near || !(read = new_read(req, handle->number, size, offset, monotonic_ns())))
        return 0;
    if (slot) {
        read->next = slot->readers;
        slot->readers = read;
        return 1;
    }
    if (!begin(handle, file, block, read)) {
        free_read(read);
        return 0;
    }
    return 1;
}

int hot_read(fuse_req_t req, uint64_t number, size_t size, off_t offset)
{
    struct handle *handle = hot_handle(number);
    struct hot_file *file;
    uint64_t block;
    int near;

    if (!handle || offset <= 0 || !size)
        return 0;
    near = goes_on(handle, offset, size);
    file = handle->file;
    block = (uint64_t)offset / BLOCK_SIZE;
    if (size >= SMALL || file->cold || (int64_t)size > file->request.version.size - offset ||
        ((uint64_t)offset + size - 1) / BLOCK_SIZE != block || monotonic_ns() >= file->until)
        return 0;
    if (hot_file_held(file, block))
        return 0;
    return read_block(req, handle, block, size, offset, near);
}

int hot_interrupted(uint64_t number)
{
    if (waiting)
        for (unsigned i = 0; i < MOST_READS; i++)
            if (reads[i].req && reads[i].unique == number) {
                reads[i].interrupted = 1;
                return 1;
            }
    return 0;
}

unsigned hot_waiting(void)
{
    return waiting;
}

/* --- beginnings and ends ------------------------------------------------------------------------------------------------ */

static void detach(struct handle *handle)
{
    struct hot_file *file = handle->file;

    memset(handle, 0, sizeof *handle);
    Py_XDECREF(file);
}

void hot_forget_all(void)
{
    for (unsigned i = 0; i < slot_count; i++) {
        if (slots[i].fetch)
            fetches_abandon(slots[i].file->channel, slots[i].fetch);
        slots[i].readers = NULL;
        empty(&slots[i]);
    }
    for (unsigned i = 0; i < HANDLES; i++)
        detach(&hot_handles[i]);
    memset(reads, 0, sizeof reads);
    free_reads = NULL;
    for (unsigned i = 0; i < MOST_READS; i++) {
        reads[i].next = free_reads;
        free_reads = &reads[i];
    }
    waiting = 0;
    hot_forget_counts();
}

PyObject *hot_start(PyObject *module, PyObject *arguments)
{
    unsigned blocks;
    PyObject *limits;

    (void)module;
    if (!PyArg_ParseTuple(arguments, "IO!", &blocks, &PyTuple_Type, &limits))
        return NULL;
    hot_forget_all();
    if (!blocks || blocks > MOST_SLOTS)
        return PyErr_Format(PyExc_ValueError, "at most %d blocks", MOST_SLOTS);
    if (hot_count_in(limits) != 0)
        return NULL;
    if (ring)
        munmap(ring, (size_t)slot_count * BLOCK_SIZE);
    slot_count = 0;
    ring = mmap(NULL, (size_t)blocks * BLOCK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                -1, 0);
    if (ring == MAP_FAILED) {
        ring = NULL;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    slot_count = blocks;
    hand = 0;
    for (unsigned i = 0; i < blocks; i++)
        slots[i].data = ring + (size_t)i * BLOCK_SIZE;
    Py_RETURN_NONE;
}

PyObject *hot_give_back(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    if (waiting)
        Py_RETURN_FALSE;
    for (unsigned i = 0; i < slot_count; i++) {
        if (slots[i].fetch) /* nobody waits for it, but it may still come */
            Py_RETURN_FALSE;
        empty(&slots[i]);
    }
    if (ring)
        madvise(ring, (size_t)slot_count * BLOCK_SIZE, MADV_DONTNEED);
    Py_RETURN_TRUE;
}

/* --- the functions of the module ------------------------------------------------------------------------------------------ */

PyObject *hot_attach(PyObject *module, PyObject *arguments)
{
    unsigned long long number;
    PyObject *file;
    struct handle *handle;

    (void)module;
    if (!PyArg_ParseTuple(arguments, "KO", &number, &file))
        return NULL;
    handle = &hot_handles[number % HANDLES];
    if (file == Py_None) {
        if (handle->number == number)
            detach(handle);
        Py_RETURN_TRUE;
    }
    if (!PyObject_TypeCheck(file, hot_file_type))
        return PyErr_Format(PyExc_TypeError, "not a HotFile");
    if (!slot_count || !number || (handle->number && handle->number != number))
        Py_RETURN_FALSE;
    handle->number = number;
    Py_INCREF(file);
    Py_XSETREF(handle->file, (struct hot_file *)file);
    Py_RETURN_TRUE;
}

PyObject *hot_expire(PyObject *module, PyObject *arguments)
{
    double patience;
    long long before;

    (void)module;
    if (!PyArg_ParseTuple(arguments, "d", &patience))
        return NULL;
    before = monotonic_ns() - (long long)(patience * 1e9);
    for (unsigned i = 0; waiting && i < slot_count; i++) {
        struct waiting_read *read = slots[i].readers, *oldest = read;

        for (; read; read = read->next)
            oldest = read->since < oldest->since ? read : oldest;
        if (!oldest || oldest->since > before || !slots[i].fetch)
            continue;
        fetches_abandon(slots[i].file->channel, slots[i].fetch);
        read = slots[i].readers;
        slots[i].readers = NULL;
        empty(&slots[i]);
        hand_over(read);
    }
    Py_RETURN_NONE;
}
