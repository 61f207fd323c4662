/* Replies to READDIRPLUS, packed here: most of what a walk through many directories costs is a few microseconds for each
 * name, and these are hundreds of thousands.
 *
 * What comes in is a page of a listing as `dadafs/listing.py` keeps it: all names in a row, where each begins, and one
 * record of fixed size for each object.
 */
#include "answers.h"

#include <endian.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

#define RECORD 84 /* <QQIIIIQqqIqqq: dev, ino, mode, nlink, uid, gid, rdev, size, blocks, blksize, three times */
#define LONGEST_NAME 255
#define MOST_BYTES (1 << 20) /* of one reply: the kernel asks for less */

static uint32_t u32(const char *at)
{
    uint32_t value;

    memcpy(&value, at, sizeof value);
    return le32toh(value);
}

static uint64_t u64(const char *at)
{
    uint64_t value;

    memcpy(&value, at, sizeof value);
    return le64toh(value);
}

static void unpack(const char *record, double lasting, double passing, struct fuse_entry_param *entry)
{
    memset(entry, 0, sizeof *entry);
    entry->ino = entry->attr.st_ino = u64(record + 8);
    entry->attr.st_mode = u32(record + 16);
    entry->attr.st_nlink = u32(record + 20);
    entry->attr.st_uid = u32(record + 24);
    entry->attr.st_gid = u32(record + 28);
    entry->attr.st_rdev = u64(record + 32);
    entry->attr.st_size = (off_t)u64(record + 40);
    entry->attr.st_blocks = (blkcnt_t)u64(record + 48);
    entry->attr.st_blksize = (blksize_t)u32(record + 56);
    answers_set_time(&entry->attr.st_atim, (long long)u64(record + 60));
    answers_set_time(&entry->attr.st_mtim, (long long)u64(record + 68));
    answers_set_time(&entry->attr.st_ctim, (long long)u64(record + 76));
    /* a lease on the directory shows every change of what is in it but of these (see `lease_covers`) */
    entry->attr_timeout = S_ISDIR(entry->attr.st_mode) || entry->attr.st_nlink > 1 ? passing : lasting;
    entry->entry_timeout = entry->attr_timeout;
}

/* entry(name, told, cookie of the next one) -> bytes */
PyObject *entries_one(PyObject *module, PyObject *arguments)
{
    char reply[1024];
    const char *name;
    PyObject *told;
    long long cookie;
    struct fuse_entry_param entry;
    size_t used;

    (void)module;
    if (!PyArg_ParseTuple(arguments, "yOL", &name, &told, &cookie))
        return NULL;
    if (strlen(name) > LONGEST_NAME || answers_told(told, &entry) != 0) {
        PyErr_SetString(PyExc_ValueError, "entry(name, told, cookie): a name that is too long, or not a Told");
        return NULL;
    }
    used = fuse_add_direntry_plus(NULL, reply, sizeof reply, name, &entry, (off_t)cookie);
    return PyBytes_FromStringAndSize(reply, (Py_ssize_t)used);
}

struct page {
    Py_buffer names, starts, records;
};

/* Append the objects `first` .. `stop` - 1 of `page` to `reply` as long as there is room; how many, or -1. */
static Py_ssize_t pack(const struct page *page, Py_ssize_t first, Py_ssize_t stop, long long cookie, char *reply,
                       size_t room, size_t *used, double lasting, double passing)
{
    const uint32_t *starts = page->starts.buf;
    const char *names = page->names.buf, *records = page->records.buf;
    char name[LONGEST_NAME + 1];
    struct fuse_entry_param entry;

    for (Py_ssize_t i = first; i < stop; i++) {
        uint32_t begin = starts[i], end = starts[i + 1];
        size_t taken;

        if (end < begin || end - begin > LONGEST_NAME || end > (size_t)page->names.len)
            return -1;
        memcpy(name, names + begin, end - begin);
        name[end - begin] = 0;
        unpack(records + RECORD * i, lasting, passing, &entry);
        taken = fuse_add_direntry_plus(NULL, reply + *used, room - *used, name, &entry, (off_t)(cookie + (i - first)));
        if (taken > room - *used)
            return i - first;
        *used += taken;
    }
    return stop - first;
}

/* entries(names, starts, records, first, stop, cookie, room, lasting, passing) -> (bytes, how many of them went in) */
PyObject *entries_many(PyObject *module, PyObject *arguments)
{
    struct page page;
    Py_ssize_t first, stop, room, count = -1;
    long long cookie;
    double lasting, passing;
    PyObject *reply = NULL;
    size_t used = 0;

    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*y*y*nnLndd", &page.names, &page.starts, &page.records, &first, &stop, &cookie,
                          &room, &lasting, &passing))
        return NULL;
    if (first >= 0 && first <= stop && room >= 0 && room <= MOST_BYTES && stop < PY_SSIZE_T_MAX / RECORD &&
        stop + 1 <= page.starts.len / (Py_ssize_t)sizeof(uint32_t) && RECORD * stop <= page.records.len) {
        reply = PyBytes_FromStringAndSize(NULL, room);
        if (reply)
            count = pack(&page, first, stop, cookie, PyBytes_AS_STRING(reply), (size_t)room, &used, lasting, passing);
    }
    PyBuffer_Release(&page.names);
    PyBuffer_Release(&page.starts);
    PyBuffer_Release(&page.records);
    if (count < 0) {
        Py_CLEAR(reply);
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "entries(): not a page, or not within it");
        return NULL;
    }
    if (_PyBytes_Resize(&reply, (Py_ssize_t)used) != 0)
        return NULL;
    return Py_BuildValue("(Nn)", reply, count);
}
