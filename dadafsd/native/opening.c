/* Many small files opened and read in two calls, for a thread of the head that has nothing else to do meanwhile.
 *
 * One after the other in Python each of them takes seven system calls with the interpreter's lock given back and taken
 * again around each, and most of the time goes into that. Here the lock is given back once for all of them. What is
 * opened, and how, is what `dadafsd.export` does for a single file: the object is looked at before it is opened, and the
 * very object that was looked at is opened.
 *
 * Nothing is decided here: what could not be opened, or changed while it was read, is None, and Python finds out why.
 */
#include "opening.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RACES 16 /* openat2 answers EAGAIN when a rename raced with it */
#define MOST 4096 /* files in one call */

struct file {
    const char *path; /* of `open_small` */
    int fd;           /* -1: it was not opened */
    struct stat found;
    char *into; /* of `read_small`: where the content goes */
    int whole;  /* whether it came, all of one state */
};

/* --- opening ------------------------------------------------------------------------------------------------------- */

static int beneath(int root, const char *path)
{
    struct open_how how = {.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS};
    int fd = -1;

    for (int i = 0; i < RACES; i++) {
        fd = (int)syscall(SYS_openat2, root, path, &how, sizeof how);
        if (fd >= 0 || (errno != EAGAIN && errno != EINTR))
            break;
    }
    return fd;
}

/* The object behind an O_PATH descriptor, for reading; without a trace in its access time where we may. */
static int for_reading(int held)
{
    const int flags = O_RDONLY | O_NONBLOCK | O_CLOEXEC;
    char place[32];
    int fd;

    snprintf(place, sizeof place, "/proc/self/fd/%d", held);
    fd = open(place, flags | O_NOATIME);
    return fd >= 0 || errno != EPERM ? fd : open(place, flags);
}

static void open_one(int root, struct file *file)
{
    int held = beneath(root, file->path);

    if (held < 0)
        return;
    if (fstat(held, &file->found) == 0 && S_ISREG(file->found.st_mode))
        file->fd = for_reading(held);
    close(held);
}

/* All of them in order, up to the first that does not fit into `room`; those larger than `most` are left out. */
static void open_in_order(int root, struct file *files, Py_ssize_t count, long long most, long long room)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        struct file *file = &files[i];

        open_one(root, file);
        if (file->fd < 0)
            continue;
        if (file->found.st_size <= most && file->found.st_size <= room) {
            room -= file->found.st_size;
            continue;
        }
        close(file->fd);
        file->fd = -1;
        if (file->found.st_size > room)
            return;
    }
}

/* (fd, dev, ino, mode, nlink, uid, gid, rdev, size, blocks, blksize, atime_ns, mtime_ns, ctime_ns) */
static PyObject *described(const struct file *file)
{
    const struct stat *s = &file->found;

    return Py_BuildValue("(iKKkKkkKLLLLLL)", file->fd, (unsigned long long)s->st_dev, (unsigned long long)s->st_ino,
                         (unsigned long)s->st_mode, (unsigned long long)s->st_nlink, (unsigned long)s->st_uid,
                         (unsigned long)s->st_gid, (unsigned long long)s->st_rdev, (long long)s->st_size,
                         (long long)s->st_blocks, (long long)s->st_blksize, ns(s->st_atim), ns(s->st_mtim),
                         ns(s->st_ctim));
}

/* The list for Python, which owns the descriptors in it; on failure they are closed. */
static PyObject *list_of(const struct file *files, Py_ssize_t count)
{
    PyObject *list = PyList_New(count);

    for (Py_ssize_t i = 0; list && i < count; i++) {
        PyObject *one = files[i].fd < 0 ? Py_NewRef(Py_None) : described(&files[i]);

        if (one)
            PyList_SET_ITEM(list, i, one);
        else
            Py_CLEAR(list);
    }
    for (Py_ssize_t i = 0; !list && i < count; i++)
        if (files[i].fd >= 0)
            close(files[i].fd);
    return list;
}

/* `count` empty files, to be freed by PyMem_Free; NULL with an exception where there are too many. */
static struct file *files_for(Py_ssize_t count)
{
    struct file *files;

    if (count > MOST) {
        PyErr_Format(PyExc_ValueError, "more than %d files", MOST);
        return NULL;
    }
    files = PyMem_Calloc((size_t)count + 1, sizeof *files);
    if (!files)
        PyErr_NoMemory();
    for (Py_ssize_t i = 0; files && i < count; i++)
        files[i].fd = -1;
    return files;
}

