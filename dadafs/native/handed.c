/* Small files that were opened ahead, from the kernel's open to its close.
 *
 * Python spends some 150 microseconds on a small file that a program opens, reads and closes once: a node, a remote file,
 * an entry of the RAM cache, a belief, a handle, and later the way back of all that. A file that was opened ahead needs
 * none of it as long as nobody asks for more than its content. So Python hands over what has arrived (`hand_over`): the
 * content, until when it may be believed, and the number under which the kernel was told of the file, in this very state.
 * Here the content goes to the kernel with the reply to an open, reads of it are answered, and closes.
 *
 * Whatever else concerns the file is Python's: it takes the file back first (`take_back`), with the handles that are open,
 * and goes on as if it had opened it itself. So does a request that comes too late for the content to be believed.
 */
#include "handed.h"
#include "turns.h"
#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define MOST 2048u
#define BUCKETS 4096u
#define MOST_OPEN 4u /* handles of one file; a program that wants more is Python's */
#define MOST_NEWS 8u
#define OURS (1ull << 61) /* handles with this bit alone are made here, the others by Python */
#define NOBODY (-1)
#define WRITING (O_WRONLY | O_RDWR | O_TRUNC | O_APPEND | O_CREAT)

enum { UNKNOWN, GOOD, DAMAGED };

struct handed {
    uint64_t id, checksum;
    long long until;   /* of the monotonic clock, in ns: nothing is answered from then on */
    Py_buffer content; /* obj is NULL where the slot is free */
    PyObject *what;    /* what Python calls the file */
    int next;          /* of the bucket, or of the free slots */
    int used, soon, state;
    unsigned opens;
    struct {
        uint64_t handle;
        int thread;
    } open[MOST_OPEN];
};

static struct handed slots[MOST];
static int buckets[BUCKETS], vacant = NOBODY;
static unsigned fresh;      /* slots from here on were never used */
static uint64_t serial;     /* of handles */
static int prepared;
static PyObject *news[2 * MOST_NEWS]; /* what, thread, what, thread, ... */
static unsigned news_count;
static int news_soon;    /* Python waits for them, or must look at who it was while that one is there */
static int known_thread;

static int *bucket_of(uint64_t id)
{
    if (!prepared) {
        for (unsigned i = 0; i < BUCKETS; i++)
            buckets[i] = NOBODY;
        prepared = 1;
    }
    return &buckets[(id * 0x9E3779B97F4A7C15ull) >> 52 & (BUCKETS - 1)];
}

static struct handed *find(uint64_t id)
{
    for (int at = *bucket_of(id); at != NOBODY; at = slots[at].next)
        if (slots[at].id == id)
            return &slots[at];
    return NULL;
}

/* The file that has this handle open, and at which place; NULL where none has. */
static struct handed *find_open(uint64_t handle, unsigned *place)
{
    unsigned at = handle & 0xFFFF;

    if (handle >> 61 != 1 || at >= MOST || !slots[at].content.obj)
        return NULL;
    for (unsigned i = 0; i < slots[at].opens; i++)
        if (slots[at].open[i].handle == handle) {
            *place = i;
            return &slots[at];
        }
    return NULL;
}

static void drop(struct handed *file)
{
    int at = (int)(file - slots), *link = bucket_of(file->id);

    while (*link != at)
        link = &slots[*link].next;
    *link = file->next;
    PyBuffer_Release(&file->content);
    Py_CLEAR(file->what);
    memset(file, 0, sizeof *file);
    file->next = vacant;
    vacant = at;
}

/* --- requests ---------------------------------------------------------------------------------------------------- */

static int is_intact(struct handed *file)
{
    if (file->state == UNKNOWN)
        file->state = wire_hash(file->content.buf, (size_t)file->content.len) == file->checksum ? GOOD : DAMAGED;
    return file->state == GOOD;
}

static void note_use(struct handed *file, int thread)
{
    PyObject *by = PyLong_FromLong(thread);

    if (!by || news_count == MOST_NEWS) {
        PyErr_Clear();
        Py_XDECREF(by);
        return;
    }
    news[2 * news_count] = Py_NewRef(file->what);
    news[2 * news_count++ + 1] = by;
    news_soon |= file->soon || thread != known_thread;
    known_thread = thread;
}

static void close_at(struct handed *file, unsigned place)
{
    file->open[place] = file->open[--file->opens];
}

int handed_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct handed *file = find(ino);
    int thread = (int)fuse_req_ctx(req)->pid;

    if (!file || (fi->flags & WRITING) || file->opens == MOST_OPEN || monotonic_ns() >= file->until || !is_intact(file))
        return 0;
    fi->fh = OURS | ++serial << 16 | (uint64_t)(file - slots);
    /* Only the first open brings the content, since nobody can wait for a page of a file that nobody has open. */
    fi->keep_cache = file->used || answers_store(ino, file->content.buf, (size_t)file->content.len);
    file->used = 1;
    file->open[file->opens].handle = fi->fh;
    file->open[file->opens++].thread = thread;
    note_use(file, thread);
    if (fuse_reply_open(req, fi) == -ENOENT) /* whoever opened it was interrupted and will not close it */
        close_at(file, file->opens - 1);
    return 1;
}

