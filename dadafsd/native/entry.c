/* What can be sent at once: a fragment in memory, or a record that is open, with the checksums of its blocks.
 *
 * Python makes an entry when it has answered from there, and takes it out of the table when it lets go of the record or
 * of the memory. Nothing here ever waits for a disk: of a file only what the page cache has is sent (residency.py).
 */
#include "hot_reads.h"

#include <errno.h>
#include <string.h>
#include <structmember.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define STEP (1 << 20) /* sendfile moves at most so much at a time */
#define CACHESTAT 451  /* the same number on every architecture that has it */

/* --- sending ---------------------------------------------------------------------------------------------------- */

/* Whether every page with these bytes is in memory; not in the swap, and no holes. */
static int every_page_cached(int fd, uint64_t offset, uint64_t length)
{
    struct { uint64_t offset, length; } range = {offset, length};
    struct { uint64_t cached, dirty, writeback, evicted, lately; } found;
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

    memset(&found, 0, sizeof found);
    if (syscall(CACHESTAT, fd, &range, &found, 0) != 0)
        return 0;
    return found.cached == (offset + length - 1) / page - offset / page + 1;
}

static int resident_byte(int fd, int64_t offset)
{
    char byte;
    struct iovec one = {&byte, 1};

    return preadv2(fd, &one, 1, offset, RWF_NOWAIT) == 1;
}

int entry_ready(const Entry *entry, uint64_t start, uint64_t length, uint8_t *buffer)
{
    int64_t offset = entry->offset + (int64_t)start;
    struct iovec all = {buffer, length};

    if (entry->data)
        return 1;
    if (entry->in_memory && !every_page_cached(entry->fd, (uint64_t)offset, length))
        return 0;
    if (length <= SMALL)
        return preadv2(entry->fd, &all, 1, offset, entry->in_memory ? 0 : RWF_NOWAIT) == (ssize_t)length;
    if (entry->in_memory)
        return 1;
    return resident_byte(entry->fd, offset) && resident_byte(entry->fd, offset + (int64_t)length - 1);
}

static uint64_t send_file(int sock, int fd, off_t offset, uint64_t length)
{
    uint64_t sent = 0;

    while (sent < length) {
        uint64_t left = length - sent;
        ssize_t step = sendfile(sock, fd, &offset, left < STEP ? left : STEP);

        if (step <= 0) /* the socket is full; or there is an error, which whoever sends the rest meets as well */
            break;
        sent += (uint64_t)step;
    }
    return sent;
}

uint64_t entry_send(const Entry *entry, int sock, const uint8_t *head, size_t head_length, uint64_t start,
                    uint64_t length, const uint8_t *buffer, int more)
{
    int by_file = !entry->data && !buffer;
    const uint8_t *data = entry->data ? (const uint8_t *)PyBytes_AS_STRING(entry->data) + start : buffer;
    struct iovec parts[2] = {{(void *)head, head_length}, {(void *)data, length}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = by_file ? 1 : 2};
    ssize_t sent = 0;

    if (head_length || !by_file)
        sent = sendmsg(sock, &message, MSG_DONTWAIT | MSG_NOSIGNAL | (by_file || more ? MSG_MORE : 0));
    if (sent < 0)
        return 0; /* as for a file */
    if (by_file && (size_t)sent == head_length)
        return head_length + send_file(sock, entry->fd, entry->offset + (int64_t)start, length);
    return (uint64_t)sent;
}

/* --- the type --------------------------------------------------------------------------------------------------- */

static int take_checksums(Entry *self, PyObject *list)
{
    PyObject *all = PySequence_Fast(list, "checksums is a list");
    Py_ssize_t count = all ? PySequence_Fast_GET_SIZE(all) : 0;

    if (!all)
        return -1;
    if ((uint64_t)count != (self->length + BLOCK_SIZE - 1) / BLOCK_SIZE) {
        PyErr_SetString(PyExc_ValueError, "not one checksum a block");
    } else if ((self->checksums = PyMem_New(uint64_t, (size_t)count + 1))) {
        for (Py_ssize_t i = 0; i < count && !PyErr_Occurred(); i++)
            self->checksums[i] = PyLong_AsUnsignedLongLong(PySequence_Fast_GET_ITEM(all, i));
        self->blocks = (size_t)count;
    } else {
        PyErr_NoMemory();
    }
    Py_DECREF(all);
    return PyErr_Occurred() ? -1 : 0;
}