static PyObject *open_small(PyObject *module, PyObject *arguments)
{
    PyObject *given, *paths, *list = NULL;
    struct file *files = NULL;
    long long most, room;
    Py_ssize_t count;
    int root;

    (void)module;
    if (!PyArg_ParseTuple(arguments, "iOLL", &root, &given, &most, &room))
        return NULL;
    paths = PySequence_Tuple(given); /* nobody else can change it while the lock is given back */
    if (!paths)
        return NULL;
    count = PyTuple_GET_SIZE(paths);
    files = files_for(count);
    for (Py_ssize_t i = 0; files && i < count; i++) {
        char *path;

        if (PyBytes_AsStringAndSize(PyTuple_GET_ITEM(paths, i), &path, NULL) != 0) { /* no bytes, or a NUL in them */
            PyMem_Free(files);
            files = NULL;
            break;
        }
        files[i].path = path;
    }
    if (files) {
        Py_BEGIN_ALLOW_THREADS
        open_in_order(root, files, count, most, room);
        Py_END_ALLOW_THREADS
        list = list_of(files, count);
    }
    PyMem_Free(files);
    Py_DECREF(paths);
    return list;
}

/* --- reading ------------------------------------------------------------------------------------------------------- */

static int same_state(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
           ns(a->st_mtim) == ns(b->st_mtim) && ns(a->st_ctim) == ns(b->st_ctim);
}

/* The whole file, if it is in the state `found` before and after. */
static void read_one(struct file *file)
{
    off_t size = file->found.st_size, have = 0;
    struct stat after;

    while (have < size) {
        ssize_t got = pread(file->fd, file->into + have, (size_t)(size - have), have);

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return;
        have += got;
    }
    file->whole = fstat(file->fd, &after) == 0 && same_state(&after, &file->found);
}

/* What Python says of a file: (fd, dev, ino, size, mtime_ns, ctime_ns). Returns 0, or -1 with an exception. */
static int taken(PyObject *said, struct file *file, long long most)
{
    unsigned long long dev, ino;
    long long size, mtime, ctime;

    if (!PyTuple_Check(said)) {
        PyErr_SetString(PyExc_TypeError, "a file is a tuple");
        return -1;
    }
    if (!PyArg_ParseTuple(said, "iKKLLL", &file->fd, &dev, &ino, &size, &mtime, &ctime))
        return -1;
    if (size < 0 || size > most) {
        PyErr_SetString(PyExc_ValueError, "no small file");
        return -1;
    }
    file->found.st_dev = (dev_t)dev;
    file->found.st_ino = (ino_t)ino;
    file->found.st_size = size;
    file->found.st_mtim = (struct timespec){mtime / 1000000000, mtime % 1000000000};
    file->found.st_ctim = (struct timespec){ctime / 1000000000, ctime % 1000000000};
    return 0;
}

/* A list of as many bytes objects as there are files, and `files` made ready to be filled; NULL with an exception. */
static PyObject *room_for(PyObject *said, struct file *files, long long most)
{
    Py_ssize_t count = PyTuple_GET_SIZE(said);
    PyObject *contents = PyList_New(count);

    for (Py_ssize_t i = 0; contents && i < count; i++) {
        PyObject *content = NULL;

        if (taken(PyTuple_GET_ITEM(said, i), &files[i], most) == 0)
            content = PyBytes_FromStringAndSize(NULL, files[i].found.st_size);
        if (content) {
            files[i].into = PyBytes_AS_STRING(content);
            PyList_SET_ITEM(contents, i, content);
        } else {
            Py_CLEAR(contents);
        }
    }
    return contents;
}

static PyObject *read_small(PyObject *module, PyObject *arguments)
{
    PyObject *given, *said, *contents = NULL;
    struct file *files;
    long long most;
    Py_ssize_t count;

    (void)module;
    if (!PyArg_ParseTuple(arguments, "OL", &given, &most))
        return NULL;
    said = PySequence_Tuple(given);
    if (!said)
        return NULL;
    count = PyTuple_GET_SIZE(said);
    files = files_for(count);
    if (files)
        contents = room_for(said, files, most);
    if (contents) {
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; i < count; i++)
            read_one(&files[i]);
        Py_END_ALLOW_THREADS
        for (Py_ssize_t i = 0; i < count; i++)
            if (!files[i].whole && PyList_SetItem(contents, i, Py_NewRef(Py_None)) != 0) {
                Py_CLEAR(contents);
                break;
            }
    }
    PyMem_Free(files);
    Py_DECREF(said);
    return contents;
}

static PyMethodDef methods[] = {
    {"open_small", open_small, METH_VARARGS,
     "open_small(root, paths, most, room) -> for each path None, or the descriptor and attributes of a regular file"},
    {"read_small", read_small, METH_VARARGS,
     "read_small([(fd, dev, ino, size, mtime_ns, ctime_ns)], most) -> for each its content in that state, or None"},
    {"list_some", list_some, METH_O,
     "list_some(fd) -> some more names of a directory with their attributes, or None at its end"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_dadafsd_opening",
                                        "Many small files opened and read at a time.", -1, methods, NULL, NULL, NULL,
                                        NULL};

PyMODINIT_FUNC PyInit__dadafsd_opening(void);

PyMODINIT_FUNC PyInit__dadafsd_opening(void)
{
    return PyModule_Create(&definition);
}