int handed_read(fuse_req_t req, uint64_t handle, size_t size, off_t offset)
{
    unsigned place;
    struct handed *file = find_open(handle, &place);
    size_t length, begin;

    if (!file)
        return 0;
    if (monotonic_ns() >= file->until) {
        Py_XDECREF(answers_ask(RECLAIM, Py_BuildValue("(K)", (unsigned long long)file->id)));
        return 0;
    }
    length = (size_t)file->content.len;
    begin = offset < 0 || (uint64_t)offset > length ? length : (size_t)offset;
    fuse_reply_buf(req, (const char *)file->content.buf + begin, size < length - begin ? size : length - begin);
    return 1;
}

int handed_release(fuse_req_t req, uint64_t handle)
{
    unsigned place;
    struct handed *file = find_open(handle, &place);

    if (!file)
        return 0;
    close_at(file, place);
    fuse_reply_err(req, 0);
    return 1;
}

void handed_tell(int all)
{
    PyObject *list;
    unsigned count = 2 * news_count;

    if (!count || (!all && !news_soon && news_count < MOST_NEWS))
        return;
    news_count = 0;
    news_soon = 0;
    list = PyList_New(count);
    for (unsigned i = 0; i < count; i++)
        if (list)
            PyList_SET_ITEM(list, i, news[i]);
        else
            Py_DECREF(news[i]);
    if (list)
        Py_XDECREF(answers_ask(NOTICED, Py_BuildValue("(N)", list)));
    else
        PyErr_Clear();
}

void handed_forget_all(void)
{
    for (unsigned i = 0; i < fresh; i++)
        if (slots[i].content.obj)
            drop(&slots[i]);
    while (news_count) {
        Py_DECREF(news[2 * --news_count]);
        Py_DECREF(news[2 * news_count + 1]);
    }
}

/* --- the module's functions --------------------------------------------------------------------------------------- */

PyObject *handed_over(PyObject *module, PyObject *arguments)
{
    unsigned long long id, checksum;
    PyObject *content, *what;
    struct handed *file;
    double seconds;
    int at, soon, *bucket;

    (void)module;
    if (!PyArg_ParseTuple(arguments, "KOKdpO", &id, &content, &checksum, &seconds, &soon, &what))
        return NULL;
    if (!wire_ready() || !(seconds > 0 && seconds < 1e6) || find(id) || (vacant == NOBODY && fresh == MOST))
        Py_RETURN_FALSE;
    at = vacant == NOBODY ? (int)fresh : vacant;
    file = &slots[at];
    if (PyObject_GetBuffer(content, &file->content, PyBUF_CONTIG_RO) != 0)
        return NULL;
    if (vacant == NOBODY)
        fresh++;
    else
        vacant = file->next;
    file->id = id;
    file->checksum = checksum;
    file->until = monotonic_ns() + (long long)(seconds * 1e9);
    file->soon = soon;
    file->what = Py_NewRef(what);
    bucket = bucket_of(id);
    file->next = *bucket;
    *bucket = at;
    Py_RETURN_TRUE;
}

PyObject *handed_take_back(PyObject *module, PyObject *id)
{
    unsigned long long number = PyLong_AsUnsignedLongLong(id);
    struct handed *file;
    PyObject *handles, *answer;

    (void)module;
    if (PyErr_Occurred())
        return NULL;
    file = find(number);
    if (!file)
        Py_RETURN_NONE;
    handles = PyList_New(0);
    for (unsigned i = 0; handles && i < file->opens; i++) {
        PyObject *one = Py_BuildValue("(Ki)", (unsigned long long)file->open[i].handle, file->open[i].thread);

        if (!one || PyList_Append(handles, one) != 0)
            Py_CLEAR(handles);
        Py_XDECREF(one);
    }
    answer = handles ? Py_BuildValue("(NN)", handles, PyBool_FromLong(file->used)) : NULL;
    if (answer)
        drop(file);
    return answer;
}

PyObject *handed_rests(PyObject *module, PyObject *id)
{
    unsigned long long number = PyLong_AsUnsignedLongLong(id);
    struct handed *file;

    (void)module;
    if (PyErr_Occurred())
        return NULL;
    file = find(number);
    return PyBool_FromLong(file && file->used && !file->opens);
}

PyObject *handed_open_now(PyObject *module, PyObject *unused)
{
    PyObject *ids = PyList_New(0);

    (void)module;
    (void)unused;
    for (unsigned i = 0; ids && i < fresh; i++)
        if (slots[i].content.obj && slots[i].opens) {
            PyObject *id = PyLong_FromUnsignedLongLong(slots[i].id);

            if (!id || PyList_Append(ids, id) != 0)
                Py_CLEAR(ids);
            Py_XDECREF(id);
        }
    return ids;
}
