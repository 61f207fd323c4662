/* What pyfuse3 cannot say when a FUSE connection is negotiated, said for it.
 *
 * pyfuse3 fills in the `init` handler itself and offers no way to ask for more than it does. This module defines
 * `fuse_session_new` in the global symbol scope; loaded before pyfuse3, it is the one that pyfuse3 calls. It passes
 * everything on to libfuse, with an `init` that first calls pyfuse3's own and then adds:
 *
 * - FUSE_CAP_PARALLEL_DIROPS: without it the kernel lets the lookups of one directory take turns, and one lookup that
 *   waits for a head that is away keeps every other process waiting in D state behind it. libfuse 3.14 (Debian 12,
 *   Ubuntu 24.04) takes the wish and does not pass it on to the kernel, so the flag is also set in the reply itself, on
 *   its way through libfuse's own hook for custom I/O;
 * - max_background and congestion_threshold, which could otherwise be raised by root only, after mounting;
 * - handlers that answer in place what needs no waiting (answers.c).
 *
 * Where pyfuse3 was built against a libfuse whose session constructor has another name, it is simply not called, and
 * `negotiated()` says so by returning None.
 */
#include "answers.h"
#include "fetches.h"
#include "handed.h"
#include "hot_reads.h"
#include "turns.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define KERNEL_PARALLEL_DIROPS (1u << 18) /* FUSE_PARALLEL_DIROPS in linux/fuse.h */
#define LIBFUSE_PASSES_IT_ON 317          /* from this version on libfuse needs no help */

static void (*inner_init)(void *userdata, struct fuse_conn_info *conn);
static unsigned wanted_background;
static unsigned wanted_congestion;
static int reply_to_mend; /* the next reply is the one to FUSE_INIT */
static struct {
    int done;
    unsigned capable, want, background, congestion;
} result;

static void init_with_more(void *userdata, struct fuse_conn_info *conn)
{
    if (inner_init)
        inner_init(userdata, conn);
    if (conn->capable & FUSE_CAP_PARALLEL_DIROPS)
        conn->want |= FUSE_CAP_PARALLEL_DIROPS;
    if (wanted_background) {
        conn->max_background = wanted_background;
        conn->congestion_threshold = wanted_congestion;
    }
    reply_to_mend = (conn->want & FUSE_CAP_PARALLEL_DIROPS) != 0;
    result.done = 1;
    result.capable = conn->capable;
    result.want = conn->want;
    result.background = conn->max_background;
    result.congestion = conn->congestion_threshold;
}

/* Laid out as libfuse's fuse_custom_io, which older headers do not have. */
struct custom_io {
    ssize_t (*writev)(int fd, struct iovec *iov, int count, void *userdata);
    ssize_t (*read)(int fd, void *buf, size_t len, void *userdata);
    void *splice_receive, *splice_send;
};

static ssize_t mending_writev(int fd, struct iovec *iov, int count, void *userdata)
{
    (void)userdata;
    if (reply_to_mend) {
        /* fuse_out_header, then fuse_init_out: major, minor, max_readahead, flags */
        if (count == 2 && iov[1].iov_len >= 4 * sizeof(uint32_t))
            ((uint32_t *)iov[1].iov_base)[3] |= KERNEL_PARALLEL_DIROPS;
        reply_to_mend = 0;
    }
    return writev(fd, iov, count);
}

static int unblocked; /* the descriptor that does not block */

/* A request that the loop saw may be gone when it is read, because its caller was killed. A read that blocks then would
 * stop everything until somebody sends the next one; "interrupted" makes pyfuse3 wait for that as it should. */
static ssize_t read_if_any(int fd, void *buf, size_t len, void *userdata)
{
    ssize_t got;

    (void)userdata;
    if (unblocked != fd && fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) == 0)
        unblocked = fd;
    got = read(fd, buf, len);
    if (got < 0 && errno == EAGAIN)
        errno = EINTR;
    return got;
}

typedef int custom_io_fn(struct fuse_session *, const struct custom_io *, int);
typedef int version_fn(void);

/* Route the session's replies through `mending_writev` and its requests through `read_if_any`; the mount replaces the
 * descriptor given here. */
static void mend_replies(void *libfuse, struct fuse_session *session)
{
    static const struct custom_io io = {mending_writev, read_if_any, NULL, NULL};
    custom_io_fn *set_io;
    version_fn *version;
    int placeholder;

    *(void **)&set_io = dlsym(libfuse, "fuse_session_custom_io");
    *(void **)&version = dlsym(libfuse, "fuse_version");
    if (!session || !set_io || !version || version() >= LIBFUSE_PASSES_IT_ON)
        return;
    placeholder = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (placeholder >= 0 && set_io(session, &io, placeholder) != 0)
        close(placeholder);
}

typedef struct fuse_session *session_new_fn(struct fuse_args *, const struct fuse_lowlevel_ops *, size_t, void *);

