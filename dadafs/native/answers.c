/* Requests that can be answered without waiting are answered in place, one after the other.
 *
 * Most requests of a busy mount (a look-up that is believed, a read that the RAM cache has) need a few microseconds of
 * Python. pyfuse3 spends several times that on each: a coroutine, a lock, a task that is woken, and an epoll for the
 * next request. Here the handlers of the hot requests first call a plain Python function. What it returns is the reply;
 * where it returns None, or raises, pyfuse3's own handler runs as if nothing had been asked. After a reply given in
 * place the next request is taken without the loop: see turns.c.
 *
 * A read may also be answered later: where the function returns True it has kept the request that it was given, and calls
 * `reply` or `fail` with it, once. A request that is dropped without that is answered with EIO, so nobody waits for ever.
 *
 * Everything happens in the thread of the loop, which holds the interpreter's lock. Where the symbols of libfuse cannot
 * be found, or pyfuse3 was built in another way, nothing of this is called and everything works as it does without.
 */
#include "answers.h"
#include "handed.h"
#include "hot_reads.h"
#include "turns.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>

#define BULK (64 << 10) /* after a reply of more bytes than this the next request is not waited for */
#define SMALL_HANDLES 64
#define MOST_RELEASED 64
#define PIECES 64       /* of a read, at most; each lies in another fragment */

static const char *const names[COUNT] = {"lookup", "getattr",  "open",    "read",    "release",
                                         "forget", "getxattr", "opendir", "readdir", "releasedir", "idle",
                                         "number",   "interrupt", "retry",  "noticed", "reclaim"};
static PyObject *callables[COUNT];
static struct fuse_lowlevel_ops inner;
static unsigned long long total; /* requests answered here */
static uintptr_t mount_number;   /* requests of another mount than this one are gone */

/* --- Python's answers ------------------------------------------------------------------------------------------ */

/* A new reference to what the callable says to `arguments`, which is released; NULL where it has nothing to say. */
PyObject *answers_ask(int which, PyObject *arguments)
{
    PyObject *answer = NULL;

    if (arguments && callables[which])
        answer = PyObject_CallObject(callables[which], arguments);
    Py_XDECREF(arguments);
    if (answer == Py_None)
        Py_CLEAR(answer);
    if (PyErr_Occurred())
        PyErr_Clear(); /* the handler proper meets the same error and tells of it */
    return answer;
}

/* --- requests that are answered later ---------------------------------------------------------------------------- */

#define WAITING "dadafs request"
#define ANSWERED "dadafs request that was answered"

/* The request in `capsule`, which is from now on an answered one; NULL where it was answered, or its mount is gone. */
static fuse_req_t taken(PyObject *capsule)
{
    fuse_req_t req = NULL;

    if (PyCapsule_IsValid(capsule, WAITING)) {
        if ((uintptr_t)PyCapsule_GetContext(capsule) == mount_number)
            req = PyCapsule_GetPointer(capsule, WAITING);
        PyCapsule_SetName(capsule, ANSWERED);
    }
    return req;
}

static void dropped(PyObject *capsule)
{
    fuse_req_t req = taken(capsule);

    if (req)
        fuse_reply_err(req, EIO);
}

PyObject *answers_request(fuse_req_t req)
{
    PyObject *capsule = PyCapsule_New(req, WAITING, dropped);

    if (capsule)
        PyCapsule_SetContext(capsule, (void *)mount_number);
    return capsule;
}

/* Answer a read with `data`, a buffer or a tuple of some that follow each other; how many bytes, or -1 where it is
 * neither and nothing was answered. */
static Py_ssize_t reply_with(fuse_req_t req, PyObject *data)
{
    Py_ssize_t count = PyTuple_Check(data) ? PyTuple_GET_SIZE(data) : 1, size = 0, got = 0;
    Py_buffer buffers[PIECES];
    struct iovec parts[PIECES];

    for (; got < count && got < PIECES; got++) {
        PyObject *one = PyTuple_Check(data) ? PyTuple_GET_ITEM(data, got) : data;

        if (PyObject_GetBuffer(one, &buffers[got], PyBUF_CONTIG_RO) != 0)
            break;
        parts[got] = (struct iovec){buffers[got].buf, (size_t)buffers[got].len};
        size += buffers[got].len;
    }
    if (got < count) {
        size = -1;
        PyErr_Clear();
    } else {
        fuse_reply_iov(req, parts, (int)count);
    }
    while (got > 0)
        PyBuffer_Release(&buffers[--got]);
    return size;
}

