/* The names in a directory with their attributes, many in one call, for a thread of the head.
 *
 * os.scandir gives the interpreter's lock back for each name, and for each of their attributes; while the loop is busy it
 * has to be waited for each time, longer than all the rest takes. Here it is given back once for some hundred names.
 */
#include "opening.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ROOM (32 << 10) /* of names in one call; each takes 24 bytes at least */
#define MOST (ROOM / 24)

struct entry {
    uint64_t ino;
    int64_t offset;
    unsigned short length;
    unsigned char type;
    char name[];
};

struct item {
    const char *name;
    char *target; /* of a link */
    ssize_t target_length;
    struct stat found;
};

struct page {
    unsigned count;
    int end; /* there was nothing more */
    struct item items[MOST];
    char names[ROOM] __attribute__((aligned(8)));
};

/* Look at the object `name`; 1 where it is to be told of, 0 where it is gone, -1 with errno. */
static int look(int directory, const char *name, struct item *item)
{
    char target[PATH_MAX];

    item->name = name;
    if (fstatat(directory, name, &item->found, AT_SYMLINK_NOFOLLOW) != 0)
        return errno == ENOENT ? 0 : -1;
    if (!S_ISLNK(item->found.st_mode))
        return 1;
    item->target_length = readlinkat(directory, name, target, sizeof target);
    if (item->target_length < 0) /* EINVAL: something else is there now */
        return errno == ENOENT || errno == EINVAL ? 0 : -1;
    item->target = malloc((size_t)item->target_length + 1);
    if (!item->target)
        return -1;
    memcpy(item->target, target, (size_t)item->target_length);
    return 1;
}

/* The next names of the directory; 0, or -1 with errno. */
static int fill(int directory, struct page *page)
{
    long got = syscall(SYS_getdents64, directory, page->names, sizeof page->names);

    page->end = got == 0;
    for (long at = 0; at < got && page->count < MOST;) {
        struct entry *entry = (struct entry *)(page->names + at);
        int there;

        at += entry->length;
        if (strcmp(entry->name, ".") == 0 || strcmp(entry->name, "..") == 0)
            continue;
        there = look(directory, entry->name, &page->items[page->count]);
        if (there < 0)
            return -1;
        page->count += (unsigned)there;
    }
    return got < 0 ? -1 : 0;
}

/* (name, target, dev, ino, mode, nlink, uid, gid, rdev, size, blocks, blksize, atime_ns, mtime_ns, ctime_ns) */
static PyObject *described(const struct item *item)
{
    const struct stat *s = &item->found;

    return Py_BuildValue("(yy#KKkKkkKLLLLLL)", item->name, item->target, (Py_ssize_t)item->target_length,
                         (unsigned long long)s->st_dev, (unsigned long long)s->st_ino, (unsigned long)s->st_mode,
                         (unsigned long long)s->st_nlink, (unsigned long)s->st_uid, (unsigned long)s->st_gid,
                         (unsigned long long)s->st_rdev, (long long)s->st_size, (long long)s->st_blocks,
                         (long long)s->st_blksize, ns(s->st_atim), ns(s->st_mtim), ns(s->st_ctim));
}

PyObject *list_some(PyObject *module, PyObject *descriptor)
{
    int directory = (int)PyLong_AsLong(descriptor), failed;
    struct page *page;
    PyObject *list = NULL;

    (void)module;
    if (PyErr_Occurred())
        return NULL;
    page = calloc(1, sizeof *page);
    if (!page)
        return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    failed = fill(directory, page) != 0 ? errno : 0;
    Py_END_ALLOW_THREADS
    if (failed) {
        errno = failed;
        PyErr_SetFromErrno(PyExc_OSError);
    } else {
        list = page->end ? Py_NewRef(Py_None) : PyList_New(page->count);
    }
    for (unsigned i = 0; list && list != Py_None && i < page->count; i++) {
        PyObject *one = described(&page->items[i]);

        if (one)
            PyList_SET_ITEM(list, i, one);
        else
            Py_CLEAR(list);
    }
    for (unsigned i = 0; i < page->count; i++)
        free(page->items[i].target);
    free(page);
    return list;
}