static PyObject *entry_new(PyTypeObject *type, PyObject *arguments, PyObject *names)
{
    static char *known[] = {"owner", "version", "identity", "tier", "told", "checksums", "length", "data",
                            "fd",    "offset",  "in_memory", "asks_after", NULL};
    PyObject *owner, *version, *identity, *tier, *checksums, *data = Py_None;
    const char *told;
    Py_ssize_t told_length;
    unsigned long long length;
    long long offset = 0;
    int fd = -1, in_memory = 0;
    double asks_after = -1;
    Entry *self;

    if (!PyArg_ParseTupleAndKeywords(arguments, names, "OOO!Us#OK|OiLpd", known, &owner, &version, &PyTuple_Type,
                                     &identity, &tier, &told, &told_length, &checksums, &length, &data, &fd, &offset,
                                     &in_memory, &asks_after))
        return NULL;
    if (told_length >= MOST_TOLD || length == 0 || length > INT32_MAX || offset < 0 ||
        (data == Py_None ? fd < 0 : !PyBytes_Check(data) || (uint64_t)PyBytes_GET_SIZE(data) != length)) {
        PyErr_SetString(PyExc_ValueError, "nothing that can be sent");
        return NULL;
    }
    self = (Entry *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    self->owner = Py_NewRef(owner);
    self->version = Py_NewRef(version);
    self->identity = Py_NewRef(identity);
    self->tier = Py_NewRef(tier);
    self->data = data == Py_None ? NULL : Py_NewRef(data);
    self->fd = fd;
    self->in_memory = in_memory;
    self->offset = offset;
    self->length = length;
    self->asks_ns = asks_after < 0 ? 0 : now_ns() + (int64_t)(asks_after * 1e9);
    memcpy(self->told, told, (size_t)told_length);
    self->told_length = (size_t)told_length;
    if (take_checksums(self, checksums) != 0)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static void entry_dealloc(Entry *self)
{
    PyMem_Free(self->checksums);
    Py_XDECREF(self->data);
    Py_XDECREF(self->tier);
    Py_XDECREF(self->identity);
    Py_XDECREF(self->version);
    Py_XDECREF(self->owner);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *entry_idle(Entry *self, PyObject *unused)
{
    (void)unused;
    if (!self->used_ns)
        return PyFloat_FromDouble(Py_HUGE_VAL);
    return PyFloat_FromDouble((double)(now_ns() - self->used_ns) / 1e9);
}

static PyObject *entry_asks(Entry *self, PyObject *unused)
{
    (void)unused;
    return PyBool_FromLong(self->asks_ns && now_ns() >= self->asks_ns);
}

static PyObject *entry_used(Entry *self, PyObject *unused)
{
    int used = self->used;

    (void)unused;
    self->used = 0;
    return PyBool_FromLong(used);
}

static PyMemberDef members[] = {{"owner", T_OBJECT_EX, offsetof(Entry, owner), READONLY, "whoever holds what is sent"},
                                {"dense", T_BOOL, offsetof(Entry, dense), 0, "whether it is known not to shrink"},
                                {NULL, 0, 0, 0, NULL}};

static PyMethodDef methods[] = {
    {"idle", (PyCFunction)(void (*)(void))entry_idle, METH_NOARGS, "Seconds since it was sent here last, inf: never."},
    {"used", (PyCFunction)(void (*)(void))entry_used, METH_NOARGS, "Whether it was sent here since this was last asked."},
    {"asks", (PyCFunction)(void (*)(void))entry_asks, METH_NOARGS, "Whether it is left to Python from now on."},
    {NULL, NULL, 0, NULL}};

PyTypeObject Entry_Type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "_dadafsd_hot.Entry",
    .tp_doc = "Entry(owner, version, identity, tier, told, checksums, length, data=None, fd=-1, offset=0,\n"
              "in_memory=False, asks_after=-1): a fragment that can be sent at once; see entry.c.",
    .tp_basicsize = sizeof(Entry),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = entry_new,
    .tp_dealloc = (destructor)entry_dealloc,
    .tp_methods = methods,
    .tp_members = members,
};