PyObject *answers_reply(PyObject *module, PyObject *arguments)
{
    PyObject *capsule, *data;
    fuse_req_t req;

    (void)module;
    if (!PyArg_ParseTuple(arguments, "OO", &capsule, &data))
        return NULL;
    req = taken(capsule);
    if (req && reply_with(req, data) < 0) {
        fuse_reply_err(req, EIO);
        PyErr_SetString(PyExc_TypeError, "a read is answered with buffers");
        return NULL;
    }
    return PyBool_FromLong(req != NULL);
}

PyObject *answers_fail(PyObject *module, PyObject *arguments)
{
    PyObject *capsule;
    fuse_req_t req;
    int number;

    (void)module;
    if (!PyArg_ParseTuple(arguments, "Oi", &capsule, &number))
        return NULL;
    req = taken(capsule);
    if (req)
        fuse_reply_err(req, number);
    return PyBool_FromLong(req != NULL);
}

/* --- handlers: help ------------------------------------------------------------------------------------------------ */

static void answered(void)
{
    turn.in_place = turn.awaited = 1;
    total++;
}

void answers_set_time(struct timespec *time, long long ns)
{
    time->tv_sec = ns / 1000000000;
    time->tv_nsec = ns % 1000000000;
    if (time->tv_nsec < 0) {
        time->tv_sec -= 1;
        time->tv_nsec += 1000000000;
    }
}

/* `Told(id, fields, timeout)` as the kernel wants it; `fields` is None, or (dev, ino, mode, nlink, uid, gid, rdev, size,
 * blocks, blksize, atime_ns, mtime_ns, ctime_ns). Returns 0, or -1 where it is something else. */
int answers_told(PyObject *answer, struct fuse_entry_param *entry)
{
    PyObject *fields;
    long long v[13];

    memset(entry, 0, sizeof *entry);
    if (!PyTuple_Check(answer) || PyTuple_GET_SIZE(answer) != 3)
        return -1;
    entry->ino = PyLong_AsUnsignedLongLongMask(PyTuple_GET_ITEM(answer, 0));
    entry->attr.st_ino = replies_number(entry->ino);
    fields = PyTuple_GET_ITEM(answer, 1);
    entry->attr_timeout = entry->entry_timeout = PyFloat_AsDouble(PyTuple_GET_ITEM(answer, 2));
    if (fields != Py_None) {
        if (!PyTuple_Check(fields) || PyTuple_GET_SIZE(fields) != 13)
            return -1;
        for (int i = 0; i < 13; i++)
            v[i] = (long long)PyLong_AsUnsignedLongLongMask(PyTuple_GET_ITEM(fields, i));
        entry->attr.st_mode = (mode_t)v[2];
        entry->attr.st_nlink = (nlink_t)v[3];
        entry->attr.st_uid = (uid_t)v[4];
        entry->attr.st_gid = (gid_t)v[5];
        entry->attr.st_rdev = (dev_t)v[6];
        entry->attr.st_size = v[7];
        entry->attr.st_blocks = v[8];
        entry->attr.st_blksize = (blksize_t)v[9];
        answers_set_time(&entry->attr.st_atim, v[10]);
        answers_set_time(&entry->attr.st_mtim, v[11]);
        answers_set_time(&entry->attr.st_ctim, v[12]);
    }
    if (PyErr_Occurred()) {
        PyErr_Clear();
        return -1;
    }
    return 0;
}

/* --- what can wait for the reply ---------------------------------------------------------------------------------- */

/* What is wanted done once the reply to the present request is on its way. */
static int asking;
static PyObject *due;

PyObject *answers_afterwards(PyObject *module, PyObject *work)
{
    (void)module;
    if (!asking || due)
        Py_RETURN_FALSE;
    due = Py_NewRef(work);
    Py_RETURN_TRUE;
}

/* As answers_ask, of a request after whose reply something may be due. */
static PyObject *ask_with_more(int which, PyObject *arguments)
{
    PyObject *answer;

    asking = 1;
    answer = answers_ask(which, arguments);
    asking = 0;
    return answer;
}

static void do_what_is_due(void)
{
    PyObject *work = due, *result;

    if (!work)
        return;
    due = NULL;
    result = PyObject_CallNoArgs(work);
    if (!result)
        PyErr_WriteUnraisable(work);
    Py_XDECREF(result);
    Py_DECREF(work);
}

/* Handles of small files that were opened lately. That one is closed is nothing that the next open need wait for; of other
 * files it may be: a program that opens a file anew goes on where it was. */