__attribute__((visibility("default"))) struct fuse_session *
fuse_session_new(struct fuse_args *args, const struct fuse_lowlevel_ops *op, size_t op_size, void *userdata)
{
    struct fuse_lowlevel_ops mine;
    void *libfuse = dlopen("libfuse3.so.3", RTLD_LAZY | RTLD_NOLOAD);
    struct fuse_session *session;
    session_new_fn *real = NULL;

    if (libfuse)
        *(void **)&real = dlsym(libfuse, "fuse_session_new");
    if (!real)
        return NULL;
    if (op_size > sizeof mine) /* made for a newer libfuse than we know: leave it alone */
        return real(args, op, op_size, userdata);
    memset(&mine, 0, sizeof mine);
    memcpy(&mine, op, op_size);
    inner_init = mine.init;
    mine.init = init_with_more;
    answers_install(&mine);
    memset(&result, 0, sizeof result);
    unblocked = -1;
    session = real(args, &mine, op_size, userdata);
    mend_replies(libfuse, session);
    return session;
}

static PyObject *configure(PyObject *self, PyObject *args)
{
    (void)self;
    if (!PyArg_ParseTuple(args, "II", &wanted_background, &wanted_congestion))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *negotiated(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    if (!result.done)
        Py_RETURN_NONE;
    return Py_BuildValue("{s:N,s:I,s:I}", "parallel_dirops",
                         PyBool_FromLong((result.want & FUSE_CAP_PARALLEL_DIROPS) != 0), "max_background",
                         result.background, "congestion_threshold", result.congestion);
}

static PyObject *use_hash(PyObject *self, PyObject *args)
{
    const char *path;

    (void)self;
    if (!PyArg_ParseTuple(args, "s", &path))
        return NULL;
    return PyBool_FromLong(wire_use_hash(path) == 0);
}

static PyMethodDef methods[] = {
    {"use_hash", use_hash, METH_VARARGS,
     "use_hash(path): take XXH3 from the shared object at `path`; whether it has it. `Fetches` needs it."},
    {"configure", configure, METH_VARARGS,
     "configure(max_background, congestion_threshold): ask for these at the next mount; 0 leaves libfuse's own."},
    {"negotiated", negotiated, METH_NOARGS, "What the last session asked for, or None where none was negotiated."},
    {"answer", (PyCFunction)(void (*)(void))answers_set, METH_VARARGS | METH_KEYWORDS,
     "answer(lookup=, getattr=, open=, read=, release=, ...): plain functions that answer requests in place, or\n"
     "return None; those left out are taken back, and requests that were kept are void. See answers.c."},
    {"reply", answers_reply, METH_VARARGS,
     "reply(request, data): answer a read that was kept; whether it could still be answered."},
    {"fail", answers_fail, METH_VARARGS, "fail(request, errno): the same, with an error."},
    {"afterwards", answers_afterwards, METH_O,
     "afterwards(work): call it once the reply to the open or read that is answered in place is on its way; whether so."},
    {"entry", entries_one, METH_VARARGS, "entry(name, told, cookie) -> one name of a reply to READDIRPLUS."},
    {"entries", entries_many, METH_VARARGS,
     "entries(names, starts, records, first, stop, cookie, room, lasting, passing) -> (bytes, count): names of a page,\n"
     "as many as there is room for; `cookie` is that of the second one."},
    {"watch", turns_watch, METH_VARARGS,
     "watch(descriptor, runnable, handling): what tells that the loop has other things to do; see turns.c."},
    {"hot_start", hot_start, METH_VARARGS,
     "hot_start(blocks, bounds): keep so many blocks, count waiting times in these buckets (seconds); see hot_reads.c."},
    {"hot_attach", hot_attach, METH_VARARGS,
     "hot_attach(handle, file): whether small reads of an open file, a `HotFile` or None, are answered without asking."},
    {"hot_expire", hot_expire, METH_VARARGS, "hot_expire(seconds): hand over reads that have waited for so long."},
    {"hot_give_back", hot_give_back, METH_NOARGS, "hot_give_back(): whether the memory of the blocks was given back."},
    {"hot_drain", hot_drain, METH_NOARGS,
     "hot_drain() -> (tallies of handles, waiting times of each tier, latest reads), counted since the last call."},
    {"hand_over", handed_over, METH_VARARGS,
     "hand_over(id, content, checksum, seconds, soon, what): whether opens of a small file are answered without asking, for\n"
     "so long; with `soon` `noticed` is called after each. See handed.c."},
    {"take_back", handed_take_back, METH_O,
     "take_back(id) -> (list of (handle, thread) that are open, whether it was ever opened), or None: not handed over."},
    {"rests", handed_rests, METH_O, "rests(id): whether a file that was handed over was opened and is closed again."},
    {"handed_open", handed_open_now, METH_NOARGS, "handed_open() -> ids of the files handed over that are open."},
    {"list", listing_of, METH_VARARGS, "list(path): read through a directory; 0, or the number of the error."},
    {"current", interrupts_current, METH_NOARGS, "current() -> (number, thread) of the request that was processed last."},
    {"answered", answers_count, METH_NOARGS, "How many requests were answered in place so far."},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_dadafs_fuse", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__dadafs_fuse(void)
{
    PyObject *created = PyModule_Create(&module);

    if (created && (fetches_add_type(created) != 0 || hot_add_type(created) != 0))
        Py_CLEAR(created);
    return created;
}