static uint64_t small_handles[SMALL_HANDLES];
static unsigned next_small;
static uint64_t released[MOST_RELEASED]; /* and answered, Python does not know yet */
static unsigned released_count;

static int is_small(uint64_t handle)
{
    for (unsigned i = 0; i < SMALL_HANDLES; i++)
        if (small_handles[i] == handle)
            return handle != 0;
    return 0;
}

int answers_release_one(void)
{
    if (!released_count)
        return 0;
    Py_XDECREF(answers_ask(RELEASE, Py_BuildValue("(K)", (unsigned long long)released[--released_count])));
    return 1;
}

void answers_settle(void)
{
    while (answers_release_one())
        ;
}

/* --- handlers --------------------------------------------------------------------------------------------------- */

static void lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    PyObject *answer = answers_ask(LOOKUP, Py_BuildValue("(Ky)", (unsigned long long)parent, name));
    struct fuse_entry_param entry;

    if (answer && answers_told(answer, &entry) == 0) {
        fuse_reply_entry(req, &entry);
        answered();
    } else {
        inner.lookup(req, parent, name);
    }
    Py_XDECREF(answer);
}

static void getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    PyObject *answer = answers_ask(GETATTR, Py_BuildValue("(K)", (unsigned long long)ino));
    struct fuse_entry_param entry;

    if (answer && answers_told(answer, &entry) == 0) {
        fuse_reply_attr(req, &entry.attr, entry.attr_timeout);
        answered();
    } else {
        inner.getattr(req, ino, fi);
    }
    Py_XDECREF(answer);
}

int answers_store(fuse_ino_t ino, void *content, size_t length)
{
    struct fuse_bufvec vector = FUSE_BUFVEC_INIT(length);

    vector.buf[0].mem = content;
    return fuse_lowlevel_notify_store(turn.session, ino, 0, &vector, 0) == 0;
}

static int stored(fuse_ino_t ino, PyObject *content)
{
    Py_buffer data;
    int done;

    if (PyObject_GetBuffer(content, &data, PyBUF_CONTIG_RO) != 0) {
        PyErr_Clear();
        return 0;
    }
    done = answers_store(ino, data.buf, (size_t)data.len);
    PyBuffer_Release(&data);
    return done;
}

static void open_(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    int thread = (int)fuse_req_ctx(req)->pid;
    PyObject *answer, *content = Py_None;
    unsigned long long handle;
    int keep;

    if (handed_open(req, ino, fi)) {
        answered();
        handed_tell(0);
        return;
    }
    answer = ask_with_more(OPEN, Py_BuildValue("(Kii)", (unsigned long long)ino, fi->flags, thread));
    if (answer && PyTuple_Check(answer) && PyArg_ParseTuple(answer, "Kp|O", &handle, &keep, &content)) {
        fi->fh = handle;
        if (content != Py_None)
            small_handles[next_small++ % SMALL_HANDLES] = handle;
        fi->keep_cache = keep || (content != Py_None && stored(ino, content));
        if (fuse_reply_open(req, fi) == -ENOENT) /* whoever opened it was interrupted and will not close it */
            Py_XDECREF(answers_ask(RELEASE, Py_BuildValue("(K)", handle)));
        answered();
    } else {
        PyErr_Clear();
        inner.open(req, ino, fi);
    }
    Py_XDECREF(answer);
    do_what_is_due();
}

static void read_(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
    PyObject *request, *answer = NULL;
    Py_ssize_t sent;

    if (hot_read(req, fi->fh, size, offset) || handed_read(req, fi->fh, size, offset)) {
        answered();
        return;
    }
    request = answers_request(req);
    if (request)
        answer = ask_with_more(READ, Py_BuildValue("(KLnO)", (unsigned long long)fi->fh, (long long)offset,
                                                   (Py_ssize_t)size, request));
    if (answer == Py_True) {
        answered();
        turn.awaited = 0; /* it will be: the program still waits, and so does its reply on the way */
        Py_DECREF(answer);
        Py_DECREF(request);
        do_what_is_due();
        return;
    }
    if (request)
        taken(request);
    else
        PyErr_Clear();
    if (answer && (sent = reply_with(req, answer)) >= 0) {
        answered();
        if (sent > BULK)
            turn.awaited = 0; /* a program that has so much to look at sends nothing soon, and may need this processor */
    } else {
        inner.read(req, ino, size, offset, fi);
    }
    Py_XDECREF(request);
    Py_XDECREF(answer);
    do_what_is_due();
}

static void release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    PyObject *answer;

    if (handed_release(req, fi->fh)) {
        answered();
        return;
    }
    if (callables[RELEASE] && released_count < MOST_RELEASED && is_small(fi->fh)) {
        released[released_count++] = fi->fh;
        fuse_reply_err(req, 0);
        answered();
        return;
    }
    answer = answers_ask(RELEASE, Py_BuildValue("(K)", (unsigned long long)fi->fh));

    if (answer) {
        fuse_reply_err(req, 0);
        answered();
    } else {
        inner.release(req, ino, fi);
    }
    Py_XDECREF(answer);
}

static void forget(fuse_req_t req, fuse_ino_t ino, uint64_t count)
{
    PyObject *answer = answers_ask(FORGET, Py_BuildValue("(KK)", (unsigned long long)ino, (unsigned long long)count));

    if (answer) {
        fuse_reply_none(req);
        answered();
    } else {
        inner.forget(req, ino, count);
    }
    Py_XDECREF(answer);
}

/* The answer is the value, or an error number. */
static void getxattr_(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
    PyObject *answer = answers_ask(GETXATTR, Py_BuildValue("(Ky)", (unsigned long long)ino, name));

    if (answer && PyLong_Check(answer)) {
        fuse_reply_err(req, (int)PyLong_AsLong(answer));
        answered();
    } else if (answer && PyBytes_Check(answer)) {
        size_t length = (size_t)PyBytes_GET_SIZE(answer);

        if (size == 0)
            fuse_reply_xattr(req, length);
        else if (length > size)
            fuse_reply_err(req, ERANGE);
        else
            fuse_reply_buf(req, PyBytes_AS_STRING(answer), length);
        answered();
    } else {
        inner.getxattr(req, ino, name, size);
    }
    Py_XDECREF(answer);
}

static void opendir_(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    PyObject *answer = answers_ask(OPENDIR, Py_BuildValue("(Ki)", (unsigned long long)ino, (int)fuse_req_ctx(req)->pid));

    if (answer && PyLong_Check(answer)) {
        fi->fh = PyLong_AsUnsignedLongLongMask(answer);
        if (fuse_reply_open(req, fi) == -ENOENT) /* as for a file */
            Py_XDECREF(answers_ask(RELEASEDIR, Py_BuildValue("(K)", (unsigned long long)fi->fh)));
        answered();
    } else {
        inner.opendir(req, ino, fi);
    }
    Py_XDECREF(answer);
}

static void readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
    PyObject *answer = answers_ask(READDIR, Py_BuildValue("(KLn)", (unsigned long long)fi->fh, (long long)offset,
                                                          (Py_ssize_t)size));

    if (answer && PyBytes_Check(answer) && (size_t)PyBytes_GET_SIZE(answer) <= size) {
        fuse_reply_buf(req, PyBytes_AS_STRING(answer), (size_t)PyBytes_GET_SIZE(answer));
        answered();
    } else {
        inner.readdirplus(req, ino, size, offset, fi);
    }
    Py_XDECREF(answer);
}

static void releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    PyObject *answer = answers_ask(RELEASEDIR, Py_BuildValue("(K)", (unsigned long long)fi->fh));

    if (answer) {
        fuse_reply_err(req, 0);
        answered();
    } else {
        inner.releasedir(req, ino, fi);
    }
    Py_XDECREF(answer);
}

void answers_install(struct fuse_lowlevel_ops *ops)
{
    inner = *ops;
    ops->lookup = lookup;
    ops->getattr = getattr;
    ops->open = open_;
    ops->read = read_;
    ops->release = release;
    ops->forget = forget;
    ops->getxattr = getxattr_;
    ops->opendir = opendir_;
    ops->readdirplus = readdirplus;
    ops->releasedir = releasedir;
}

/* --- the module's functions --------------------------------------------------------------------------------------- */

PyObject *answers_set(PyObject *module, PyObject *arguments, PyObject *keywords)
{
    (void)module;
    if (PyTuple_GET_SIZE(arguments)) {
        PyErr_SetString(PyExc_TypeError, "answer() takes keyword arguments only");
        return NULL;
    }
    mount_number++;
    hot_forget_all();
    handed_forget_all();
    for (int i = 0; i < COUNT; i++) {
        PyObject *callable = keywords ? PyDict_GetItemString(keywords, names[i]) : NULL;
        Py_XINCREF(callable);
        Py_XSETREF(callables[i], callable);
    }
    Py_RETURN_NONE;
}

PyObject *answers_count(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyLong_FromUnsignedLongLong(total);
}
